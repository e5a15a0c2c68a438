"""Single layers as functions of a tensor, with the constants of the paper's experiments."""

from keras import layers

from keras_multiception.layers.arguments import standardize_kernel_sizes
from keras_multiception.layers.batch_normalization import BatchNormalization
from keras_multiception.layers.initializers import depthwise_he_normal, he_normal, uniform_bias

CHANNELS_LAST = {"data_format": "channels_last"}


def conv2d(x, filters, kernel_size, strides=1, fan="fan_in", use_bias=False, name=None):
    """Apply a full convolution, padded by half the kernel on every side at every stride.

    TensorFlow's own "same" pads only the end where the stride is 2 and the size even, and so
    looks at other positions.

    Args:
        x: Input tensor.
        filters: Integer, number of output channels.
        kernel_size: Odd integer or pair of odd integers.
        strides: Positive integer.
        fan: Mode of the He-normal initialization.
        use_bias: Boolean, whether to add a bias.
        name: String, the name of the layer.

    Returns:
        The output tensor.
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


def depthwise_conv2d(x, kernel_size, strides=1, fan="fan_in", name=None):
    """Apply a depthwise convolution without a bias, padded like `conv2d`.

    Args:
        x: Input tensor.
        kernel_size: Odd integer or pair of odd integers.
        strides: Positive integer.
        fan: Mode of the He-normal initialization.
        name: String, the name of the layer.

    Returns:
        The output tensor.
    """
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


def batch_norm(x, name=None):
    """Apply batch normalization with the constants of the paper's experiments.

    Args:
        x: Input tensor.
        name: String, the name of the layer.

    Returns:
        The output tensor.
    """
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def relu(x, name=None, max_value=None):
    """Apply ReLU.

    Args:
        x: Input tensor.
        name: String, the name of the layer.
        max_value: `None`, or where to cut off: 6 for ReLU6.

    Returns:
        The output tensor.
    """
    return layers.ReLU(max_value=max_value, name=name)(x)


def _pad_symmetrically(x, kernel_size, strides, name):
    """Return the input, the `padding` argument and the size of a symmetrically padded kernel."""
    ((height, width),) = standardize_kernel_sizes([kernel_size])
    if strides == 1:
        return x, "same", (height, width)  # the same thing at stride 1
    if max(height, width) > 1:
        padding = layers.ZeroPadding2D(
            (height // 2, width // 2), name=suffixed(name, "pad"), **CHANNELS_LAST
        )
        x = padding(x)
    return x, "valid", (height, width)


def suffixed(name, suffix):
    """Return the name with a suffix; `None` stays `None`."""
    return None if name is None else f"{name}_{suffix}"
