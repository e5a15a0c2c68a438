"""Rewrite a network until no scale, stride or bias is left that can go elsewhere."""

import dataclasses

import numpy as np
from keras import KerasTensor, layers

from keras_multiception.fusion.operations import LINEAR, Convolution, Scale, join_biases
from keras_multiception.fusion.reading import Network, Step
from keras_multiception.fusion.report import FusionReport

# what a scale and shift of each channel can pass, for it treats every channel alike and linearly
_PASSED = (
    layers.AveragePooling2D,
    layers.Cropping2D,
    layers.GlobalAveragePooling2D,
    layers.UpSampling2D,
)
_POINTWISE_FUNCTIONS = (layers.Activation, layers.ELU, layers.LeakyReLU, layers.ReLU)


def fold(network: Network, report: FusionReport) -> None:
    """Fold batch norms, move strides and join biases, wherever that is exact."""
    _fold_shared(network, report)
    _fold_scales(network, report)
    for convolution in network.operations(Convolution):
        _move_stride(network, convolution, report)
    for depthwise, pointwise in separable_pairs(network):
        joined = join_biases(depthwise, pointwise)
        network.replace_op(depthwise, joined[0])
        network.replace_op(pointwise, joined[1])


def separable_pairs(network: Network) -> list[tuple[Convolution, Convolution]]:
    """Find the linear depthwise convolutions that a 1x1 convolution, and nothing else, reads."""
    found = []
    for depthwise in network.operations(Convolution):
        if depthwise.kind != "depthwise" or depthwise.activation is not LINEAR:
            continue
        readers = _common_readers(network, depthwise)
        pointwise = readers[0].operation if readers else None
        alone = len(network.calls(pointwise)) == len(readers)
        if isinstance(pointwise, Convolution) and pointwise.is_pointwise and alone:
            found.append((depthwise, pointwise))
    return found


def _common_readers(network: Network, operation: Convolution) -> list[Step]:
    """Return the only readers of each call of an operation if they share one; else none."""
    found = [network.only_reader(step.results) for step in network.calls(operation)]
    readers = [reader for reader in found if reader is not None]
    same = len(readers) == len(found) and len({id(reader.operation) for reader in readers}) == 1
    return readers if same else []


def _fold_shared(network: Network, report: FusionReport) -> None:
    """Fold a batch norm that follows every call of a shared convolution into that."""
    for convolution in network.operations(Convolution):
        readers = _common_readers(network, convolution)
        scale = readers[0].operation if readers else None
        if len(readers) > 1 and isinstance(scale, Scale) and convolution.activation is LINEAR:
            network.replace_op(convolution, convolution.then(scale.scale, scale.shift))
            for reader in readers:
                network.remove(reader)
            report.folded.append(scale.name)


def _fold_scales(network: Network, report: FusionReport) -> None:
    """Fold what scales and shifts into what makes their inputs, or else into what reads them."""
    left = {}
    for step in [step for step in network.steps if isinstance(step.operation, Scale)]:
        (x,) = step.inputs
        reason = _why_not_back(network, x)
        if reason is None and x.dtype != step.results.dtype:
            reason = f"what comes before it is in {x.dtype}"
        if reason is None:
            network.remove(step)
            _push_back(network, x, step.operation.scale, step.operation.shift)
            report.folded.append(step.operation.name)
        else:
            left[step] = reason
    for step, before in left.items():
        name, scale, shift = (getattr(step.operation, part) for part in ("name", "scale", "shift"))
        after = _why_not_forward(network, step.results, shift)
        if after is None:
            _push_forward(network, step.results, scale, shift)
            network.remove(step)
            report.folded.append(name)
        else:
            report.left[name] = f"{before}, and after it {after}"


def _why_not_back(network: Network, x: KerasTensor) -> str | None:
    """Return why a scale and shift of a tensor cannot be made where it comes from, or `None`."""
    step = network.writer(x)
    if step is None:
        return "it reads an input of the model"
    operation = step.operation
    if len(network.readers(x)) > 1:
        return f"more than it reads {operation.name}"
    if len(network.calls(operation)) > 1:
        return f"{operation.name} before it is shared"
    if isinstance(operation, Scale):
        return None
    if isinstance(operation, Convolution):
        linear = operation.activation is LINEAR
        return None if linear else f"the activation of {operation.name} comes before it"
    if _treats_channels_alike(step, x):
        reasons = [_why_not_back(network, y) for y in step.inputs]
        return next((reason for reason in reasons if reason is not None), None)
    return f"{type(operation).__name__} {operation.name} comes before it"


def _push_back(network: Network, x: KerasTensor, scale: np.ndarray, shift: np.ndarray) -> None:
    step = network.writer(x)
    assert step is not None  # see `_why_not_back`
    operation = step.operation
    if isinstance(operation, Scale | Convolution):
        step.operation = operation.then(scale, shift)
        return
    channels = [y.shape[-1] for y in step.inputs]
    for index, y in enumerate(step.inputs):
        if type(operation) is layers.Add:
            _push_back(network, y, scale, shift if index == 0 else np.zeros_like(shift))
        else:
            start = sum(channels[:index]) if type(operation) is layers.Concatenate else 0
            part = slice(start, start + channels[index])
            _push_back(network, y, scale[part], shift[part])


def _why_not_forward(network: Network, x: KerasTensor, shift: np.ndarray) -> str | None:
    """Return why what reads a tensor cannot take in a scale and shift of it, or `None`."""
    for step in network.readers(x):
        if step is None:
            return "the model ends"
        operation = step.operation
        if isinstance(operation, Convolution | Scale):
            reason = None
            if isinstance(operation, Convolution):
                reason = operation.why_not_after(shift)
            if reason is None and len(network.calls(operation)) > 1:
                reason = f"{operation.name} is shared"
        elif type(operation) in _PASSED and _treats_channels_alike(step, step.results):
            reason = _why_not_forward(network, step.results, shift)
        else:
            reason = f"{type(operation).__name__} {operation.name} comes"
        if reason is not None:
            return reason
    return None


def _push_forward(network: Network, x: KerasTensor, scale: np.ndarray, shift: np.ndarray) -> None:
    for step in network.readers(x):
        assert step is not None  # see `_why_not_forward`
        operation = step.operation
        if isinstance(operation, Scale):
            first = dataclasses.replace(operation, scale=scale, shift=shift)
            step.operation = first.then(operation.scale, operation.shift)
        elif isinstance(operation, Convolution):
            step.operation = operation.after(scale, shift)
        else:
            _push_forward(network, step.results, scale, shift)


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


def _move_stride(network: Network, pointwise: Convolution, report: FusionReport) -> None:
    """Move the stride of a 1x1 convolution into the depthwise one that its input comes from."""
    strides, calls = pointwise.strides, network.calls(pointwise)
    if pointwise.is_pointwise and max(strides) > 1 and strides[0] == strides[1] and len(calls) == 1:
        depthwise = _depthwise_before(network, calls[0])
        if depthwise is not None:
            network.replace_op(depthwise, dataclasses.replace(depthwise, strides=strides))
            network.replace_op(pointwise, dataclasses.replace(pointwise, strides=(1, 1)))
            report.moved_strides.append(pointwise.name)


def _depthwise_before(network: Network, step: Step | None) -> Convolution | None:
    """Return the undilated depthwise convolution of stride 1 that alone determines an input."""
    while step is not None:
        (x,) = step.inputs
        step = network.writer(x)
        if step is None or len(network.readers(x)) > 1 or len(network.calls(step.operation)) > 1:
            return None
        operation = step.operation
        if isinstance(operation, Convolution):
            form = (operation.kind, operation.strides, operation.dilation)
            return operation if form == ("depthwise", (1, 1), (1, 1)) else None
        if not isinstance(operation, Scale) and type(operation) not in _POINTWISE_FUNCTIONS:
            return None
    return None
