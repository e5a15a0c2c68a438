"""Depthwise Multiception convolution for Keras 3.

    import keras_multiception as km

    x = km.layers.MulticeptionConv2D(64, (3, 5, 7))(x)   # a layer for your network
    model = km.ResNet20(conv="multiception")             # a network of the paper

Importing the package imports Keras and NumPy only, and registers its layers with Keras, so that
`keras.models.load_model` finds them. Import it before TensorFlow, for which it turns oneDNN on.
"""

from keras_multiception.startup import load_keras

load_keras()
# ruff: noqa: E402
from keras_multiception import equations, kernels, layers, optimizers, preprocessing, scale_analysis
from keras_multiception.applications import (
    MobileNetV2,
    ResNet20,
    ResNet32,
    ResNet50,
    ResNet56,
    ResNet110,
    SEResNet20,
    SEResNet32,
    SEResNet50,
    SEResNet56,
    SEResNet110,
    ShakeShake26,
    create_model,
    feature_extractor,
    list_models,
)
from keras_multiception.blocks import conv_bn
from keras_multiception.cost import cost
from keras_multiception.engines import inference_function
from keras_multiception.export import export_onnx, export_saved_model
from keras_multiception.fusion import fuse
from keras_multiception.replacement import replace_convolutions
from keras_multiception.torch_import import load_torch_state_dict
from keras_multiception.version import __version__

__all__ = [
    "MobileNetV2",
    "ResNet20",
    "ResNet32",
    "ResNet50",
    "ResNet56",
    "ResNet110",
    "SEResNet20",
    "SEResNet32",
    "SEResNet50",
    "SEResNet56",
    "SEResNet110",
    "ShakeShake26",
    "__version__",
    "conv_bn",
    "cost",
    "create_model",
    "equations",
    "export_onnx",
    "export_saved_model",
    "feature_extractor",
    "fuse",
    "inference_function",
    "kernels",
    "layers",
    "list_models",
    "load_torch_state_dict",
    "optimizers",
    "preprocessing",
    "replace_convolutions",
    "scale_analysis",
]
