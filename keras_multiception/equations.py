"""Equations 1 to 6 of the paper: parameters and multiply-adds of one convolution.

C is `channels`, the input channels; N is `filters`, the output channels; H and W are `height` and
`width` of the *output*; K is a kernel size, an odd integer or a pair, for which K**2 is
`height * width`; `kernel_sizes` are the M sizes of `km.layers.MulticeptionConv2D`. As in the
paper, the equations count kernels only (no biases, no batch norms), and padding like any other
pixel. `km.cost` counts a whole network the same way.

Example:
    >>> km.equations.standard_parameters(16, 32, 3)
    4608
    >>> km.equations.dsconv_parameters(16, 32, 3)
    656
    >>> km.equations.dsconv_ratio(32, 3)
    0.142...
    >>> km.equations.multiception_parameters(16, 32, (3, 5, 7))
    2864
    >>> km.equations.multiception_parameters_bound(16, 32, (3, 5, 7))
    5520
    >>> km.equations.standard_multiply_adds(8, 8, 16, 32, 3)
    294912
    >>> km.equations.dsconv_multiply_adds(8, 8, 16, 32, 3)
    41984
    >>> km.equations.multiception_multiply_adds(8, 8, 16, 32, (3, 5, 7))
    183296

Reference:
    Bao, Graeber, Wang: Depthwise Multiception Convolution for Reducing Network Parameters
    without Sacrificing Accuracy (ICARCV 2020), Sections II-B and III.
"""

from keras_multiception.layers.arguments import (
    KernelSizes,
    standardize_kernel_sizes,
    standardize_pair,
)


def standard_parameters(channels: int, filters: int, kernel_size: KernelSizes) -> int:
    """Parameters of a standard convolution, equation 1: `C * K**2 * N`."""
    return channels * _area(kernel_size) * filters


def standard_multiply_adds(
    height: int, width: int, channels: int, filters: int, kernel_size: KernelSizes
) -> int:
    """Multiply-adds of a standard convolution, equation 2: `H * W * C * K**2 * N`."""
    return height * width * standard_parameters(channels, filters, kernel_size)


def dsconv_parameters(channels: int, filters: int, kernel_size: KernelSizes) -> int:
    """Parameters of a depthwise separable convolution, equation 3: `C * (K**2 + N)`."""
    return channels * (_area(kernel_size) + filters)


def dsconv_multiply_adds(
    height: int, width: int, channels: int, filters: int, kernel_size: KernelSizes
) -> int:
    """Multiply-adds of a depthwise separable convolution, equation 4: `H * W * C * (K**2 + N)`."""
    return height * width * dsconv_parameters(channels, filters, kernel_size)


def dsconv_ratio(filters: int, kernel_size: KernelSizes) -> float:
    """Depthwise separable over standard convolution, equation 5: `(K**2 + N) / (K**2 * N)`.

    Parameters and multiply-adds have the same ratio.
    """
    area = _area(kernel_size)
    return (area + filters) / (area * filters)


def multiception_parameters(channels: int, filters: int, kernel_sizes: KernelSizes) -> int:
    """Parameters of a Multiception convolution, exactly: `C * sum(K_j**2) + M * C * N`.

    The paper has no equation for it: its equation 6 is `multiception_parameters_bound`.
    """
    areas = _areas(kernel_sizes)
    return channels * sum(areas) + len(areas) * channels * filters


def multiception_parameters_bound(channels: int, filters: int, kernel_sizes: KernelSizes) -> int:
    """Equation 6, the paper's bound on the parameters: `M * C * (sum(K_j**2) + N)`.

    It counts the area of every kernel M times instead of once.
    """
    areas = _areas(kernel_sizes)
    return len(areas) * channels * (sum(areas) + filters)


def multiception_multiply_adds(
    height: int,
    width: int,
    channels: int,
    filters: int,
    kernel_sizes: KernelSizes,
    strides: int | tuple[int, int] = 1,
) -> int:
    """Multiply-adds of a Multiception convolution; ours, by analogy, as the paper has none.

    The depthwise convolutions run at stride 1 on the whole input, `strides` times the output:
    `S_h * H * S_w * W * C * sum(K_j**2) + H * W * M * C * N`.
    """
    areas = _areas(kernel_sizes)
    stride_height, stride_width = standardize_pair(strides, "strides")
    depthwise = stride_height * stride_width * channels * sum(areas)
    return height * width * (depthwise + len(areas) * channels * filters)


def _areas(kernel_sizes: KernelSizes) -> list[int]:
    return [height * width for height, width in standardize_kernel_sizes(kernel_sizes)]


def _area(kernel_size: KernelSizes) -> int:
    (area,) = _areas([kernel_size])
    return area
