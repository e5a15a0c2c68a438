"""Rewrite a network until no scale, stride or bias is left that can go elsewhere."""

from typing import Any

import numpy as np
from keras import KerasTensor, layers

from keras_multiception.fusion.operations import (
    LINEAR,
    Convolution,
    FusionReport,
    Scale,
    join_biases,
)
from keras_multiception.fusion.reading import Network, Step

# what a scale and shift of each channel can pass, for it treats every channel alike and linearly
_PASSED = (layers.AveragePooling2D, layers.Cropping2D, layers.GlobalAveragePooling2D)

_Edits = list[tuple[Step, Convolution | Scale]]  # new operations of steps


class _Stays(Exception):
    """Why a scale and shift cannot be folded."""


def fold(network: Network, report: FusionReport) -> None:
    """Fold batch norms and join biases, wherever that is exact."""
    _fold_shared(network, report)
    _fold_scales(network, report)
    for depthwise, pointwise in separable_pairs(network):
        joined = join_biases(depthwise, pointwise)
        network.replace_op(depthwise, joined[0])
        network.replace_op(pointwise, joined[1])


def separable_pairs(network: Network) -> list[tuple[Convolution, Convolution]]:
    """Find the linear depthwise convolutions that a 1x1 convolution, and nothing else, reads."""
    found = []
    for depthwise in network.operations(Convolution):
        if depthwise.kind == "depthwise" and depthwise.activation is LINEAR:
            pointwise = _follower(network, depthwise)
            if isinstance(pointwise, Convolution) and pointwise.is_pointwise:
                found.append((depthwise, pointwise))
    return found


def _follower(network: Network, operation: Convolution) -> Any:
    """Return the operation that reads all calls of another, and nothing else; `None` if none is."""
    readers = [x for step in network.calls(operation) for x in network.readers(step.results)]
    first, *others = [reader and reader.operation for reader in readers] or [None]
    alone = all(x is first for x in others) and len(network.calls(first)) == len(readers)
    return first if alone else None


def _fold_shared(network: Network, report: FusionReport) -> None:
    """Fold a batch norm that follows every call of a shared convolution into that."""
    for convolution in network.operations(Convolution):
        scale = _follower(network, convolution)
        calls = network.calls(scale)
        if len(calls) > 1 and isinstance(scale, Scale) and convolution.activation is LINEAR:
            network.replace_op(convolution, convolution.then(scale.scale, scale.shift))
            for step in calls:
                network.remove(step)
            report.folded.append(scale.name)


def _fold_scales(network: Network, report: FusionReport) -> None:
    """Fold what scales and shifts into what makes their inputs, or else into what reads them."""
    left = {}
    for step in [step for step in network.steps if isinstance(step.operation, Scale)]:
        (x,) = step.inputs
        try:
            edits = _push_back(network, x, step.operation.scale, step.operation.shift)
            if x.dtype != step.results.dtype:
                raise _Stays(f"what comes before it is in {x.dtype}")
            _apply(network, step, edits, report)
        except _Stays as reason:
            left[step] = reason
    for step, before in left.items():
        operation = step.operation
        try:
            edits = _push_forward(network, step.results, operation.scale, operation.shift)
            _apply(network, step, edits, report)
        except _Stays as after:
            report.left[operation.name] = f"{before}, and after it {after}"


def _apply(network: Network, step: Step, edits: _Edits, report: FusionReport) -> None:
    report.folded.append(step.operation.name)
    network.remove(step)
    for other, operation in edits:
        other.operation = operation


def _push_back(network: Network, x: KerasTensor, scale: np.ndarray, shift: np.ndarray) -> _Edits:
    """Return how to scale and shift a tensor where it comes from."""
    step = network.writer(x)
    if step is None:
        raise _Stays("it reads an input of the model")
    operation = step.operation
    if len(network.readers(x)) > 1:
        raise _Stays(f"more than it reads {operation.name}")
    if len(network.calls(operation)) > 1:
        raise _Stays(f"{operation.name} before it is shared")
    if isinstance(operation, Convolution) and operation.activation is not LINEAR:
        raise _Stays(f"the activation of {operation.name} comes before it")
    if isinstance(operation, Convolution | Scale):
        return [(step, operation.then(scale, shift))]
    if not _treats_channels_alike(step, x):
        raise _Stays(f"{type(operation).__name__} {operation.name} comes before it")
    edits: _Edits = []
    start = 0
    for index, y in enumerate(step.inputs):
        part = slice(start, start + y.shape[-1])
        added = np.zeros_like(shift) if type(operation) is layers.Add and index else shift
        edits += _push_back(network, y, scale[part], added[part])
        start = part.stop if type(operation) is layers.Concatenate else 0
    return edits


def _push_forward(network: Network, x: KerasTensor, scale: np.ndarray, shift: np.ndarray) -> _Edits:
    """Return how to scale and shift a tensor in all that read it."""
    edits: _Edits = []
    for step in network.readers(x):
        if step is None:
            raise _Stays("the model ends")
        operation = step.operation
        if isinstance(operation, Convolution | Scale):
            if isinstance(operation, Convolution) and (reason := operation.why_not_after(shift)):
                raise _Stays(reason)
            if len(network.calls(operation)) > 1:
                raise _Stays(f"{operation.name} is shared")
            edits.append((step, operation.after(scale, shift)))
        elif type(operation) in _PASSED and _treats_channels_alike(step, step.results):
            edits += _push_forward(network, step.results, scale, shift)
        else:
            raise _Stays(f"{type(operation).__name__} {operation.name} comes")
    return edits


def _treats_channels_alike(step: Step, x: KerasTensor) -> bool:
    """Return whether an operation is linear and the same for each channel of its output."""
    operation = step.operation
    if type(operation) is layers.Add:
        return all(y.shape == x.shape for y in step.inputs)
    if type(operation) is layers.Concatenate:
        return operation.axis in (-1, len(x.shape) - 1)
    return (
        type(operation) in _PASSED
        and operation.data_format == "channels_last"
        and getattr(operation, "padding", "valid") == "valid"
    )
