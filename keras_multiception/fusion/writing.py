"""Write a network of steps as a Keras model of ordinary layers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, tree

from keras_multiception.blocks import CHANNELS_LAST
from keras_multiception.fusion.operations import (
    LINEAR,
    Branch,
    Convolution,
    Scale,
    same_padding,
)
from keras_multiception.fusion.reading import Network
from keras_multiception.graphs.copying import (
    copy_activation,
    copy_state,
    rebuild_layer,
    unique_name,
)
from keras_multiception.graphs.reading import graph_of, inline_call, require_graph

_Function = Callable[[Any], Any]  # of a tensor


def write_network(
    network: Network,
    model: keras.Model,
    names: dict[int, str],
    fuse_nested: Callable[[keras.Model, list], keras.Model],
) -> keras.Model:
    """Build a Functional model that computes what a network does.

    It takes inputs and name from `model`, which the network was read from with `names`;
    `fuse_nested` makes a new model of a nested one and the shapes of its inputs.
    """
    inputs = tree.map_structure(
        lambda x: rebuild_layer(x._keras_history.operation).output, require_graph(model).input
    )
    taken = {*names.values(), *(step.operation.name for step in network.steps)}
    unique = functools.partial(unique_name, taken=taken)
    tensors = dict(zip(map(id, network.inputs), tree.flatten(inputs), strict=True))
    written: dict[int, Any] = {}  # by the id of an operation, a function of tensors

    def tensor(x: Any) -> Any:
        return tensors.get(id(x), x)

    for step in network.steps:
        operation = step.operation
        args, kwargs = tree.map_structure(tensor, (step.args, step.kwargs))
        if id(operation) not in written:
            if isinstance(operation, Convolution):
                activation = copy_activation(operation.activation, written)
                own = dataclasses.replace(operation, activation=activation)
                written[id(operation)] = write_convolution(own, unique)
            elif isinstance(operation, Scale):
                written[id(operation)] = _write_scale(operation)
            elif graph_of(operation) is not None:
                _, x = inline_call(operation, step.args, step.kwargs)
                written[id(operation)] = fuse_nested(operation, [y.shape for y in tree.flatten(x)])
            else:
                written[id(operation)] = rebuild_layer(operation)
                written[id(operation)].name = names[id(operation)]
        new = written[id(operation)]
        results = tree.flatten(new(*args, **kwargs))
        if isinstance(operation, layers.Layer) and graph_of(operation) is None:
            copy_state(operation, new)
        tensors.update(zip(map(id, tree.flatten(step.results)), results, strict=True))
    return keras.Model(inputs, tree.map_structure(tensor, network.outputs), name=model.name)


def write_convolution(convolution: Convolution, unique: Callable[[str], str] = str) -> _Function:
    """Return a function of tensors that calls the layers of a convolution, always the same.

    `unique` makes the name of a layer one that no other has.
    """
    several = len(convolution.branches) > 1
    biases = convolution.split(convolution.bias)
    branches = [
        _write_branch(convolution, branch, bias, f"_{index}" if several else "", unique)
        for index, (branch, bias) in enumerate(zip(convolution.branches, biases, strict=True))
    ]
    if not several:
        return branches[0]
    name, shared = convolution.name, {"dtype": convolution.dtype}
    if convolution.activation is LINEAR:
        concatenate = layers.Concatenate(name=name, **shared)
        return lambda x: concatenate([branch(x) for branch in branches])
    concatenate = layers.Concatenate(name=unique(f"{name}_concat"), **shared)
    activation = layers.Activation(convolution.activation, name=name, **shared)
    return lambda x: activation(concatenate([branch(x) for branch in branches]))


def _write_branch(
    convolution: Convolution,
    branch: Branch,
    bias: np.ndarray,
    suffix: str,
    unique: Callable[[str], str],
) -> _Function:
    """Return a function from the input of a convolution to the output of one branch."""
    is_only = not suffix
    name = convolution.name if is_only else unique(convolution.name + suffix)
    shared: dict[str, Any] = {
        "use_bias": bool(np.any(bias)),
        "activation": convolution.activation if is_only else None,
        "dtype": convolution.dtype,
        "name": name,
    }
    kernel = branch.kernel
    if convolution.kind == "dense":
        layer, pad = layers.Dense(kernel.shape[3], **shared), None
        kernel = kernel[0, 0]
    else:
        padding, pad = _write_padding(convolution, branch, unique(f"{name}_pad"))
        shared.update(
            strides=convolution.strides,
            dilation_rate=convolution.dilation,
            padding=padding,
            **CHANNELS_LAST,
        )
        size = kernel.shape[:2]
        if convolution.kind == "depthwise":
            layer = layers.DepthwiseConv2D(size, depth_multiplier=kernel.shape[3], **shared)
        else:
            layer = layers.Conv2D(kernel.shape[3], size, groups=convolution.groups, **shared)
    weights = [kernel, bias] if shared["use_bias"] else [kernel]

    def call(x: KerasTensor) -> KerasTensor:
        if not is_only and branch.kernel.shape[2] < x.shape[-1]:
            x = x[:, :, :, branch.channels]
        return _call_with(layer, x if pad is None else pad(x), weights)

    return call


def _write_padding(
    convolution: Convolution, branch: Branch, name: str
) -> tuple[str, keras.Layer | None]:
    """Return the `padding` argument of a branch and the layer that pads, or `None`."""
    if not branch.is_padded:
        return "valid", None
    size = branch.kernel.shape[:2]
    if branch.padding == "same" or (
        convolution.strides == (1, 1) and branch.padding == same_padding(size, convolution.dilation)
    ):
        return "same", None
    pad = layers.ZeroPadding2D(branch.padding, name=name, dtype=convolution.dtype, **CHANNELS_LAST)
    return "valid", pad


def _write_scale(scale: Scale) -> _Function:
    """Return a function that scales: of images a 1x1 depthwise convolution."""
    image = layers.DepthwiseConv2D(1, dtype=scale.dtype, name=scale.name, **CHANNELS_LAST)
    other = layers.BatchNormalization(epsilon=1e-3, dtype=scale.dtype, name=scale.name)
    ones, zeros = np.ones_like(scale.scale), np.zeros_like(scale.scale)

    def call(x: KerasTensor) -> KerasTensor:
        if len(x.shape) == 4:
            return _call_with(image, x, [scale.scale.reshape(1, 1, -1, 1), scale.shift])
        return _call_with(other, x, [scale.scale, scale.shift, zeros, ones - other.epsilon])

    return call


def _call_with(layer: keras.Layer, x: KerasTensor, weights: list[np.ndarray]) -> KerasTensor:
    """Call a layer, at the first time with the weights that it is to have."""
    if not layer.built:
        layer.build(x.shape)
        # after its own come those of its activation, if that is a layer
        for variable, value in zip(layer.weights, weights, strict=False):
            variable.assign(value)
    return layer(x)
