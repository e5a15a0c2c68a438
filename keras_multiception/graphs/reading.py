"""Read the graph of a Keras model: walk through it, nested models inlined; ask who reads what."""

import collections
from collections.abc import Callable
from typing import Any

import keras


def graph_of(operation: Any) -> Any:
    """Return the graph of a Functional or built Sequential model; `None` for everything else.

    A model whose class has a `call` of its own may do something other than its graph.
    """
    if not isinstance(operation, (keras.Sequential, keras.Function)):
        return None
    if not type(operation).call.__module__.startswith("keras."):
        return None
    return operation._functional if isinstance(operation, keras.Sequential) else operation


def require_graph(model: Any) -> keras.Function:
    """Return the graph of a `keras.Model`; a `ValueError` if it has none."""
    graph = graph_of(model) if isinstance(model, keras.Model) else None
    if graph is None:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one of Keras 3. "
            f"Received: model={model!r}"
        )
    return graph


def walk(
    graph: keras.Function,
    inputs: Any,
    call: Callable,
    path: tuple[str, ...] = (),
) -> Any:
    """Run a graph, inside of the models named in `path`, part by part; return its outputs.

    `call` makes the outputs of a layer or operation from (path, operation, *args, **kwargs).
    """

    def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nested = graph_of(operation)
        if nested is None:
            return call(path, operation, *args, **kwargs)
        x = sort_inputs(nested, first_argument(args, kwargs))
        return walk(nested, x, call, (*path, operation.name))

    return graph._run_through_graph(inputs, call_fn=run)


def sort_inputs(graph: keras.Function, inputs: Any) -> Any:
    """Return what a model is called on in the structure of its inputs, also if given by name."""
    by_name = isinstance(inputs, dict) and not isinstance(graph.input, dict)
    if by_name and all(x.name in inputs for x in graph.inputs):
        return [inputs[x.name] for x in graph.inputs]
    return inputs


def resolve_output(x: keras.KerasTensor) -> keras.KerasTensor:
    """Follow an output of a nested model to the tensor that a layer or operation in it makes."""
    while (graph := graph_of(x._keras_history.operation)) is not None:
        x = graph.outputs[x._keras_history.tensor_index]
    return x


def first_argument(args: tuple, kwargs: dict) -> Any:
    """Return what a layer or model is called on, by position or by name."""
    return args[0] if args else kwargs.get("inputs", next(iter(kwargs.values()), None))


def call_in_inference(path: tuple, operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a layer or operation in a `walk` as a model does with `training=False`."""
    if getattr(operation, "_call_has_training_arg", False):
        kwargs["training"] = False
    return operation(*args, **kwargs)


class Calls:
    """The calls of all layers of a model, including its nested models."""

    def __init__(self, model: keras.Model) -> None:
        self.layers: dict[keras.Layer, None] = {}  # a set, in the order of the network
        self.of: dict[Any, list] = collections.defaultdict(list)  # calls by layer or operation
        self._readers: dict = collections.defaultdict(list)  # by id of a tensor; None: the end
        self._add(model)

    def _add(self, model: keras.Model) -> None:
        graph = require_graph(model)
        for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
            self.of[node.operation].append(node)
            for x in node.input_tensors:
                self._readers[id(x)].append(node.operation)
        for x in graph.outputs:
            self._readers[id(x)].append(None)
        for layer in model.layers:
            if layer not in self.layers:
                self.layers[layer] = None
                if graph_of(layer) is not None:
                    self._add(layer)

    def readers_of(self, layer: Any) -> list:
        """Return the layers that read the output of a layer that is called once."""
        (call,) = self.of[layer]
        return self._readers[id(call.outputs[0])]

    def next(self, layer: Any) -> Any:
        """Return the only layer that reads the output of another, if both are called once.

        It must be called with that output alone: `training=False`, say, is more than that.
        """
        if len(self.of[layer]) != 1 or len(self.readers_of(layer)) != 1:
            return None
        (reader,) = self.readers_of(layer)
        calls = self.of[reader] if reader is not None else []
        plain = all(x is None for call in calls for x in call.arguments.kwargs.values())
        return reader if len(calls) == 1 and plain else None
