"""Keras 3 models as models of `tf_keras`, which is Keras 2: the toolkit takes no others."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_multiception.graphs import (
    first_argument,
    require_equal_answers,
    require_graph,
    sample_inputs,
    unique_name,
    walk,
)
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.shake_shake import ShakeShake

_CONVOLUTION = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias", "data_format")
_POOLING = ("pool_size", "strides", "padding", "data_format")
# By the name of a class of Keras, the arguments that mean the same in both.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Activation": (),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", *_CONVOLUTION),
    "Cropping2D": ("cropping", "data_format"),
    "Dense": ("units", "use_bias"),
    "DepthwiseConv2D": ("depth_multiplier", *_CONVOLUTION),
    "Dropout": ("rate",),
    "Flatten": ("data_format",),
    "GlobalAveragePooling2D": ("keepdims", "data_format"),
    "GlobalMaxPooling2D": ("keepdims", "data_format"),
    "MaxPooling2D": _POOLING,
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": ("filters", "depth_multiplier", *_CONVOLUTION),
    "Softmax": ("axis",),
    "ZeroPadding2D": ("padding", "data_format"),
}
_ACTIVATIONS = ("elu", "gelu", "linear", "relu", "sigmoid", "silu", "softmax", "tanh")
_SATURATING = ("sigmoid", "softmax", "tanh")


def to_tf_keras(model: keras.Model, inputs: Any = None) -> Any:
    """Rebuild a Keras 3 model with the layers of `tf_keras`, and hand its weights on.

    The new model is flat: nested models are opened, and our own layers are written out.
    `MulticeptionConv2D` becomes a batch norm for each branch, which is the same, in training too,
    as one after the concatenation, and what quantization-aware training can take; Shake-Shake
    becomes the mean of its inputs. Regularizers, constraints and initializers are dropped. In
    training, moving variances of Keras 2 are averages of unbiased ones, unlike those of Keras 3.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential` of the layers that the
            networks here, and VGG, ResNet and MobileNet of `keras.applications`, have; it stays
            as it is.
        inputs: Inputs of the model, for the comparison. The default is two random ones.

    Returns:
        A Functional `tf_keras.Model`.

    Raises:
        ValueError: If the model has no graph, or a layer that this cannot rebuild; it is named.
        RuntimeError: If the new model answers otherwise than the model.

    Example:
        >>> from keras_multiception.compression import to_tf_keras
        >>> legacy = to_tf_keras(km.ResNet20())
    """
    import tf_keras

    graph = require_graph(model)
    own = tree.map_structure(
        lambda x: tf_keras.Input(
            batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name
        ),
        graph.input,
    )
    legacy = tf_keras.Model(own, walk(graph, own, _caller()), name=model.name)
    inputs = sample_inputs(model, inputs)
    linear = tf_keras.Model(legacy.input, [_before_saturation(y) for y in legacy.outputs])
    answers = linear(tree.map_structure(np.asarray, inputs), training=False)
    require_equal_answers(model, [np.asarray(y) for y in tree.flatten(answers)], inputs)
    return legacy


def import_tfmot() -> Any:
    """Import the toolkit; `tf.keras` stays what its first use, which comes before, made it."""
    import tensorflow as tf
    import tf_keras  # noqa: F401 (it makes `tf.compat.v2.keras` anew)

    for lazy in (tf.keras, tf.compat.v2.keras):
        lazy.layers  # noqa: B018
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    import tensorflow_model_optimization as tfmot

    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if before is not None:
        os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot


def require_either(model: Any) -> None:
    """Refuse what is no Functional or built Sequential model of Keras 3 or `tf_keras`."""
    import tf_keras

    if isinstance(model, keras.Model):
        require_graph(model)
    elif not isinstance(model, tf_keras.Model) or not model._is_graph_network:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one of Keras 3 or tf_keras. "
            f"Received: model={model!r}"
        )


def with_weights(layer: Any, weights: Sequence[np.ndarray]) -> Callable:
    """Return a function that calls a layer, at the first time with the weights it is to have."""

    def call(x: Any, **kwargs: Any) -> Any:
        first = not layer.built
        y = layer(x, **kwargs)
        if first and weights:
            layer.set_weights(weights)
        return y

    return call


def _caller() -> Callable:
    """Return a function that calls the layers of Keras 2 in place of those of Keras 3."""
    built: dict[int, Callable] = {}  # by the id of a layer
    names: set[str] = set()

    def call(path: tuple[str, ...], operation: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training"):
            raise ValueError(
                "`model` must have no layers that are called with training=True. "
                f"Received: {type(operation).__name__} {operation.name}"
            )
        if id(operation) not in built:
            name = operation.name
            name = "_".join((*path, name)) if name in names else name
            built[id(operation)] = _build(operation, unique_name(name, names))
        return built[id(operation)](first_argument(args, kwargs))

    return call


def _build(layer: Any, name: str) -> Callable:
    """Return a function of tensors of Keras 2 that does what a layer does."""
    kind, activation = type(layer), getattr(layer, "activation", keras.activations.linear)
    is_known = keras.activations.serialize(activation) in _ACTIVATIONS
    if is_known and kind in _WRITTEN_OUT:
        return _WRITTEN_OUT[kind](layer, name)
    is_standard = isinstance(layer, layers.Layer) and kind.__name__ in _ARGUMENTS
    if is_known and is_standard and kind.__module__.startswith(("keras.", "keras_multiception.")):
        return with_weights(_standard(layer, name), layer.get_weights())
    with_activation = getattr(activation, "__name__", type(activation).__name__)
    raise ValueError(
        "`model` must consist of layers that can be rebuilt in tf_keras. Received: "
        f"{kind.__name__} {layer.name}{'' if is_known else f' with activation={with_activation}'}"
    )


def _make(kind: str, name: str, **arguments: Any) -> Any:
    import tf_keras

    return getattr(tf_keras.layers, kind)(name=name, **arguments)


def _standard(layer: Any, name: str) -> Any:
    kind = type(layer).__name__
    arguments = {argument: getattr(layer, argument) for argument in _ARGUMENTS[kind]}
    if hasattr(layer, "activation"):
        arguments["activation"] = keras.activations.serialize(layer.activation)
    arguments |= {"dtype": layer.dtype_policy.name, "trainable": layer.trainable}
    return _make(kind, name, **arguments)


def _multiception(layer: Any, name: str) -> Callable:
    norm, branches = layer.depthwise_bn, []
    statistics = [np.split(w, len(layer.kernel_sizes)) for w in norm.get_weights()]
    for index, conv in enumerate(layer.depthwise_convs):
        part = f"{name}_depthwise_{index}"
        bn = with_weights(_standard(norm, f"{part}_bn"), [w[index] for w in statistics])
        branches.append(_chain(_build(conv, part), bn))
    concat = _make("Concatenate", f"{name}_concat", dtype=layer.dtype_policy.name)
    last, activation = _end(layer, name, "pointwise_bn")
    return _chain(
        lambda x: [branch(x) for branch in branches],
        concat if len(branches) > 1 else lambda xs: xs[0],
        _build(layer.pointwise_conv, f"{name}_pointwise"),
        _build(layer.pointwise_bn, last),
        *activation,
    )


def _mix_conv(layer: Any, name: str) -> Callable:
    dtype = layer.dtype_policy.name
    ends = np.cumsum(layer.group_channels).tolist()
    groups = []
    for index, (conv, size, end) in enumerate(
        zip(layer.convs, layer.kernel_sizes, ends, strict=True)
    ):
        part = f"{name}_group_{index}"
        # channels of images are cropped with a layer that every tool knows: the last two axes,
        # which are width and channels, as if they were height and width
        crop = ((0, 0), (end - layer.group_channels[index], ends[-1] - end))
        arguments = {"cropping": crop, "data_format": "channels_first", "dtype": dtype}
        channels = _make("Cropping2D", f"{part}_channels", **arguments)
        padding = [side // 2 if max(layer.strides) > 1 else 0 for side in size]
        pad = _make("ZeroPadding2D", f"{part}_pad", padding=padding, dtype=dtype)
        groups.append(_chain(channels, *([pad] if any(padding) else []), _build(conv, part)))
    last, activation = _end(layer, name, "concat")
    return _chain(
        lambda x: [group(x) for group in groups],
        _make("Concatenate", last, dtype=dtype),
        *activation,
    )


def _end(layer: Any, name: str, suffix: str) -> tuple[str, list]:
    """Return the name of a layer's last part but the activation, and that if there is one."""
    if layer.activation is keras.activations.linear:
        return name, []
    activation = keras.activations.serialize(layer.activation)
    layer = _make("Activation", name, activation=activation, dtype=layer.dtype_policy.name)
    return f"{name}_{suffix}", [layer]


def _chain(*functions: Callable) -> Callable:
    return lambda x: functools.reduce(lambda y, function: function(y), functions, x)


_WRITTEN_OUT: dict[type, Callable] = {
    MixConv2D: _mix_conv,
    MulticeptionConv2D: _multiception,
    ShakeShake: lambda layer, name: _make("Average", name, dtype=layer.dtype_policy.name),
}


def _before_saturation(y: Any) -> Any:
    """Return an output of a model of Keras 2 before a softmax, sigmoid or tanh at its end."""
    import tf_keras

    layer = y.node.layer
    saturates = getattr(getattr(layer, "activation", None), "__name__", "") in _SATURATING
    if isinstance(layer, tf_keras.layers.Softmax) or (
        saturates and isinstance(layer, tf_keras.layers.Activation)
    ):
        return y.node.keras_inputs[0]
    if not saturates:
        return y
    linear = type(layer).from_config(layer.get_config() | {"activation": None, "name": None})
    return with_weights(linear, layer.get_weights())(y.node.keras_inputs[0])
