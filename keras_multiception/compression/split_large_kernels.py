"""Depthwise kernels that are too large for the kernels of LiteRT, in parts.

XNNPACK, with which LiteRT computes on CPUs, convolves a channel with 25 weights at most, as of
5x5. A 7x7 kernel takes a loop of LiteRT's own, which is many times slower, above all in 8 bits.
The convolutions with parts of the kernel add up to the same.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_multiception.layers.arguments import strided_length

LIMIT = 25  # weights of a channel
Pairs = tuple[tuple[int, int], tuple[int, int]]  # of the starts and ends of height and width


class Part(NamedTuple):
    """A rectangle of a kernel, and how much of the padded input it does not meet at each side."""

    rows: slice
    columns: slice
    crop: Pairs

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Its height and width."""
        return tuple(x.stop - x.start for x in (self.rows, self.columns))


def divide(layer: Any, size: Sequence) -> tuple[Pairs, list[Part]] | None:
    """Divide a large depthwise convolution of either Keras, for an input of a height and width.

    Returned are the zeros around the input and as few parts as possible, those that meet zeros
    alone left out, as XNNPACK demands; `None` for any other layer, and for an unknown size.
    """
    if (
        type(layer).__name__ != "DepthwiseConv2D"
        or layer.data_format != "channels_last"
        or max(layer.dilation_rate) > 1
        or math.prod(layer.kernel_size) <= LIMIT
        or None in size
    ):
        return None
    steps = [(rows, LIMIT // rows) for rows in range(1, LIMIT + 1)]
    step = min(steps, key=lambda x: math.prod(map(strided_length, layer.kernel_size, x)))
    margins: Any = ((0, 0), (0, 0))
    if layer.padding == "same":
        margins = tuple(map(_margin, size, layer.kernel_size, layer.strides))
    rows, columns = map(_cut, layer.kernel_size, step, margins, size)
    return margins, [Part(x[0], y[0], (x[1], y[1])) for x in rows for y in columns]


@contextlib.contextmanager
def large_kernels_split(model: Any) -> Iterator[None]:
    """Make the large depthwise convolutions of a model compute in parts while it is traced."""
    depthwise = [x for x in model._flatten_layers() if type(x).__name__ == "DepthwiseConv2D"]
    try:
        for layer in depthwise:
            layer.call = functools.partial(_call, layer, layer.call)
        yield
    finally:
        for layer in depthwise:
            del layer.call


def _call(layer: Any, whole: Any, x: Any) -> Any:
    import tensorflow as tf

    division = divide(layer, tuple(x.shape[1:3]))
    if division is None:
        return whole(x)
    padding, parts = division
    is_keras_3 = isinstance(layer, keras.layers.Layer)
    kernel = tf.convert_to_tensor(layer.kernel if is_keras_3 else layer.depthwise_kernel)
    x = tf.pad(x, ((0, 0), *padding, (0, 0)))

    def convolve(part: Part) -> Any:
        rows, columns = (slice(start, -end or None) for start, end in part.crop)
        return tf.nn.depthwise_conv2d(
            x[:, rows, columns],
            kernel[part.rows, part.columns],
            (1, *layer.strides, 1),
            "VALID",
        )

    first, *others = map(convolve, parts)
    if layer.use_bias:
        first += tf.convert_to_tensor(layer.bias)
    y = functools.reduce(tf.add, others, first)  # two at a time: what has an 8-bit form
    return y if layer.activation is None else layer.activation(y)


def _cut(
    length: int, step: int, margin: tuple[int, int], size: int
) -> list[tuple[slice, tuple[int, int]]]:
    """Cut an axis of a kernel into parts and their crops, but for those that meet zeros alone."""
    starts = range(0, length, step)
    parts = [(slice(i, min(i + step, length)), (i, max(length - step - i, 0))) for i in starts]
    return [(part, crop) for part, crop in parts if max(np.subtract(crop, margin)) < size]


def _margin(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return the zeros that `padding="same"` puts at both ends of an axis."""
    margin = max(0, (strided_length(size, stride) - 1) * stride + kernel_size - size)
    return margin // 2, margin - margin // 2
