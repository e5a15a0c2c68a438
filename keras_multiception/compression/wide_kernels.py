"""Depthwise kernels that are too large for the kernels of LiteRT, in parts.

XNNPACK, with which LiteRT computes on CPUs, convolves a channel with 25 weights at most, those of
5x5. Of a 7x7 kernel LiteRT makes a loop of its own, which is many times slower, above all in 8 bits
(measured). The convolutions with parts of the kernel add up
to the same.
"""

import contextlib
import functools
import itertools
from typing import NamedTuple

import keras

LIMIT = 25  # weights of a channel


class Part(NamedTuple):
    """A rectangle of a kernel, and what of the padded input it meets.

    Attributes:
        rows: Slice of the kernel's rows.
        columns: Slice of its columns.
        crop: Positions to leave out of the padded input, `((top, bottom), (left, right))`.
    """

    rows: slice
    columns: slice
    crop: tuple[tuple[int, int], tuple[int, int]]

    @property
    def kernel_size(self):
        """Its height and width."""
        return tuple(x.stop - x.start for x in (self.rows, self.columns))


def parts_of(kernel_size, dilation=(1, 1)):
    """Divide a kernel into as few rectangles as possible that LiteRT is fast with.

    Args:
        kernel_size: Height and width.
        dilation: That of the convolution, for height and width.

    Returns:
        A list of `Part`, a single one if the kernel is small enough.
    """
    height, width = kernel_size
    sizes = [(rows, LIMIT // rows) for rows in range(1, LIMIT + 1)]
    rows, columns = min(sizes, key=lambda size: -(-height // size[0]) * -(-width // size[1]))
    if height * width <= LIMIT:
        rows, columns = height, width
    return [
        Part(*both, tuple(map(_crop, both, kernel_size, dilation)))
        for both in itertools.product(_slices(height, rows), _slices(width, columns))
    ]


def divide(layer, size):
    """Divide a depthwise convolution that LiteRT is slow with.

    Args:
        layer: A `DepthwiseConv2D` of Keras 3 or `tf_keras` that `is_wide`.
        size: Height and width of its input, `None` where unknown.

    Returns:
        The zeros around the input, `((top, bottom), (left, right))`, and a list of `Part`, without
        those that meet nothing but these zeros; or `None` if it is to stay whole, as where the
        zeros depend on a size that is unknown.
    """
    margins = ((0, 0), (0, 0))
    if layer.padding == "same":
        margins = tuple(map(_margin, size, layer.kernel_size, layer.strides, layer.dilation_rate))
    if None in margins:
        return None
    parts = parts_of(layer.kernel_size, layer.dilation_rate)
    return margins, [part for part in parts if all(map(_meets, part.crop, margins, size))]


def is_wide(layer):
    """Return whether a layer is a depthwise convolution that LiteRT is slow with.

    Args:
        layer: A layer of Keras 3 or `tf_keras`.

    Returns:
        A boolean.
    """
    if type(layer).__name__ != "DepthwiseConv2D" or layer.data_format != "channels_last":
        return False
    height, width = layer.kernel_size
    return height * width > LIMIT


@contextlib.contextmanager
def computed_in_parts(model):
    """Make the wide depthwise convolutions of a model compute in parts, for tracing it.

    Args:
        model: A model of Keras 3 on TensorFlow, or of `tf_keras`; it has all its layers back at the
            end of the context.
    """
    wide = [layer for layer in model._flatten_layers() if is_wide(layer)]
    try:
        for layer in wide:
            layer.call = functools.partial(_call, layer, layer.call)
        yield
    finally:
        for layer in wide:
            del layer.call


def _call(layer, whole, x):
    import tensorflow as tf

    division = divide(layer, tuple(x.shape[1:3]))
    if division is None:
        return whole(x)
    padding, parts = division
    is_keras_3 = isinstance(layer, keras.layers.Layer)
    kernel = tf.convert_to_tensor(layer.kernel if is_keras_3 else layer.depthwise_kernel)
    x = tf.pad(x, ((0, 0), *padding, (0, 0)))
    first, *others = [
        tf.nn.depthwise_conv2d(
            _cropped(x, part.crop),
            kernel[part.rows, part.columns],
            (1, *layer.strides, 1),
            "VALID",
            dilations=layer.dilation_rate,
        )
        for part in parts
    ]
    if layer.use_bias:
        first += tf.convert_to_tensor(layer.bias)
    y = functools.reduce(tf.add, others, first)  # two at a time: what has an 8-bit form
    return y if layer.activation is None else layer.activation(y)


def _cropped(x, crop):
    height, width = (slice(start, -end or None) for start, end in crop)
    return x[:, height, width]


def _slices(size, step):
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _crop(part, size, dilation):
    return part.start * dilation, (size - part.stop) * dilation


def _meets(crop, margin, size):
    """Return whether what a crop leaves of a padded axis has any of the input."""
    return size is None or (crop[0] < margin[0] + size and crop[1] < margin[1] + size)


def _margin(size, kernel_size, stride, dilation):
    """Return the zeros that `padding="same"` puts at both ends of an axis."""
    reach = (kernel_size - 1) * dilation
    if stride == 1:
        margin = reach
    elif size is None:
        return None
    else:
        margin = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
    return margin // 2, margin - margin // 2
