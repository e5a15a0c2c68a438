"""Fast forms on TensorFlow: fused batch norm, and Multiception without a concatenation.

On a CPU, what oneDNN does well decides. Its fast kernel for the filter gradient of a depthwise
convolution takes kernels up to 3 wide, and of any height; wider ones fall to one that is four to
eight times slower. A k-wide filter gradient is therefore put together of 3-wide ones, of inputs
shifted by whole columns.
"""

import functools

import tensorflow as tf

_FAST_WIDTH = 3


@functools.cache
def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def takes_batch_norm(x):
    """Say whether `batch_norm` can be used on an input, channels last."""
    return len(x.shape) == 4 and x.dtype in (tf.float32, tf.bfloat16, tf.float16)


def takes_multiception(x, kernel_sizes, dilation_rate):
    """Say whether `multiception` can be used, and is worth it, on an input and these kernels.

    It is for CPUs and float32: depthwise convolutions of lower precision are slower there.
    """
    return (
        x.dtype == tf.float32
        and tuple(dilation_rate) == (1, 1)
        and all(width >= _FAST_WIDTH for _, width in kernel_sizes)
        and not _has_gpu()
    )


def takes_depthwise_branches(x, kernel_sizes, dilation_rate):
    """Say that branches alone have no faster form here: `multiception` is the one."""
    return False


def batch_norm(x, gamma, beta, epsilon, statistics=None):
    """Normalize each channel of a batch of images in one operation.

    Args:
        x: Tensor of shape (batch, height, width, channels), float32, bfloat16 or float16.
        gamma: float32 tensor of shape (channels,).
        beta: float32 tensor of shape (channels,).
        epsilon: Float, added to the variance.
        statistics: Mean and variance of each channel, float32; the default is the batch's own.

    Returns:
        The output, of the type of `x`, and the mean and the (biased) variance it used.
    """
    gamma, beta = _tensors(gamma, beta)
    if statistics is not None:
        return _normalize(x, gamma, beta, epsilon, *_tensors(*statistics))
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    positions = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    return y, mean, variance * ((positions - 1) / positions)  # it comes unbiased


def _normalize(x, gamma, beta, epsilon, mean, variance):
    """Normalize by given statistics; as `batch_norm`.

    On a CPU the fused operation costs up to a millisecond for a single image.
    """
    if x.dtype == tf.float32 and not _has_gpu():
        scale, shift = _affine(gamma, beta, epsilon, mean, variance)
        return x * scale + shift, mean, variance
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )
    return y, mean, variance


def _affine(gamma, beta, epsilon, mean, variance):
    """Return the factor and the summand of each channel that normalizing comes to."""
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    return scale, beta - mean * scale


def multiception(x, kernels, gamma, beta, pointwise, strides, epsilon, statistics=None):
    """Compute `pointwise(batch_norm(concatenate(depthwise branches)))` branch by branch.

    Batch norm is per channel, so that each branch can have its own part of it; and the 1x1
    convolution of a concatenation is the sum of those of its parts. With given statistics the
    batch norm is an affine map, and goes into the 1x1 convolution.

    Args:
        x: Tensor of shape (batch, height, width, channels), float32.
        kernels: Depthwise kernels, each of shape (height, width, channels, 1), odd sizes.
        gamma: Tensor of shape (branches * channels,).
        beta: Tensor of shape (branches * channels,).
        pointwise: Tensor of shape (1, 1, branches * channels, filters).
        strides: Pair of integers, the strides of the 1x1 convolution.
        epsilon: Float, added to the variance.
        statistics: Mean and variance of each channel of the concatenation; the default is the
            batch's own.

    Returns:
        The output, of shape (batch, ceil(height / strides[0]), ceil(width / strides[1]),
        filters), and the mean and variance it used.
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


def _tensors(*values):
    """Read variables; what is a tensor already stays."""
    return [tf.convert_to_tensor(value) for value in values]


def _sum_of_products(branches, matrix, strides):
    """Apply a strided 1x1 convolution to the concatenation of branches, without making it."""
    parts = zip(branches, tf.split(matrix, len(branches)), strict=True)
    outputs = [_pointwise(x, part, strides) for x, part in parts]
    return tf.add_n(outputs) if len(outputs) > 1 else outputs[0]


def _pointwise(x, matrix, strides):
    """Apply a strided 1x1 convolution as a matrix product."""
    if tuple(strides) != (1, 1):
        x = tf.nn.avg_pool2d(x, 1, strides, "VALID")  # the cheapest way to take every n-th
    size, channels = tf.shape(x), x.shape[-1]
    y = tf.matmul(tf.reshape(x, [-1, channels]), matrix)
    y = tf.reshape(y, [size[0], size[1], size[2], matrix.shape[-1]])
    y.set_shape([*x.shape[:-1], matrix.shape[-1]])
    return y


def _depthwise_branches(x, kernels):
    """Apply depthwise convolutions of several sizes to one input; a list of outputs."""
    if all(kernel.shape[1] <= _FAST_WIDTH for kernel in kernels):
        return [_depthwise(x, kernel) for kernel in kernels]

    @tf.custom_gradient
    def branches(x, *kernels):
        def gradient(*upstream):
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


def _depthwise(x, kernel):
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


def _filter_gradients(x, kernels, upstream):
    """Return the gradient of each kernel, the wide ones put together of narrow ones.

    For these, the rows of all images are laid one behind the other with `gap` columns of zeros
    between them, as many as the widest kernel reaches over the edge. An input shifted by some
    columns is then a slice of that one tensor.
    """
    batch, height, width, _ = tf.unstack(tf.shape(x))
    channels = x.shape[-1]
    gap = max(kernel.shape[1] // 2 for kernel in kernels)
    rows = tf.reshape(x, [batch * height, width, channels])
    # one spare row at either end, for the shifts to run into
    line = tf.reshape(tf.pad(rows, [[1, 1], [1, gap - 1], [0, 0]]), [-1, channels])

    @functools.cache
    def shifted(columns):
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


def _windows(width):
    """Cover a kernel's columns with windows of three.

    Returns:
        For each window, how many of its columns the one before has, and how far its middle is
        from that of the kernel.
    """
    starts = [*range(0, width - _FAST_WIDTH, _FAST_WIDTH), width - _FAST_WIDTH]
    covered = 0
    for start in starts:
        yield covered - start, start + _FAST_WIDTH // 2 - width // 2
        covered = start + _FAST_WIDTH


def _filter_gradient(x, filter_sizes, g):
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x,
        filter_sizes=filter_sizes,
        out_backprop=g,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )
