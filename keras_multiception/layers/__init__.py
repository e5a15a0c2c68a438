"""The convolution layers."""

from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

__all__ = ["MixConv2D", "MulticeptionConv2D"]
