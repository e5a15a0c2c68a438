"""Independent NumPy forms of the convolutions, written as the sums of their definitions."""

import numpy as np

EPSILON = 1e-5


def conv2d(x, kernel, strides=(1, 1), dilation=(1, 1), bias=0.0):
    """Full convolution of NHWC `x` with (kh, kw, in, out), padded by half the kernel."""
    windows = _windows(x, kernel.shape[:2], strides, dilation)
    return np.einsum("nhwijc,ijco->nhwo", windows, kernel) + bias


def depthwise_conv2d(x, kernel, strides=(1, 1), dilation=(1, 1)):
    """Depthwise convolution of NHWC `x` with (kh, kw, channels, multiplier)."""
    windows = _windows(x, kernel.shape[:2], strides, dilation)
    y = np.einsum("nhwijc,ijcm->nhwcm", windows, kernel)
    return y.reshape(*y.shape[:3], -1)


def batch_norm(x, gamma, beta, mean, variance):
    """Batch normalization with given statistics."""
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def multiception(x, kernels, bn1, pointwise, bias, bn2, strides=(1, 1), dilation=(1, 1)):
    """Algorithm 1 of the paper in inference; bn1, bn2 = (gamma, beta, mean, variance)."""
    branches = [depthwise_conv2d(x, kernel, dilation=dilation) for kernel in kernels]
    y = batch_norm(np.concatenate(branches, axis=-1), *bn1)
    return batch_norm(conv2d(y, pointwise, strides, bias=bias), *bn2)


def mixconv(x, kernels, depthwise, strides=(1, 1), dilation=(1, 1)):
    """MixConv: a convolution in each group of channels, the remainder in the first group."""
    share = x.shape[-1] // len(kernels)
    first = x.shape[-1] - share * (len(kernels) - 1)
    groups = np.split(x, [first + share * i for i in range(len(kernels) - 1)], axis=-1)
    conv = depthwise_conv2d if depthwise else conv2d
    outputs = [conv(g, k, strides, dilation) for g, k in zip(groups, kernels, strict=True)]
    return np.concatenate(outputs, axis=-1)


def _windows(x, size, strides, dilation):
    x = np.asarray(x, "float64")
    reach = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
    x = np.pad(x, [(0, 0), *((r // 2, r // 2) for r in reach), (0, 0)])
    height, width = (x.shape[i + 1] - reach[i] for i in range(2))
    rows = [
        [
            x[
                :,
                i * dilation[0] : i * dilation[0] + height : strides[0],
                j * dilation[1] : j * dilation[1] + width : strides[1],
            ]
            for j in range(size[1])
        ]
        for i in range(size[0])
    ]
    return np.moveaxis(np.array(rows), (0, 1), (3, 4))
