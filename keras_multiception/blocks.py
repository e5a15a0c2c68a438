"""Layers and building blocks as functions from tensor to tensor, with the paper's constants.

`conv_bn` is the seam at which every backbone exchanges its convolution.
"""

import collections.abc
from typing import TypeAlias

from keras import layers

from keras_multiception.layers.arguments import (
    KernelSizes,
    Pairs,
    Tensor,
    standardize_kernel_sizes,
    strided_length,
)
from keras_multiception.layers.base_conv2d import depthwise_he_normal, he_normal, uniform_bias
from keras_multiception.layers.batch_normalization import BatchNormalization
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

CHANNELS_LAST = {"data_format": "channels_last"}
TYPES = ("standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception")
DEFAULT_KERNEL_SIZES = (3, 5, 7)  # of the types of convolution that take several
Conv: TypeAlias = str | collections.abc.Callable[..., Tensor]


def conv2d(
    x: Tensor,
    filters: int,
    kernel_size: KernelSizes,
    strides: int = 1,
    fan: str = "fan_in",
    use_bias: bool = False,
    name: str | None = None,
) -> Tensor:
    """Apply a full convolution, padded by half the kernel on every side at every stride.

    TensorFlow's own "same" pads only the end where the stride is 2 and the size even. `fan` is the
    mode of the He-normal initialization.
    """
    x, padding, (height, width) = _pad_symmetrically(x, kernel_size, strides, name)
    return layers.Conv2D(
        filters,
        (height, width),
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=he_normal(fan),
        bias_initializer=uniform_bias(x.shape[-1] * height * width),
        name=name,
        **CHANNELS_LAST,
    )(x)


def depthwise_conv2d(
    x: Tensor,
    kernel_size: KernelSizes,
    strides: int = 1,
    fan: str = "fan_in",
    name: str | None = None,
) -> Tensor:
    """Apply a depthwise convolution without a bias, padded like `conv2d`."""
    x, padding, size = _pad_symmetrically(x, kernel_size, strides, name)
    return layers.DepthwiseConv2D(
        size,
        strides=strides,
        padding=padding,
        use_bias=False,
        depthwise_initializer=depthwise_he_normal(fan),
        name=name,
        **CHANNELS_LAST,
    )(x)


def batch_norm(x: Tensor, name: str | None = None) -> Tensor:
    """Apply batch normalization with the constants of the paper's experiments."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def relu(x: Tensor, name: str | None = None, max_value: float | None = None) -> Tensor:
    """Apply ReLU, cut off at `max_value` if given."""
    return layers.ReLU(max_value=max_value, name=name)(x)


def _pad_symmetrically(
    x: Tensor, kernel_size: KernelSizes, strides: int, name: str | None
) -> tuple[Tensor, str, tuple[int, int]]:
    """Return the input, the `padding` argument and the size of a symmetrically padded kernel."""
    ((height, width),) = standardize_kernel_sizes([kernel_size])
    if strides == 1:
        return x, "same", (height, width)  # the same thing at stride 1
    if max(height, width) > 1:
        padding = layers.ZeroPadding2D(
            (height // 2, width // 2), name=_suffixed(name, "pad"), **CHANNELS_LAST
        )
        x = padding(x)
    return x, "valid", (height, width)


def _suffixed(name: str | None, suffix: str) -> str | None:
    return None if name is None else f"{name}_{suffix}"


def conv_bn(
    x: Tensor,
    filters: int,
    strides: int = 1,
    kernel_sizes: KernelSizes | None = None,
    conv: Conv = "multiception",
    fan: str = "fan_in",
    name: str | None = None,
) -> Tensor:
    """Apply a convolution of the chosen type and its batch norm: the seam of every backbone.

    The types, as in the paper's experiments:

    - `"standard"`: a k x k convolution, batch norm.
    - `"dsconv"`: a k x k depthwise convolution with the stride, a 1x1 one with a bias, batch norm.
    - `"mixconv"`: a full convolution in each group of channels, one kernel size a group, *no*
      batch norm: what the paper compared against under the name of MixConv.
    - `"mixconv_depthwise"`: MixConv as published; a depthwise convolution in each group of
      channels, a 1x1 convolution with a bias, batch norm.
    - `"multiception"`: `MulticeptionConv2D`.
    - a callable, `conv(x, filters, strides=..., kernel_sizes=..., name=...)`, that returns a
      tensor with `filters` channels and the spatial size of a same-padded convolution.

    Args:
        x: Input tensor of shape (batch, height, width, channels).
        filters: Integer, number of output channels.
        strides: Positive integer.
        kernel_sizes: As in `MulticeptionConv2D`; exactly one for `"standard"` and `"dsconv"`.
            `None` means 3 for these two and (3, 5, 7) for the others.
        conv: String or callable, the type.
        fan: `"fan_in"` or `"fan_out"`: the mode of the He-normal initialization.
        name: String, prefix of the names of the layers.

    Returns:
        A tensor of shape (batch, ceil(height / strides), ceil(width / strides), filters).

    Raises:
        ValueError: If `conv` is unknown or returns another shape, or `kernel_sizes` do not fit.

    Example:
        >>> x = keras.Input((32, 32, 16))
        >>> km.conv_bn(x, 32, strides=2, conv="dsconv").shape
        (None, 16, 16, 32)
    """
    require_conv(conv)
    takes_one = conv in ("standard", "dsconv")
    if kernel_sizes is None:
        kernel_sizes = 3 if takes_one else DEFAULT_KERNEL_SIZES
    sizes = standardize_kernel_sizes(kernel_sizes)
    if callable(conv):
        y = conv(x, filters, strides=strides, kernel_sizes=sizes, name=name)
        return _require_same_padded(y, x, filters, strides, conv)
    if takes_one and len(sizes) > 1:
        raise ValueError(
            f'`kernel_sizes` must be one size with `conv="{conv}"`. '
            f"Received: kernel_sizes={kernel_sizes!r}"
        )
    return _apply(conv, x, filters, strides, sizes, fan, name)


def require_conv(conv: Conv) -> None:
    """Refuse anything that is neither a callable nor the name of a convolution type."""
    if not callable(conv) and conv not in TYPES:
        raise ValueError(
            f"`conv` must be a callable or one of {', '.join(TYPES)}. Received: conv={conv!r}"
        )


def basic_block(
    x: Tensor,
    filters: int,
    strides: int,
    conv: Conv,
    kernel_sizes: KernelSizes | None,
    name: str,
    se_ratio: float | None = None,
) -> Tensor:
    """Apply the residual block of the CIFAR ResNets; its first convolution is replaceable.

    conv_bn -> ReLU -> 3x3 convolution -> batch norm -> squeeze-and-excitation, if any -> add the
    shortcut -> ReLU. The shortcut is the identity, or a strided 1x1 convolution and batch norm
    where the width changes.
    """
    shortcut = x
    if x.shape[-1] != filters or strides != 1:
        shortcut = conv2d(x, filters, 1, strides, name=f"{name}_shortcut_conv")
        shortcut = batch_norm(shortcut, f"{name}_shortcut_bn")
    x = conv_bn(x, filters, strides, kernel_sizes, conv, name=f"{name}_conv1")
    x = relu(x, f"{name}_relu1")
    x = conv2d(x, filters, 3, name=f"{name}_conv2")
    x = batch_norm(x, f"{name}_bn2")
    if se_ratio is not None:
        x = squeeze_excite(x, se_ratio, f"{name}_se")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return relu(x, f"{name}_out")


def squeeze_excite(x: Tensor, ratio: float, name: str) -> Tensor:
    """Scale each channel by a factor in 0..1 that two dense layers find from all channels' means.

    `ratio` is the number of hidden units for each channel (Hu et al., CVPR 2018; without biases).
    """
    channels = x.shape[-1]
    hidden = max(1, int(channels * ratio))
    scale = layers.GlobalAveragePooling2D(name=f"{name}_pool", **CHANNELS_LAST)(x)
    for units, activation, part in ((hidden, "relu", "reduce"), (channels, "sigmoid", "expand")):
        scale = layers.Dense(
            units,
            activation=activation,
            use_bias=False,
            kernel_initializer=uniform_bias(scale.shape[-1]),
            name=f"{name}_{part}",
        )(scale)
    scale = layers.Reshape((1, 1, channels), name=f"{name}_reshape")(scale)
    return layers.Multiply(name=f"{name}_scale")([x, scale])


def _apply(
    conv: str, x: Tensor, filters: int, strides: int, sizes: Pairs, fan: str, name: str | None
) -> Tensor:
    """Apply a convolution of a named type; see `conv_bn`."""
    if conv == "standard":
        x = conv2d(x, filters, sizes[0], strides, fan, name=_suffixed(name, "conv"))
        return batch_norm(x, _suffixed(name, "bn"))
    if conv == "mixconv":
        kernel = he_normal(fan)
        layer = MixConv2D(
            filters, sizes, strides, depthwise=False, kernel_initializer=kernel, name=name
        )
        return layer(x)
    if conv == "multiception":
        return MulticeptionConv2D(
            filters,
            sizes,
            strides,
            depthwise_initializer=depthwise_he_normal(fan),
            pointwise_initializer=he_normal(fan),
            name=name,
        )(x)
    # depthwise separable, or MixConv as published
    first, second = _suffixed(name, "depthwise"), _suffixed(name, "pointwise")
    if conv == "dsconv":
        x = depthwise_conv2d(x, sizes[0], strides, fan, first)
    else:
        kernel = depthwise_he_normal(fan)
        x = MixConv2D(None, sizes, strides, kernel_initializer=kernel, name=first)(x)
    x = conv2d(x, filters, 1, fan=fan, use_bias=True, name=second)
    return batch_norm(x, _suffixed(second, "bn"))


def _require_same_padded(y: Tensor, x: Tensor, filters: int, strides: int, conv: Conv) -> Tensor:
    expected = (*(strided_length(length, strides) for length in x.shape[1:3]), filters)
    if tuple(getattr(y, "shape", ())[1:]) != expected:
        raise ValueError(
            f"`conv` must return a tensor of shape (batch, {', '.join(map(str, expected))}). "
            f"Received: {getattr(conv, '__name__', conv)} returned "
            f"{getattr(y, 'shape', type(y).__name__)}"
        )
    return y
