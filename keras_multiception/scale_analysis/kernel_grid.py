"""Learned kernels as an image."""

import numpy as np
from keras import ops

from keras_multiception.scale_analysis.shares import strengths


def kernel_grid(layer, channels=16):
    """Lay out depthwise kernels as one image: a row for each branch, a column for each channel.

    Each kernel is divided by its largest absolute value, since the batch norm behind it undoes
    its size; so the values are in -1..1.

    Args:
        layer: A `MulticeptionConv2D`.
        channels: Integer, how many input channels to show: those with the largest strengths, as
            in `weight_shares`, largest first.

    Returns:
        Array of shape (height, width), with NaN around the kernels.
    """
    strongest = np.argsort(-strengths(layer).sum(axis=0), kind="stable")[:channels]
    height, width = np.max(layer.kernel_sizes, axis=0) + 1
    grid = np.full((len(layer.kernel_sizes) * height + 1, len(strongest) * width + 1), np.nan)
    for row, conv in enumerate(layer.depthwise_convs):
        kernels = ops.convert_to_numpy(conv.kernel)[..., strongest, 0]
        kernels = kernels / np.maximum(np.abs(kernels).max(axis=(0, 1)), 1e-30)
        tall, wide = conv.kernel_size
        top = row * height + (height - tall + 1) // 2
        for column in range(len(strongest)):
            left = column * width + (width - wide + 1) // 2
            grid[top : top + tall, left : left + wide] = kernels[..., column]
    return grid
