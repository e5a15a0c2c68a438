"""Equations 1 to 6 of the paper: parameters and multiply-adds of one convolution.

As in the paper, they count kernels only: no biases, no batch norms. `height` and `width` are
those of the layer's output, whose size is that of the input unless `strides` says otherwise, and
pixels of the padding count like any other. `km.cost` counts the same from a whole network.

Reference:
    Bao, Graeber, Wang: Depthwise Multiception Convolution for Reducing Network Parameters
    without Sacrificing Accuracy (ICARCV 2020), Sections II-B and III.
"""

from keras_multiception.layers.arguments import standardize_kernel_sizes, standardize_pair


def standard_parameters(channels, filters, kernel_size):
    """Parameters of a standard convolution, equation 1: `C * K**2 * N`.

    Args:
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_size: Odd integer K, or pair of them, for `K**2 = height * width`.

    Returns:
        An integer.

    Example:
        >>> km.equations.standard_parameters(16, 32, 3)
        4608
    """
    return channels * _area(kernel_size) * filters


def standard_multiply_adds(height, width, channels, filters, kernel_size):
    """Multiply-adds of a standard convolution, equation 2: `H * W * C * K**2 * N`.

    Args:
        height: Integer, output height H.
        width: Integer, output width W.
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_size: Odd integer K, or pair of them.

    Returns:
        An integer.
    """
    return height * width * standard_parameters(channels, filters, kernel_size)


def dsconv_parameters(channels, filters, kernel_size):
    """Parameters of a depthwise separable convolution, equation 3: `C * (K**2 + N)`.

    Args:
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_size: Odd integer K, or pair of them.

    Returns:
        An integer.
    """
    return channels * (_area(kernel_size) + filters)


def dsconv_multiply_adds(height, width, channels, filters, kernel_size):
    """Multiply-adds of a depthwise separable convolution, equation 4: `H * W * C * (K**2 + N)`.

    Args:
        height: Integer, output height H.
        width: Integer, output width W.
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_size: Odd integer K, or pair of them.

    Returns:
        An integer.
    """
    return height * width * dsconv_parameters(channels, filters, kernel_size)


def dsconv_ratio(filters, kernel_size):
    """Depthwise separable over standard convolution, equation 5: `(K**2 + N) / (K**2 * N)`.

    The ratio of parameters and that of multiply-adds are the same.

    Args:
        filters: Integer, output channels N.
        kernel_size: Odd integer K, or pair of them.

    Returns:
        A float.
    """
    area = _area(kernel_size)
    return (area + filters) / (area * filters)


def multiception_parameters(channels, filters, kernel_sizes):
    """Parameters of a Multiception convolution, exactly: `C * sum(K_j**2) + M * C * N`.

    Each of the M kernels has its area once for each input channel; the 1x1 convolution behind
    reads M * C channels. The paper has no equation for it: its equation 6 is the upper bound of
    `multiception_parameters_bound`.

    Args:
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_sizes: The M kernel sizes K_j, as in `km.layers.MulticeptionConv2D`.

    Returns:
        An integer.

    Example:
        >>> km.equations.multiception_parameters(16, 32, (3, 5, 7))
        2864
    """
    areas = _areas(kernel_sizes)
    return channels * sum(areas) + len(areas) * channels * filters


def multiception_parameters_bound(channels, filters, kernel_sizes):
    """Equation 6, the paper's bound on the parameters: `M * C * (sum(K_j**2) + N)`.

    The paper writes it for M = 3 kernels, `3 * C * (sum(K_j**2) + N)`, as "the maximum parameter
    usage", and keeps the 3 for the two kernels of its worked example. It counts the area of every
    kernel M times instead of once, and so lies `(M - 1) * C * sum(K_j**2)` above
    `multiception_parameters`; with one kernel the two are equal.

    Args:
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_sizes: The M kernel sizes K_j, as in `km.layers.MulticeptionConv2D`.

    Returns:
        An integer.
    """
    areas = _areas(kernel_sizes)
    return len(areas) * channels * (sum(areas) + filters)


def multiception_multiply_adds(height, width, channels, filters, kernel_sizes, strides=1):
    """Multiply-adds of a Multiception convolution; ours, by analogy, as the paper has none.

    The depthwise convolutions run at stride 1 on the whole input and only the 1x1 convolution
    carries the stride: `S_h * H * S_w * W * C * sum(K_j**2) + H * W * M * C * N`. At stride 1
    this is `H * W` times the parameters, as for the other convolutions.

    Args:
        height: Integer, output height H.
        width: Integer, output width W.
        channels: Integer, input channels C.
        filters: Integer, output channels N.
        kernel_sizes: The M kernel sizes K_j, as in `km.layers.MulticeptionConv2D`.
        strides: Positive integer or pair, the strides S; the input is `strides` times the output.

    Returns:
        An integer.
    """
    areas = _areas(kernel_sizes)
    stride_height, stride_width = standardize_pair(strides, "strides")
    depthwise = stride_height * stride_width * channels * sum(areas)
    return height * width * (depthwise + len(areas) * channels * filters)


def _areas(kernel_sizes):
    return [height * width for height, width in standardize_kernel_sizes(kernel_sizes)]


def _area(kernel_size):
    (area,) = _areas([kernel_size])
    return area
