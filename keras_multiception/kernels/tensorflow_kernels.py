"""Fused operations on TensorFlow: batch norm, and Multiception without a concatenation.

On a CPU, what oneDNN does well decides. Its fast kernel for the filter gradient of a depthwise
convolution takes kernels up to 3 wide, and of any height; wider ones fall to one that is four to
eight times slower. A k-wide filter gradient is therefore put together of 3-wide ones, of inputs
shifted by whole columns.
"""

import collections.abc
import functools
from typing import Any

import tensorflow as tf

_FAST_WIDTH = 3


@functools.cache
def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def supports_batch_norm(x: tf.Tensor) -> bool:
    """Return whether `batch_norm` can be used on an input, channels last."""
    return len(x.shape) == 4 and x.dtype in (tf.float32, tf.bfloat16, tf.float16)


def supports_multiception(
    x: tf.Tensor, kernel_sizes: tuple[tuple[int, int], ...], dilation_rate: tuple[int, int]
) -> bool:
    """Return whether `multiception` can be used, and is worth it: in float32 on CPUs."""
    return (
        x.dtype == tf.float32
        and tuple(dilation_rate) == (1, 1)
        and all(width >= _FAST_WIDTH for _, width in kernel_sizes)
        and not _has_gpu()
    )


def batch_norm(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    statistics: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalize each channel of a batch of images in one operation.

    `statistics` are mean and variance of each channel; the default is the batch's own. Returns
    the output, and the mean and the (biased) variance it used.
    """
    gamma, beta, *given = _tensors(gamma, beta, *(statistics or ()))
    if given and x.dtype == tf.float32 and not _has_gpu():  # slow in one, for a single image
        scale, shift = _affine(gamma, beta, epsilon, *given)
        return x * scale + shift, *given
    mean, variance = given or ([], [])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=not given,
    )
    if given:
        return y, *given
    positions = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    return y, mean, variance * ((positions - 1) / positions)  # it comes unbiased


def _affine(
    gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, mean: tf.Tensor, variance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the factor and the summand of each channel that normalizing comes to."""
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def multiception(
    x: tf.Tensor,
    kernels: list[tf.Tensor],
    gamma: tf.Tensor,
    beta: tf.Tensor,
    pointwise: tf.Tensor,
    strides: tuple[int, int],
    epsilon: float,
    statistics: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute `pointwise(batch_norm(concatenate(depthwise branches)))` branch by branch.

    Batch norm is per channel, so that each branch can have its own part of it; and the 1x1
    convolution of a concatenation is the sum of those of its parts. With given statistics the
    batch norm is an affine map, and goes into the 1x1 convolution.

    `strides` are those of the 1x1 convolution.
    """
    count = len(kernels)
    *kernels, gamma, beta, pointwise = _tensors(*kernels, gamma, beta, pointwise)
    branches = _depthwise_branches(x, kernels)
    if statistics is not None:  # then the batch norm can go into the 1x1 convolution
        mean, variance = _tensors(*statistics)
        scale, shift = _affine(gamma, beta, epsilon, mean, variance)
        matrix = pointwise[0, 0]
        y = _sum_of_products(branches, scale[:, tf.newaxis] * matrix, strides)
        return y + tf.linalg.matvec(matrix, shift, transpose_a=True), mean, variance
    normalized, means, variances = zip(
        *(
            batch_norm(*branch, epsilon)
            for branch in zip(branches, tf.split(gamma, count), tf.split(beta, count), strict=True)
        ),
        strict=True,
    )
    y = _sum_of_products(normalized, pointwise[0, 0], strides)
    return y, tf.concat(means, 0), tf.concat(variances, 0)


def _tensors(*values: tf.Tensor) -> list[tf.Tensor]:
    """Read variables; tensors stay as they are."""
    return [tf.convert_to_tensor(value) for value in values]


def _sum_of_products(
    branches: collections.abc.Sequence[tf.Tensor], matrix: tf.Tensor, strides: tuple[int, int]
) -> tf.Tensor:
    """Apply a strided 1x1 convolution to the concatenation of branches, without making it."""
    parts = zip(branches, tf.split(matrix, len(branches)), strict=True)
    outputs = [_pointwise(x, part, strides) for x, part in parts]
    return tf.add_n(outputs) if len(outputs) > 1 else outputs[0]


def _pointwise(x: tf.Tensor, matrix: tf.Tensor, strides: tuple[int, int]) -> tf.Tensor:
    """Apply a strided 1x1 convolution as a matrix product."""
    if tuple(strides) != (1, 1):
        x = tf.nn.avg_pool2d(x, 1, strides, "VALID")  # the cheapest way to take every n-th
    size, channels = tf.shape(x), x.shape[-1]
    y = tf.matmul(tf.reshape(x, [-1, channels]), matrix)
    y = tf.reshape(y, [size[0], size[1], size[2], matrix.shape[-1]])
    y.set_shape([*x.shape[:-1], matrix.shape[-1]])
    return y


def _depthwise_branches(x: tf.Tensor, kernels: list[tf.Tensor]) -> list[tf.Tensor]:
    if all(kernel.shape[1] <= _FAST_WIDTH for kernel in kernels):
        return [_depthwise(x, kernel) for kernel in kernels]

    @tf.custom_gradient
    def branches(x: tf.Tensor, *kernels: tf.Tensor) -> tuple:
        def gradient(*upstream: tf.Tensor) -> tuple:
            inputs = tf.add_n(
                [
                    tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                        input_sizes=tf.shape(x),
                        filter=kernel,
                        out_backprop=g,
                        strides=[1, 1, 1, 1],
                        padding="SAME",
                    )
                    for kernel, g in zip(kernels, upstream, strict=True)
                ]
            )
            return inputs, *_filter_gradients(x, kernels, upstream)

        return tuple(_depthwise(x, kernel) for kernel in kernels), gradient

    return list(branches(x, *kernels))


def _depthwise(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


def _filter_gradients(
    x: tf.Tensor, kernels: tuple[tf.Tensor, ...], upstream: tuple[tf.Tensor, ...]
) -> list[tf.Tensor]:
    """Return the gradient of each kernel, the wide ones put together of narrow ones.

    For these, the rows of all images are laid one after the other with `gap` columns of zeros
    between them: an input shifted by some columns is then a slice of that one tensor.
    """
    batch, height, width, _ = tf.unstack(tf.shape(x))
    channels = x.shape[-1]
    gap = max(kernel.shape[1] // 2 for kernel in kernels)
    rows = tf.reshape(x, [batch * height, width, channels])
    # one spare row at either end, for the shifts to run into
    line = tf.reshape(tf.pad(rows, [[1, 1], [1, gap - 1], [0, 0]]), [-1, channels])

    @functools.cache
    def shifted(columns: int) -> tf.Tensor:
        grid = tf.slice(
            line, [width + gap + columns, 0], [batch * height * (width + gap), channels]
        )
        return tf.reshape(grid, [batch, height, width + gap, channels])

    gradients = []
    for kernel, g in zip(kernels, upstream, strict=True):
        if kernel.shape[1] <= _FAST_WIDTH:
            gradients.append(_filter_gradient(x, kernel.shape, g))
            continue
        g = tf.pad(g, [[0, 0], [0, 0], [1, gap - 1], [0, 0]])
        narrow = [kernel.shape[0], _FAST_WIDTH, channels, 1]
        pieces = []
        for first, columns in _windows(kernel.shape[1]):
            piece = _filter_gradient(shifted(columns), narrow, g)
            pieces.append(piece[:, first:])
        gradients.append(tf.concat(pieces, axis=1))
    return gradients


def _windows(width: int) -> collections.abc.Iterator[tuple[int, int]]:
    """Yield how many columns a window of three shares with the last, and its middle's offset."""
    starts = [*range(0, width - _FAST_WIDTH, _FAST_WIDTH), width - _FAST_WIDTH]
    covered = 0
    for start in starts:
        yield covered - start, start + _FAST_WIDTH // 2 - width // 2
        covered = start + _FAST_WIDTH


def _filter_gradient(x: tf.Tensor, filter_sizes: Any, g: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x,
        filter_sizes=filter_sizes,
        out_backprop=g,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )
