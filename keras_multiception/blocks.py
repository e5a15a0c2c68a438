"""Building blocks: functions from tensor to tensor.

`conv_bn` is the seam at which every backbone exchanges its convolution.
"""

from keras import layers

from keras_multiception.layers.arguments import standardize_kernel_sizes, strided_length
from keras_multiception.layers.initializers import depthwise_he_normal, he_normal, uniform_bias
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.primitives import (
    CHANNELS_LAST,
    batch_norm,
    conv2d,
    depthwise_conv2d,
    relu,
    suffixed,
)

DEFAULT_KERNEL_SIZES = (3, 5, 7)  # of the types of convolution that take several


def conv_bn(x, filters, strides=1, kernel_sizes=None, conv="multiception", fan="fan_in", name=None):
    """Apply a convolution of the chosen type and its batch norm: the seam of every backbone.

    The types, as in the paper's experiments:

    - `"standard"`: a k x k convolution, batch norm.
    - `"dsconv"`: depthwise separable; a k x k depthwise convolution with the stride, a 1x1
      convolution with a bias, batch norm.
    - `"mixconv"`: a full convolution in each group of channels, one kernel size a group, *no*
      batch norm: what the paper compared against under the name of MixConv.
    - `"mixconv_depthwise"`: MixConv as published; a depthwise convolution in each group of
      channels, a 1x1 convolution with a bias, batch norm.
    - `"multiception"`: `MulticeptionConv2D`.
    - a callable, `conv(x, filters, strides=..., kernel_sizes=..., name=...)`, that returns a
      tensor with `filters` channels and the spatial size of a same-padded convolution.

    Args:
        x: Input tensor.
        filters: Integer, number of output channels.
        strides: Positive integer.
        kernel_sizes: Kernel sizes as in `MulticeptionConv2D`. `"standard"` and `"dsconv"` take
            exactly one. `None` means 3 for these two and (3, 5, 7) for the others.
        conv: String or callable, the type.
        fan: `"fan_in"` or `"fan_out"`: the mode of the He-normal initialization.
        name: String, prefix of the names of the layers.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Returns:
        The output tensor.

    Raises:
        ValueError: If `conv` is unknown, `kernel_sizes` does not fit it, or a callable returns
            another shape.

    Example:
        >>> x = keras.Input((32, 32, 16))
        >>> km.conv_bn(x, 32, strides=2, conv="dsconv").shape
        (None, 16, 16, 32)
    """
    if callable(conv):
        sizes = standardize_kernel_sizes(
            DEFAULT_KERNEL_SIZES if kernel_sizes is None else kernel_sizes
        )
        y = conv(x, filters, strides=strides, kernel_sizes=sizes, name=name)
        return _require_same_padded(y, x, filters, strides, conv)
    require_conv(conv)
    if kernel_sizes is None:
        kernel_sizes = 3 if conv in _ONE_KERNEL_SIZE else DEFAULT_KERNEL_SIZES
    sizes = standardize_kernel_sizes(kernel_sizes)
    if conv in _ONE_KERNEL_SIZE and len(sizes) > 1:
        raise ValueError(
            f'`kernel_sizes` must be one size with `conv="{conv}"`. '
            f"Received: kernel_sizes={kernel_sizes!r}"
        )
    return _CONVOLUTIONS[conv](x, filters, strides, sizes, fan, name)


def require_conv(conv):
    """Refuse anything that is neither a callable nor the name of a convolution type.

    Args:
        conv: What a user passed as `conv`.

    Raises:
        ValueError: If `conv` is unknown.
    """
    if not callable(conv) and conv not in tuple(_CONVOLUTIONS):
        raise ValueError(
            f"`conv` must be a callable or one of {', '.join(_CONVOLUTIONS)}. "
            f"Received: conv={conv!r}"
        )


def basic_block(x, filters, strides, conv, kernel_sizes, name, se_ratio=None):
    """Apply the residual block of the CIFAR ResNets; its first convolution is replaceable.

    conv_bn -> ReLU -> 3x3 convolution -> batch norm -> squeeze-and-excitation, if any -> add the
    shortcut -> ReLU. The shortcut is the identity, or a strided 1x1 convolution and batch norm
    where the width changes.

    Args:
        x: Input tensor.
        filters: Integer, number of output channels.
        strides: Positive integer, the stride of the first convolution.
        conv: Type of the first convolution, as in `conv_bn`.
        kernel_sizes: Its kernel sizes.
        name: String, prefix of the names of the layers.
        se_ratio: `None`, or the ratio of `squeeze_excite`.

    Returns:
        The output tensor, `(batch, ceil(height / strides), ceil(width / strides), filters)`.
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


def squeeze_excite(x, ratio, name):
    """Scale each channel by a factor in 0..1 that two dense layers find from all channels' means.

    Args:
        x: Input tensor.
        ratio: Float, hidden units for each channel.
        name: String, prefix of the names of the layers.

    Returns:
        The output tensor, of the shape of `x`.

    Reference:
        Hu et al., Squeeze-and-Excitation Networks (CVPR 2018); without biases.
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


def _standard(x, filters, strides, kernel_sizes, fan, name):
    x = conv2d(x, filters, kernel_sizes[0], strides, fan, name=suffixed(name, "conv"))
    return batch_norm(x, suffixed(name, "bn"))


def _dsconv(x, filters, strides, kernel_sizes, fan, name):
    x = depthwise_conv2d(x, kernel_sizes[0], strides, fan, suffixed(name, "depthwise"))
    return _pointwise_bn(x, filters, fan, name)


def _mixconv(x, filters, strides, kernel_sizes, fan, name):
    return MixConv2D(
        filters,
        kernel_sizes,
        strides,
        depthwise=False,
        kernel_initializer=he_normal(fan),
        name=name,
    )(x)


def _mixconv_depthwise(x, filters, strides, kernel_sizes, fan, name):
    x = MixConv2D(
        kernel_sizes=kernel_sizes,
        strides=strides,
        kernel_initializer=depthwise_he_normal(fan),
        name=suffixed(name, "depthwise"),
    )(x)
    return _pointwise_bn(x, filters, fan, name)


def _multiception(x, filters, strides, kernel_sizes, fan, name):
    return MulticeptionConv2D(
        filters,
        kernel_sizes,
        strides,
        depthwise_initializer=depthwise_he_normal(fan),
        pointwise_initializer=he_normal(fan),
        name=name,
    )(x)


_CONVOLUTIONS = {
    "standard": _standard,
    "dsconv": _dsconv,
    "mixconv": _mixconv,
    "mixconv_depthwise": _mixconv_depthwise,
    "multiception": _multiception,
}
_ONE_KERNEL_SIZE = ("standard", "dsconv")


def _pointwise_bn(x, filters, fan, name):
    name = suffixed(name, "pointwise")
    x = conv2d(x, filters, 1, fan=fan, use_bias=True, name=name)
    return batch_norm(x, suffixed(name, "bn"))


def _require_same_padded(y, x, filters, strides, conv):
    expected = (*(strided_length(length, strides) for length in x.shape[1:3]), filters)
    if tuple(getattr(y, "shape", ())[1:]) != expected:
        raise ValueError(
            f"`conv` must return a tensor of shape (batch, {', '.join(map(str, expected))}). "
            f"Received: {getattr(conv, '__name__', conv)} returned "
            f"{getattr(y, 'shape', type(y).__name__)}"
        )
    return y
