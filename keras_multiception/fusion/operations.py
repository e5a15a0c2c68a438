"""Convolutions and batch norms as numbers, the exact rules that join them, and their report."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

LINEAR = keras.activations.linear
NO_PADDING = ((0, 0), (0, 0))
FORMS = ("separate", "summed", "merged", "dense")

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


@dataclasses.dataclass
class FusionReport:
    """What became of the layers of a network.

    Attributes:
        folded: Names of the batch norms that became part of a convolution.
        removed: Names of the layers that are not needed in inference.
        moved_strides, kept_strides: Names of the Multiceptions whose stride the depthwise
            convolutions have now, and of those where they cannot.
        left: Dictionary from the names of the batch norms that are left to the reasons.
        forms: Dictionary from the names of 1x1 convolutions after a depthwise one to the form.
        kept_forms: Dictionary from the names of those that cannot have the form to the reasons.
        measurements: List of what `form="auto"` measured: dictionaries of `layers`,
            `input_shape`, `batch_size`, `milliseconds` by form, and the `form` chosen.
        difference: Float, the maximal difference of outputs, relative to the largest.
    """

    folded: list[str] = dataclasses.field(default_factory=list)
    removed: list[str] = dataclasses.field(default_factory=list)
    moved_strides: list[str] = dataclasses.field(default_factory=list)
    kept_strides: list[str] = dataclasses.field(default_factory=list)
    left: dict[str, str] = dataclasses.field(default_factory=dict)
    forms: dict[str, str] = dataclasses.field(default_factory=dict)
    kept_forms: dict[str, str] = dataclasses.field(default_factory=dict)
    measurements: list[dict] = dataclasses.field(default_factory=list)
    difference: float = 0.0

    def to_dict(self) -> dict:
        """Return the attributes as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{len(self.folded)} batch norms folded, {len(self.left)} left; "
            f"{len(self.moved_strides)} strides moved; {len(self.removed)} layers not needed in "
            f"inference removed; outputs differ by {self.difference:.1e} of the largest.",
        ]
        for row in self.measurements:
            times = ", ".join(f"{form} {ms:.3f} ms" for form, ms in row["milliseconds"].items())
            size = f"{row['batch_size']} x {row['input_shape']}"
            lines.append(f"  {', '.join(row['layers'])}: {row['form']} ({times} for {size})")
        stays = "its stride stays, as no depthwise convolution takes it"
        for reasons in (self.left, self.kept_forms, dict.fromkeys(self.kept_strides, stays)):
            lines += [f"  {name}: {reason}" for name, reason in reasons.items()]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """`scale * x + shift` for each channel, in float64: what a batch norm is in inference."""

    name: str
    scale: np.ndarray
    shift: np.ndarray
    dtype: keras.DTypePolicy

    def then(self, scale: np.ndarray, shift: np.ndarray) -> "Scale":
        """Return this and another scale and shift after it in one."""
        return dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def after(self, scale: np.ndarray, shift: np.ndarray) -> "Scale":
        """Return this and another scale and shift before it in one."""
        first = dataclasses.replace(self, scale=scale, shift=shift)
        return first.then(self.scale, self.shift)


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A convolution of some of the input's channels."""

    start: int  # the first of them
    # float64, of shape (height, width, inputs, outputs), or (height, width, channels, multiplier)
    kernel: np.ndarray
    padding: Padding | str = NO_PADDING  # "same" where it depends on the size of the input

    @property
    def channels(self) -> slice:
        """The slice of the input channels."""
        return slice(self.start, self.start + self.kernel.shape[2])

    @property
    def is_padded(self) -> bool:
        """Whether zeros can stand among the pixels that the kernel looks at."""
        if self.padding == "same":
            return max(self.kernel.shape[:2]) > 1
        return bool(np.any(self.padding))


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """Convolutions of one input whose outputs are concatenated, a bias and an activation."""

    name: str
    kind: str  # "conv", "depthwise" or "dense", the last with kernels of height and width 1
    branches: tuple[Branch, ...]
    bias: np.ndarray
    dtype: keras.DTypePolicy
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Any = LINEAR
    # one before it, with no concatenation between: 1x1 convolutions of its branches are added
    depthwise: "Convolution | None" = None

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a plain 1x1 convolution, at any stride."""
        (first, *others) = self.branches
        return (
            self.kind == "conv"
            and not others
            and first.kernel.shape[:2] == (1, 1)
            and self.groups == 1
        )

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Split values for each output by branch."""
        return np.split(values, np.cumsum(count_outputs(self.kind, self.branches))[:-1])

    def then(self, scale: np.ndarray, shift: np.ndarray) -> "Convolution":
        """Return the convolution with a scale and shift of its outputs; it must be linear."""
        branches = []
        for branch, part in zip(self.branches, self.split(scale), strict=True):
            shape = branch.kernel.shape[2:] if self.kind == "depthwise" else (-1,)
            kernel = branch.kernel * part.reshape(shape)
            branches.append(dataclasses.replace(branch, kernel=kernel))
        return dataclasses.replace(self, branches=tuple(branches), bias=self.bias * scale + shift)

    def after(self, scale: np.ndarray, shift: np.ndarray) -> "Convolution":
        """Return the convolution with a scale and shift of its inputs; see `why_not_after`."""
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

    def why_not_after(self, shift: np.ndarray) -> str | None:
        """Return why it cannot take in a scale and shift of its inputs, or `None`."""
        if self.groups > 1:
            return f"{self.name} has its channels in groups"
        if np.any(shift) and any(branch.is_padded for branch in self.branches):
            return f"{self.name} pads with zeros, which the shift would have to move too"
        return None


def count_outputs(kind: str, branches: Sequence[Branch]) -> list[int]:
    """Return how many outputs each branch of a convolution has."""
    shapes = [branch.kernel.shape[2:] for branch in branches]
    return [n * outputs if kind == "depthwise" else outputs for n, outputs in shapes]


def same_padding(kernel_size: Sequence[int], dilation: Sequence[int]) -> Padding:
    """Return the zeros that `padding="same"` stands for at stride 1."""
    height, width = (rate * (n - 1) for n, rate in zip(kernel_size, dilation, strict=True))
    return (height // 2, height - height // 2), (width // 2, width - width // 2)


def join_biases(depthwise: Convolution, pointwise: Convolution) -> tuple[Convolution, Convolution]:
    """Move the bias of a linear depthwise convolution into the 1x1 convolution that reads it."""
    bias = depthwise.bias
    pointwise = pointwise.after(np.ones_like(bias), bias)
    return dataclasses.replace(depthwise, bias=np.zeros_like(bias)), pointwise


def why_not_form(form: str, depthwise: Convolution, pointwise: Convolution) -> str | None:
    """Return why a depthwise convolution and the 1x1 one after it cannot take a form, or `None`."""
    if form == "dense" and max(pointwise.strides) > 1:
        return "Keras has no full convolution with both dilation and stride, or with two strides"
    if form == "summed" and len(depthwise.branches) == 1:
        return "it reads one branch"
    return None


def to_form(form: str, depthwise: Convolution, pointwise: Convolution) -> list[Convolution]:
    """Rewrite a linear depthwise convolution without a bias and the 1x1 convolution after it.

    The forms are those of `km.fuse`; `"merged"` is a depthwise convolution with a multiplier.
    """
    if form == "separate":
        return [depthwise, pointwise]
    if form == "summed":
        return [dataclasses.replace(pointwise, depthwise=depthwise)]
    kernel, padding, order = _merge(depthwise)
    (mixing,) = pointwise.branches
    rows = mixing.kernel[:, :, order]
    if form == "merged":
        depthwise = dataclasses.replace(depthwise, branches=(Branch(0, kernel, padding),))
        branches = (dataclasses.replace(mixing, kernel=rows),)
        return [depthwise, dataclasses.replace(pointwise, branches=branches)]
    rows = rows.reshape(*kernel.shape[2:], -1)
    composed = Branch(0, np.einsum("hwcm,cmo->hwco", kernel, rows), padding)
    return [
        dataclasses.replace(
            pointwise,
            branches=(composed,),
            strides=depthwise.strides,
            dilation=depthwise.dilation,
        )
    ]


def _merge(depthwise: Convolution) -> tuple[np.ndarray, Padding | str, np.ndarray]:
    """Return one kernel for all branches, its padding, and the order of its outputs."""
    branches = depthwise.branches
    if len(branches) == 1:
        (branch,) = branches
        outputs = branch.kernel.shape[2] * branch.kernel.shape[3]
        return branch.kernel, branch.padding, np.arange(outputs)
    paddings = np.array([branch.padding for branch in branches])  # (branch, axis, side)
    largest = paddings.max(axis=0)
    kernels, inputs = [], []
    for branch, padding in zip(branches, paddings, strict=True):
        zeros = (largest - padding) // np.array(depthwise.dilation)[:, None]
        kernel = np.pad(branch.kernel, [*zeros, (0, 0), (0, 0)])
        kernels.append(kernel.reshape(*kernel.shape[:2], -1))
        channels = np.arange(branch.channels.start, branch.channels.stop)
        inputs.append(np.repeat(channels, branch.kernel.shape[3]))
    order = np.argsort(np.concatenate(inputs), kind="stable")
    kernel = np.concatenate(kernels, axis=-1)[:, :, order]
    channels = max(branch.channels.stop for branch in branches)
    padding = tuple(map(tuple, largest.tolist()))
    return kernel.reshape(*kernel.shape[:2], channels, -1), padding, order
