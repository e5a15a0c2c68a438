"""Rewriting a network until no scale, stride or bias is left that can go elsewhere."""

import dataclasses

import numpy as np
from keras import layers

from keras_multiception.fusion.operations import LINEAR, Convolution, Scale, join_biases

# what a scale and shift of each channel can pass, for it treats every channel alike and linearly
_PASSED = (
    layers.AveragePooling2D,
    layers.Cropping2D,
    layers.GlobalAveragePooling2D,
    layers.UpSampling2D,
)
_POINTWISE_FUNCTIONS = (layers.Activation, layers.ELU, layers.LeakyReLU, layers.ReLU)


def fold(network, report):
    """Fold batch norms, move strides and join biases, wherever that is exact.

    Args:
        network: A `Network`; it is changed.
        report: The `FusionReport`, to which is added what was done and what was not.
    """
    _fold_shared(network, report)
    _fold_scales(network, report)
    for convolution in network.operations(Convolution):
        _move_stride(network, convolution, report)
    for depthwise, pointwise in pairs(network):
        joined = join_biases(depthwise, pointwise)
        exchange(network, zip((depthwise, pointwise), joined, strict=True))


def pairs(network):
    """Find the linear depthwise convolutions that a 1x1 convolution, and nothing else, reads.

    Args:
        network: A `Network`.

    Returns:
        A list of pairs of `Convolution`.
    """
    found = []
    for depthwise in network.operations(Convolution):
        if depthwise.kind != "depthwise" or depthwise.activation is not LINEAR:
            continue
        pointwise = _common_reader(network, depthwise)
        calls = [len(network.calls(operation)) for operation in (depthwise, pointwise)]
        if isinstance(pointwise, Convolution) and pointwise.is_pointwise and len(set(calls)) == 1:
            found.append((depthwise, pointwise))
    return found


def exchange(network, operations):
    """Put operations in the place of others.

    Args:
        network: A `Network`; it is changed.
        operations: Pairs of an old operation and a new one.
    """
    for old, new in operations:
        for step in network.calls(old):
            step.operation = new


def _common_reader(network, operation):
    """Return the operation that reads every call of another, and nothing else; or `None`."""
    calls = network.calls(operation)
    readers = [network.only_reader(step.results) for step in calls]
    if None in readers or len({id(reader.operation) for reader in readers}) > 1:
        return None
    return readers[0].operation


def _fold_shared(network, report):
    """Fold a batch norm that follows every call of a shared convolution into that."""
    for convolution in network.operations(Convolution):
        scale = _common_reader(network, convolution)
        calls = network.calls(convolution)
        if len(calls) > 1 and isinstance(scale, Scale) and convolution.activation is LINEAR:
            exchange(network, [(convolution, convolution.then(scale.scale, scale.shift))])
            for step in calls:
                network.remove(network.only_reader(step.results))
            report.folded.append(scale.name)


def _fold_scales(network, report):
    """Fold what scales and shifts into what makes their inputs, or else into what reads them."""
    left = {}
    for step in [step for step in network.steps if isinstance(step.operation, Scale)]:
        (x,) = step.inputs
        obstacle = _obstacle_before(network, x)
        if obstacle is None and x.dtype != step.results.dtype:
            obstacle = f"what comes before it is in {x.dtype}"
        if obstacle is None:
            network.remove(step)
            _push_back(network, x, step.operation.scale, step.operation.shift)
            report.folded.append(step.operation.name)
        else:
            left[step] = obstacle
    for step, before in left.items():
        name, scale, shift = (getattr(step.operation, part) for part in ("name", "scale", "shift"))
        behind = _obstacle_behind(network, step.results, shift)
        if behind is None:
            _push_forward(network, step.results, scale, shift)
            network.remove(step)
            report.folded.append(name)
        else:
            report.left[name] = f"{before}, and behind it {behind}"


def _obstacle_before(network, x):
    """Return why a scale and shift of a tensor cannot be made where it comes from, or `None`."""
    step = network.writer(x)
    if step is None:
        return "it reads an input of the model"
    operation = step.operation
    if len(network.readers(x)) > 1:
        return f"more than it reads {operation.name}"
    if len(network.calls(operation)) > 1:
        return f"{operation.name} in front is shared"
    if isinstance(operation, Scale):
        return None
    if isinstance(operation, Convolution):
        linear = operation.activation is LINEAR
        return None if linear else f"the activation of {operation.name} comes before it"
    if _treats_channels_alike(step, x):
        obstacles = [_obstacle_before(network, y) for y in step.inputs]
        return next((obstacle for obstacle in obstacles if obstacle is not None), None)
    return f"{type(operation).__name__} {operation.name} comes before it"


def _push_back(network, x, scale, shift):
    step = network.writer(x)
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


def _obstacle_behind(network, x, shift):
    """Return why what reads a tensor cannot take in a scale and shift of it, or `None`."""
    for step in network.readers(x):
        if step is None:
            return "the model ends"
        operation = step.operation
        if isinstance(operation, Convolution | Scale):
            obstacle = None
            if isinstance(operation, Convolution):
                obstacle = operation.obstacle_after(shift)
            if obstacle is None and len(network.calls(operation)) > 1:
                obstacle = f"{operation.name} is shared"
        elif type(operation) in _PASSED and _treats_channels_alike(step, step.results):
            obstacle = _obstacle_behind(network, step.results, shift)
        else:
            obstacle = f"{type(operation).__name__} {operation.name} comes"
        if obstacle is not None:
            return obstacle
    return None


def _push_forward(network, x, scale, shift):
    for step in network.readers(x):
        operation = step.operation
        if isinstance(operation, Scale):
            first = dataclasses.replace(operation, scale=scale, shift=shift)
            step.operation = first.then(operation.scale, operation.shift)
        elif isinstance(operation, Convolution):
            step.operation = operation.after(scale, shift)
        else:
            _push_forward(network, step.results, scale, shift)


def _treats_channels_alike(step, x):
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


def _move_stride(network, pointwise, report):
    """Move the stride of a 1x1 convolution into the depthwise one that its input comes from."""
    strides, calls = pointwise.strides, network.calls(pointwise)
    if pointwise.is_pointwise and max(strides) > 1 and strides[0] == strides[1] and len(calls) == 1:
        depthwise = _depthwise_before(network, *calls)
        if depthwise is not None:
            exchange(network, [(depthwise, dataclasses.replace(depthwise, strides=strides))])
            exchange(network, [(pointwise, dataclasses.replace(pointwise, strides=(1, 1)))])
            report.moved_strides.append(pointwise.name)


def _depthwise_before(network, step):
    """Return the undilated depthwise convolution of stride 1 that alone determines an input."""
    while step is not None:
        (x,) = step.inputs
        step = network.writer(x)
        if step is None or len(network.readers(x)) > 1 or len(network.calls(step.operation)) > 1:
            return None
        operation = step.operation
        if isinstance(operation, Convolution):
            fits = (operation.kind, operation.strides, operation.dilation)
            return operation if fits == ("depthwise", (1, 1), (1, 1)) else None
        if not isinstance(operation, Scale) and type(operation) not in _POINTWISE_FUNCTIONS:
            return None
    return None
