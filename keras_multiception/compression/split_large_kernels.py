"""Depthwise kernels that are too large for the kernels of LiteRT, in parts.

XNNPACK, with which LiteRT computes on CPUs, convolves a channel with 25 weights at most, as of
5x5. A 7x7 kernel takes a loop of LiteRT's own, which is many times slower, above all in 8 bits.
The convolutions with parts of the kernel add up to the same.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

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


def parts_of(kernel_size: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> list[Part]:
    """Divide a kernel into as few rectangles as possible that LiteRT is fast with."""
    height, width = kernel_size
    sizes = [(rows, LIMIT // rows) for rows in range(1, LIMIT + 1)]
    step = min(sizes, key=lambda size: -(-height // size[0]) * -(-width // size[1]))
    if height * width <= LIMIT:
        step = kernel_size

    def crop(part: slice, axis: int) -> tuple[int, int]:
        before, after = part.start, kernel_size[axis] - part.stop
        return before * dilation[axis], after * dilation[axis]

    return [
        Part(rows, columns, (crop(rows, 0), crop(columns, 1)))
        for rows in _slices(height, step[0])
        for columns in _slices(width, step[1])
    ]


def divide(layer: Any, size: tuple[int | None, ...]) -> tuple[Pairs, list[Part]] | None:
    """Divide a depthwise convolution of either Keras, for an input of a height and width.

    Returned are the zeros around the input and the parts that meet more than these, as XNNPACK
    demands; `None` if the layer is no large depthwise convolution, or the zeros depend on a size
    that is unknown.
    """
    if type(layer).__name__ != "DepthwiseConv2D" or layer.data_format != "channels_last":
        return None
    if math.prod(layer.kernel_size) <= LIMIT:
        return None
    margins: Any = ((0, 0), (0, 0))
    if layer.padding == "same":
        margins = tuple(map(_margin, size, layer.kernel_size, layer.strides, layer.dilation_rate))
    if None in margins:
        return None

    def meets(crop: tuple[int, int], margin: tuple[int, int], size: int | None) -> bool:
        return size is None or max(np.subtract(crop, margin)) < size

    parts = parts_of(layer.kernel_size, layer.dilation_rate)
    return margins, [part for part in parts if all(map(meets, part.crop, margins, size))]


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
            dilations=layer.dilation_rate,
        )

    first, *others = map(convolve, parts)
    if layer.use_bias:
        first += tf.convert_to_tensor(layer.bias)
    y = functools.reduce(tf.add, others, first)  # two at a time: what has an 8-bit form
    return y if layer.activation is None else layer.activation(y)


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _margin(
    size: int | None, kernel_size: int, stride: int, dilation: int
) -> tuple[int, int] | None:
    """Return the zeros that `padding="same"` puts at both ends of an axis."""
    margin = reach = (kernel_size - 1) * dilation
    if stride > 1:
        if size is None:
            return None
        margin = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
    return margin // 2, margin - margin // 2
