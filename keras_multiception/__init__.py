"""Depthwise Multiception convolution for Keras 3.

    import keras_multiception as km

    x = km.layers.MulticeptionConv2D(64, (3, 5, 7))(x)   # a layer for your network
    model = km.ResNet20(conv="multiception")             # a network of the paper

Importing the package imports Keras and NumPy only, and registers its layers with Keras, so that
`keras.models.load_model` finds them.
"""

from keras_multiception import layers, optimizers, preprocessing
from keras_multiception.applications import (
    ResNet20,
    ResNet32,
    ResNet50,
    ResNet56,
    ResNet110,
    create_model,
    list_models,
)
from keras_multiception.blocks import conv_bn
from keras_multiception.torch_import import load_torch_state_dict
from keras_multiception.version import __version__

__all__ = [
    "ResNet20",
    "ResNet32",
    "ResNet50",
    "ResNet56",
    "ResNet110",
    "__version__",
    "conv_bn",
    "create_model",
    "layers",
    "list_models",
    "load_torch_state_dict",
    "optimizers",
    "preprocessing",
]
