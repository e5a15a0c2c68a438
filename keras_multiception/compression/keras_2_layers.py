"""Layers of Keras 3 in terms of Keras 2: which arguments to hand on, and our own written out."""

import functools

import keras
import numpy as np
from keras import layers

from keras_multiception.compression.keras_2_operations import layer_of, take
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.shake_shake import ShakeShake

_CONVOLUTION = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias", "data_format")
_POOLING = ("pool_size", "strides", "padding", "data_format")
# by class, the arguments that mean the same in both
_ARGUMENTS: dict = {
    layers.Activation: (),
    layers.Add: (),
    layers.Average: (),
    layers.AveragePooling2D: _POOLING,
    layers.BatchNormalization: ("axis", "momentum", "epsilon", "center", "scale"),
    layers.Concatenate: ("axis",),
    layers.Conv2D: ("filters", "groups", *_CONVOLUTION),
    layers.Cropping2D: ("cropping", "data_format"),
    layers.Dense: ("units", "use_bias"),
    layers.Conv2DTranspose: ("filters", "output_padding", *_CONVOLUTION),
    layers.DepthwiseConv2D: ("depth_multiplier", *_CONVOLUTION),
    layers.Dropout: ("rate",),
    layers.ELU: ("alpha",),
    layers.Flatten: ("data_format",),
    layers.GaussianDropout: ("rate",),
    layers.GaussianNoise: ("stddev",),
    layers.GlobalAveragePooling2D: ("keepdims", "data_format"),
    layers.GlobalMaxPooling2D: ("keepdims", "data_format"),
    layers.Maximum: (),
    layers.MaxPooling2D: _POOLING,
    layers.Minimum: (),
    layers.Multiply: (),
    layers.Permute: ("dims",),
    layers.PReLU: ("shared_axes",),
    layers.ReLU: ("max_value", "negative_slope", "threshold"),
    layers.Rescaling: ("scale", "offset"),
    layers.Reshape: ("target_shape",),
    layers.SeparableConv2D: ("filters", "depth_multiplier", *_CONVOLUTION),
    layers.Softmax: ("axis",),
    layers.SpatialDropout2D: ("rate", "data_format"),
    layers.Subtract: (),
    layers.UpSampling2D: ("size", "interpolation", "data_format"),
    layers.ZeroPadding2D: ("padding", "data_format"),
}
_ACTIVATIONS = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)


def is_known(operation):
    """Return whether `build_layer` can rebuild an operation of Keras.

    Args:
        operation: A built layer or another `keras.Operation`.

    Returns:
        A boolean.
    """
    if not isinstance(operation, layers.Layer):
        return layer_of(operation) is not None
    if getattr(operation, "quantization_mode", None) is not None:
        return False
    kind = _standard_class(operation)
    if kind is None and type(operation) not in _WRITTEN_OUT:
        return False
    activation = getattr(operation, "activation", keras.activations.linear)
    return keras.activations.serialize(activation) in _ACTIVATIONS


def build_layer(layer, name):
    """Make the layers of Keras 2 that do what one of Keras 3 does, with its weights.

    Args:
        layer: A layer that `is_known`.
        name: String, the name of the new one, or of the last of several.

    Returns:
        A function from a tensor, or a list of tensors, to a tensor.
    """
    kind = _standard_class(layer)
    if kind is None:
        return _WRITTEN_OUT[type(layer)](layer, name)
    return _with_weights(_standard(layer, name, kind), _weights(layer))


def _standard_class(layer):
    """Return the class of Keras that a layer is of; our faster batch norm is Keras' own."""
    if isinstance(layer, layers.BatchNormalization):
        known = type(layer).__module__.split(".")[0] in ("keras", "keras_multiception")
        return layers.BatchNormalization if known and not layer.renorm else None
    return type(layer) if type(layer) in _ARGUMENTS else None


def _standard(layer, name, kind, **changes):
    import tf_keras

    arguments = {argument: getattr(layer, argument) for argument in _ARGUMENTS[kind]}
    if hasattr(layer, "activation"):
        arguments["activation"] = keras.activations.serialize(layer.activation)
    arguments |= {"name": name, "dtype": layer.dtype_policy.name, "trainable": layer.trainable}
    arguments.update(changes)
    return getattr(tf_keras.layers, kind.__name__)(**arguments)


def _weights(layer):
    """Return the weights of a layer as arrays, with what LoRA adds to its kernel."""
    if not getattr(layer, "lora_enabled", False):
        return layer.get_weights()
    bias = [layer.bias] if layer.use_bias else []
    return [keras.ops.convert_to_numpy(x) for x in (layer.kernel, *bias)]


def _with_weights(layer, weights):
    """Return a function that calls a layer, at the first time with the weights it is to have."""

    def call(x):
        first = not layer.built
        y = layer(x)
        if first and weights:
            layer.set_weights(weights)
        return y

    return call


def _multiception(layer, name):
    import tf_keras

    norm = layer.depthwise_bn
    branches = []
    statistics = [np.split(w, len(layer.kernel_sizes)) for w in norm.get_weights()]
    for index, conv in enumerate(layer.depthwise_convs):
        part = f"{name}_depthwise_{index}"
        bn = _standard(norm, f"{part}_bn", layers.BatchNormalization)
        branches.append(
            _chain(
                build_layer(conv, part), _with_weights(bn, [weight[index] for weight in statistics])
            )
        )
    concatenate = tf_keras.layers.Concatenate(name=f"{name}_concat", dtype=layer.dtype_policy.name)
    return _chain(
        lambda x: [branch(x) for branch in branches],
        concatenate if len(branches) > 1 else lambda xs: xs[0],
        build_layer(layer.pointwise_conv, f"{name}_pointwise"),
        *_with_activation(
            layer, name, lambda part: build_layer(layer.pointwise_bn, part), "pointwise_bn"
        ),
    )


def _mix_conv(layer, name):
    import tf_keras

    dtype = layer.dtype_policy.name
    ends = np.cumsum(layer.group_channels).tolist()
    groups = []
    for index, (conv, size, end) in enumerate(
        zip(layer.convs, layer.kernel_sizes, ends, strict=True)
    ):
        part = f"{name}_group_{index}"
        padding = [side // 2 if max(layer.strides) > 1 else 0 for side in size]
        pad = tf_keras.layers.ZeroPadding2D(padding, name=f"{part}_pad", dtype=dtype)
        channels = slice(end - layer.group_channels[index], end)
        groups.append(
            (
                functools.partial(take, key=(..., channels), name=f"{part}_channels"),
                pad if any(padding) else lambda x: x,
                build_layer(conv, part),
            )
        )
    return _chain(
        lambda x: [conv(pad(channels(x))) for channels, pad, conv in groups],
        *_with_activation(
            layer,
            name,
            lambda part: tf_keras.layers.Concatenate(name=part, dtype=dtype),
            "concat",
        ),
    )


def _with_activation(layer, name, last, suffix):
    """Return the last function of a layer, and its activation if it has one."""
    import tf_keras

    if layer.activation is keras.activations.linear:
        return [last(name)]
    activation = keras.activations.serialize(layer.activation)
    return [
        last(f"{name}_{suffix}"),
        tf_keras.layers.Activation(activation, name=name, dtype=layer.dtype_policy.name),
    ]


def _leaky_relu(layer, name):
    import tf_keras

    return tf_keras.layers.LeakyReLU(layer.negative_slope, name=name, dtype=layer.dtype_policy.name)


def _shake_shake(layer, name):
    import tf_keras

    return tf_keras.layers.Average(name=name, dtype=layer.dtype_policy.name)


def _chain(*functions):
    def call(x):
        for function in functions:
            x = function(x)
        return x

    return call


_WRITTEN_OUT = {
    MixConv2D: _mix_conv,
    MulticeptionConv2D: _multiception,
    ShakeShake: _shake_shake,
    layers.LeakyReLU: _leaky_relu,
}
