"""Layers as the numbers of `operations`: what each class is in inference."""

import keras
import numpy as np
from keras import layers

from keras_multiception.fusion.operations import (
    LINEAR,
    NO_PADDING,
    Branch,
    Convolution,
    Scale,
    same_padding,
)
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D


def operations_of(layer, name, x, report):
    """Find the chain of operations that a layer is in inference.

    Args:
        layer: A built layer or another `keras.Operation`.
        name: String, its name in the new model.
        x: `keras.KerasTensor`, its input, or a structure of several.
        report: The `FusionReport`, to which is added what this folds.

    Returns:
        A list of `Convolution` and `Scale`, empty for the identity; `None` for a layer that
        stays as it is.
    """
    if isinstance(layer, layers.BatchNormalization):
        return _batch_norm(layer, name, len(x.shape), report)
    if type(layer) in _IDENTITIES or _is_linear_activation(layer):
        if layer.compute_dtype != x.dtype:  # it casts
            return None
        report.removed.append(name)
        return []
    rule = _RULES.get(type(layer))
    if rule is None or getattr(layer, "quantization_mode", None) is not None:
        return None
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    return rule(layer, name, report)


def _is_linear_activation(layer):
    return type(layer) is layers.Activation and layer.activation is LINEAR


def _batch_norm(layer, name, rank, report):
    if type(layer).__module__.split(".")[0] not in ("keras", "keras_multiception"):
        report.left[name] = f"its class {type(layer).__name__} may do more than its base class"
        return None
    if layer.axis not in (-1, rank - 1):
        report.left[name] = f"it normalizes along axis {layer.axis}, which is not the last"
        return None
    scale, shift = _scale_and_shift(layer)
    return [Scale(name, scale, shift, layer.dtype_policy)]


def _scale_and_shift(batch_norm):
    mean, variance = map(_numbers, (batch_norm.moving_mean, batch_norm.moving_variance))
    scale = 1 / np.sqrt(variance + batch_norm.epsilon)
    if batch_norm.gamma is not None:
        scale = scale * _numbers(batch_norm.gamma)
    shift = -mean * scale
    return scale, shift if batch_norm.beta is None else shift + _numbers(batch_norm.beta)


def _conv2d(layer, name, report):
    kernel = _numbers(layer.kernel)
    return [
        Convolution(
            name,
            "conv",
            (Branch(0, kernel, _padding(layer)),),
            _bias(layer, kernel.shape[-1]),
            layer.dtype_policy,
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            layer.groups,
            layer.activation,
        )
    ]


def _depthwise_conv2d(layer, name, report):
    kernel = _numbers(layer.kernel)
    return [
        Convolution(
            name,
            "depthwise",
            (Branch(0, kernel, _padding(layer)),),
            _bias(layer, kernel.shape[2] * kernel.shape[3]),
            layer.dtype_policy,
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            activation=layer.activation,
        )
    ]


def _separable_conv2d(layer, name, report):
    kernel = _numbers(layer.depthwise_kernel)
    mixing = _numbers(layer.pointwise_kernel)
    depthwise = Convolution(
        f"{name}_depthwise",
        "depthwise",
        (Branch(0, kernel, _padding(layer)),),
        np.zeros(mixing.shape[2]),
        layer.dtype_policy,
        tuple(layer.strides),
        tuple(layer.dilation_rate),
    )
    bias = _bias(layer, mixing.shape[3])
    return [depthwise, _pointwise(name, mixing, bias, layer)]


def _dense(layer, name, report):
    kernel = _numbers(layer.kernel)
    return [
        Convolution(
            name,
            "dense",
            (Branch(0, kernel[None, None]),),
            _bias(layer, kernel.shape[-1]),
            layer.dtype_policy,
            activation=layer.activation,
        )
    ]


def _multiception_conv2d(layer, name, report):
    kernels = [_numbers(conv.kernel) for conv in layer.depthwise_convs]
    mixing = _numbers(layer.pointwise_conv.kernel)
    can_move = layer.dilation_rate == (1, 1) and layer.strides[0] == layer.strides[1]
    depthwise = Convolution(
        f"{name}_depthwise",
        "depthwise",
        tuple(Branch(0, k, same_padding(k.shape[:2], layer.dilation_rate)) for k in kernels),
        np.zeros(mixing.shape[2]),
        layer.dtype_policy,
        layer.strides if can_move else (1, 1),
        layer.dilation_rate,
    )
    bias = _bias(layer.pointwise_conv, layer.filters)
    strides = (1, 1) if can_move else layer.strides
    pointwise = _pointwise(name, mixing, bias, layer, strides)
    pointwise = pointwise.after(*_scale_and_shift(layer.depthwise_bn))
    pointwise = pointwise.then(*_scale_and_shift(layer.pointwise_bn))
    report.folded += [f"{name}/depthwise_bn", f"{name}/pointwise_bn"]
    if max(layer.strides) > 1:
        (report.moved_strides if can_move else report.kept_strides).append(name)
    return [depthwise, pointwise]


def _mix_conv2d(layer, name, report):
    starts = np.cumsum([0, *layer.group_channels[:-1]]).tolist()
    kernels = [_numbers(conv.kernel) for conv in layer.convs]
    outputs = [k.shape[2] * k.shape[3] if layer.depthwise else k.shape[3] for k in kernels]
    return [
        Convolution(
            name,
            "depthwise" if layer.depthwise else "conv",
            tuple(
                Branch(start, kernel, same_padding(kernel.shape[:2], layer.dilation_rate))
                for start, kernel in zip(starts, kernels, strict=True)
            ),
            np.concatenate(list(map(_bias, layer.convs, outputs))),
            layer.dtype_policy,
            layer.strides,
            layer.dilation_rate,
            activation=layer.activation,
        )
    ]


def _pointwise(name, kernel, bias, layer, strides=(1, 1)):
    branches = (Branch(0, kernel),)
    return Convolution(
        name, "conv", branches, bias, layer.dtype_policy, strides, activation=layer.activation
    )


def _padding(layer):
    if layer.padding == "valid":
        return NO_PADDING
    if max(layer.strides) > 1:
        return "same"
    return same_padding(layer.kernel_size, layer.dilation_rate)


def _bias(layer, outputs):
    return _numbers(layer.bias) if layer.use_bias else np.zeros(outputs)


def _numbers(variable):
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


_IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
_RULES = {
    layers.Conv2D: _conv2d,
    layers.Dense: _dense,
    layers.DepthwiseConv2D: _depthwise_conv2d,
    layers.SeparableConv2D: _separable_conv2d,
    MixConv2D: _mix_conv2d,
    MulticeptionConv2D: _multiception_conv2d,
}
