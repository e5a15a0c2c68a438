"""Copy layers and models, with other layers in some places."""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from keras_multiception.graphs.reading import graph_of, require_graph


def rebuild(model: keras.Model, successors: Mapping[Any, list]) -> keras.Model:
    """Return an uncompiled copy of a model, everything kept, with other layers in place of some.

    `successors` maps a layer, also of a nested model, to the list of layers, one after the other,
    that take its place and its `trainable`. An empty list leaves it out.
    """
    return _Rebuilding(successors).run(model)


class _Rebuilding:
    def __init__(self, successors: Mapping[Any, list]) -> None:
        self.successors = dict(successors)  # with those that are copies
        self.replaced = set(successors)

    def run(self, model: keras.Model) -> keras.Model:
        self.successors[model] = [self.rebuild(model)]
        # a model comes after its layers, and what it makes of `trainable` they may undo
        for old, successors in reversed(self.successors.items()):
            for new in successors if isinstance(old, layers.Layer) else ():
                new.trainable = old.trainable
                if old not in self.replaced and graph_of(old) is None:
                    copy_state(old, new)
        return self.successors[model][0]

    def rebuild(self, model: keras.Model) -> keras.Model:
        graph = require_graph(model)
        if isinstance(model, keras.Sequential):
            old = [graph.inputs[0]._keras_history.operation, *model.layers]
            return keras.Sequential([new for x in old for new in self.follow(x)], name=model.name)
        inputs = tree.map_structure(
            lambda x: self.follow(x._keras_history.operation)[0].output, model.input
        )
        outputs = graph._run_through_graph(inputs, call_fn=self.call)
        return keras.Model(inputs, outputs, name=model.name)

    def follow(self, operation: Any) -> list:
        if operation not in self.successors:
            build = rebuild_layer if graph_of(operation) is None else self.rebuild
            self.successors[operation] = [build(operation)]
        return self.successors[operation]

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        successors = self.follow(operation)
        if not successors:
            return tree.flatten((args, kwargs))[0]
        first, *others = successors
        return functools.reduce(lambda x, layer: layer(x), others, first(*args, **kwargs))


def rebuild_layer(layer: Any) -> Any:
    """Return a layer or operation of the same config; its weights are new."""
    if isinstance(layer, layers.Lambda):  # its function as it is: a config has no closures
        return layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            dtype=layer.dtype_policy,
            name=layer.name,
        )
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "`model` must consist of layers that can be rebuilt from their config. "
            f"Received: a {type(layer).__name__} named {layer.name!r}"
        ) from error


def copy_activation(activation: Any) -> Any:
    """Return an activation for a new model: a function as it is, a layer as a copy."""
    if not isinstance(activation, layers.Layer):
        return activation
    copy = rebuild_layer(activation)
    copy_state(activation, copy)
    return copy


def copy_state(old: keras.Layer, new: keras.Layer) -> None:
    """Copy weights and flags of a layer, and of those inside it, which may be unbuilt."""
    for source, target in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        if source.built and not target.built:
            target.build_from_config(source.get_build_config())
        state: dict = {}
        source.save_own_variables(state)
        target.load_own_variables({name: copy_values(x) for name, x in state.items()})
        target.trainable = source.trainable


def copy_values(variable: Any) -> Any:
    """Return a `keras.Variable` as a new array: on JAX, training deletes arrays models share."""
    is_variable = isinstance(variable, keras.Variable)
    return np.array(keras.ops.convert_to_numpy(variable)) if is_variable else variable


def unique_name(name: str, taken: set[str]) -> str:
    """Return a name, with underscores added until it is not taken; it is then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
