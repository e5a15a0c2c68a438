"""Depthwise Multiception convolution for Keras 3."""

from keras_multiception.version import __version__

__all__ = ["__version__"]
