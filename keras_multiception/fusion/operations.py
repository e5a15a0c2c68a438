"""Convolutions and batch norms as numbers, and the exact rules that join them."""

import dataclasses

import keras
import numpy as np

LINEAR = keras.activations.linear
NO_PADDING = ((0, 0), (0, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """`scale * x + shift` for each channel: what a batch norm is in inference.

    Attributes:
        name: String, the name of the layer.
        scale: Float64 array of shape (channels,).
        shift: Float64 array of shape (channels,).
        dtype: The `keras.DTypePolicy`.
    """

    name: str
    scale: np.ndarray
    shift: np.ndarray
    dtype: keras.DTypePolicy

    def then(self, scale, shift):
        """Return this and another scale and shift behind it in one."""
        return dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A convolution of some of the input's channels.

    Attributes:
        start: Integer, the first of its input channels.
        kernel: Float64 array of shape (height, width, inputs, outputs); of a depthwise
            convolution (height, width, channels, multiplier).
        padding: Zeros around the input, `((top, bottom), (left, right))`, or `"same"` where they
            depend on the size of the input.
    """

    start: int
    kernel: np.ndarray
    padding: tuple | str = NO_PADDING

    @property
    def channels(self):
        """The slice of the input channels."""
        return slice(self.start, self.start + self.kernel.shape[2])

    @property
    def is_padded(self):
        """Whether zeros can stand among the pixels that the kernel looks at."""
        if self.padding == "same":
            return max(self.kernel.shape[:2]) > 1
        return np.any(self.padding)


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """Convolutions of one input whose outputs are concatenated, a bias and an activation.

    Attributes:
        name: String, the name of the layer.
        kind: `"conv"`, `"depthwise"` or `"dense"`, the last with kernels of height and width 1.
        branches: A tuple of `Branch`.
        bias: Float64 array of shape (outputs,).
        dtype: The `keras.DTypePolicy`.
        strides: A pair of integers.
        dilation: A pair of integers.
        groups: Integer, as in `keras.layers.Conv2D`.
        activation: A function.
    """

    name: str
    kind: str
    branches: tuple
    bias: np.ndarray
    dtype: keras.DTypePolicy
    strides: tuple = (1, 1)
    dilation: tuple = (1, 1)
    groups: int = 1
    activation: object = LINEAR

    @property
    def is_pointwise(self):
        """Whether it is a plain 1x1 convolution, at any stride."""
        (first, *others) = self.branches
        return (
            self.kind == "conv"
            and not others
            and first.kernel.shape[:2] == (1, 1)
            and not first.is_padded
            and self.groups == 1
        )

    def then(self, scale, shift):
        """Return the convolution with a scale and shift of its outputs; it must be linear."""
        ends = np.cumsum([_outputs(self.kind, branch.kernel) for branch in self.branches])
        branches = []
        for branch, part in zip(self.branches, np.split(scale, ends[:-1]), strict=True):
            shape = branch.kernel.shape[2:] if self.kind == "depthwise" else (-1,)
            kernel = branch.kernel * part.reshape(shape)
            branches.append(dataclasses.replace(branch, kernel=kernel))
        return dataclasses.replace(self, branches=tuple(branches), bias=self.bias * scale + shift)

    def after(self, scale, shift):
        """Return the convolution with a scale and shift of its inputs; see `obstacle_after`."""
        branches, biases = [], []
        for branch in self.branches:
            weighted = branch.kernel * shift[branch.channels, None]
            axes = (0, 1) if self.kind == "depthwise" else (0, 1, 2)
            biases.append(weighted.sum(axes).ravel())
            kernel = branch.kernel * scale[branch.channels, None]
            branches.append(dataclasses.replace(branch, kernel=kernel))
        return dataclasses.replace(
            self, branches=tuple(branches), bias=self.bias + np.concatenate(biases)
        )

    def obstacle_after(self, shift):
        """Return why it cannot take in a scale and shift of its inputs, or `None`."""
        if self.groups > 1:
            return f"{self.name} has its channels in groups"
        if np.any(shift) and any(branch.is_padded for branch in self.branches):
            return f"{self.name} pads with zeros, which the shift would have to move too"
        return None


def _outputs(kind, kernel):
    return kernel.shape[2] * kernel.shape[3] if kind == "depthwise" else kernel.shape[3]


def same_padding(kernel_size, dilation):
    """Return the zeros that `padding="same"` stands for at stride 1.

    Args:
        kernel_size: A pair of integers.
        dilation: A pair of integers.

    Returns:
        `((top, bottom), (left, right))`.
    """
    reach = [rate * (size - 1) for size, rate in zip(kernel_size, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in reach)


def join_biases(depthwise, pointwise):
    """Move the bias of a depthwise convolution into the 1x1 convolution behind it.

    Args:
        depthwise: A linear `Convolution`.
        pointwise: The `Convolution` that reads it.

    Returns:
        Both of them.
    """
    bias = depthwise.bias
    pointwise = pointwise.after(np.ones_like(bias), bias)
    return dataclasses.replace(depthwise, bias=np.zeros_like(bias)), pointwise
