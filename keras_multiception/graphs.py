"""Keras graphs: read them, copy them with changes, compare their answers."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops, tree

from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.trainable_parts import copy_trainable

# How far answers may be from the model's, relative to the largest: the larger of this,
TOLERANCE = 1e-5
# and as many times what rounding alone does to them: in half precision, or with numbers that cancel
ROUNDING = 5

_BATCH_SIZE = 2
_OPEN_SIZE = 64  # of an image where the model leaves it open
_DRAWS = 5  # of random rounding
_UNIT_ROUNDOFF = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
WITH_ACTIVATION = (
    layers.Conv2D,
    layers.Dense,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    MixConv2D,
    MulticeptionConv2D,
)
_SATURATING = (activations.sigmoid, activations.softmax, activations.tanh)
_SATURATING_OPERATIONS = ("Sigmoid", "Softmax", "Tanh")  # layers and functions of `keras.ops`


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

    def next(self, layer: Any) -> Any:
        """Return the only layer that reads the output of another, if both are called once.

        It must be called with that output alone: `training=False`, say, is more than that.
        """
        readers = [x for call in self.of[layer] for x in self._readers[id(call.outputs[0])]]
        if len(self.of[layer]) != 1 or len(readers) != 1:
            return None
        (reader,) = readers
        calls = self.of[reader] if reader is not None else []
        plain = all(x is None for call in calls for x in call.arguments.kwargs.values())
        return reader if len(calls) == 1 and plain else None


def rebuild(model: keras.Model, successors: Mapping[Any, list]) -> keras.Model:
    """Return an uncompiled copy of a model, everything kept, with other layers in place of some.

    `successors` maps a layer, also of a nested model, to those that take its place and `trainable`,
    one after the other; an empty list leaves it out.
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
    copy_trainable(old, new)


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


def sample_inputs(model: keras.Model, inputs: Any = None) -> Any:
    """Return inputs of a model: those given, in its structure or by name, or random ones."""
    graph = require_graph(model)
    if inputs is None:
        rng = np.random.default_rng(0)
        return tree.map_structure(lambda x: _random(x, rng), graph.input)
    inputs = sort_inputs(graph, inputs)
    expected = [tuple(x.shape) for x in tree.flatten(graph.input)]
    shapes = [tuple(getattr(x, "shape", ())) for x in tree.flatten(inputs)]
    if len(shapes) != len(expected) or not all(map(fits, shapes, expected)):
        raise ValueError(
            f"`inputs` must fit the model's, {', '.join(map(str, expected))}. "
            f"Received: inputs of the shapes {', '.join(map(str, shapes))}"
        )
    return inputs


def fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    """Return whether a shape is as expected; `None` stands for any size."""
    return len(shape) == len(expected) and all(
        own in (None, size) for size, own in zip(shape, expected, strict=True)
    )


def require_equal_answers(
    model: keras.Model, answers: Sequence[Any], inputs: Any, tolerance: float | None = None
) -> float:
    """Return how far another model's `linear_outputs` are from a model's, relative to the largest.

    More than `tolerance` is a `RuntimeError`: by default the larger of `TOLERANCE` and `ROUNDING`
    times what rounding alone does.
    """
    expected = linear_outputs(model, inputs)
    difference = max(map(relative_difference, answers, expected))
    limit = TOLERANCE if tolerance is None else tolerance
    if not difference <= limit and tolerance is None:
        limit = max(limit, ROUNDING * rounding_difference(model, inputs))
    if not difference <= limit:
        if not all(np.isfinite(_float64(y)).all() for y in expected):
            raise RuntimeError(
                "The model's answers must be finite, for the new model's to be compared with them. "
                "Received: infinite ones or NaN; do the weights, or the `inputs`, make sense?"
            )
        raise RuntimeError(
            f"The new model must answer like the model, within {limit:.1e} of the largest "
            f"output. Received: outputs that differ by {difference:.1e}"
        )
    return difference


def rounding_difference(model: keras.Model, inputs: Any) -> float:
    """Measure how far rounding alone moves the outputs of a model, as a `relative_difference`.

    As in Monte Carlo arithmetic, the output of each layer is moved at random, by up to twice what
    rounding can change it by; it is the farthest of several draws, which may differ tenfold.
    """
    rng = np.random.default_rng(0)

    def move(x: Any) -> Any:
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype not in _UNIT_ROUNDOFF:
            return x
        noise = rng.uniform(-2, 2, tuple(x.shape)) * _UNIT_ROUNDOFF[dtype]
        factor = ops.convert_to_tensor(1 + noise, dtype="float32")
        return ops.cast(ops.cast(x, "float32") * factor, dtype)

    expected = linear_outputs(model, inputs)
    draws = (
        linear_outputs(model, inputs, lambda results: tree.map_structure(move, results))
        for _ in range(_DRAWS)
    )
    return max(
        relative_difference(*pair) for moved in draws for pair in zip(moved, expected, strict=True)
    )


def linear_outputs(
    model: keras.Model, inputs: Any, change: Callable[[Any], Any] = lambda results: results
) -> list:
    """Return a model's outputs in inference, before a softmax, sigmoid or tanh at the end.

    Probabilities of 0 and 1 hide differences. `change` is applied to what each layer returns.
    """
    saturated = {}  # by the id of a tensor: what made it, from what, and itself, to keep the id

    def call(path: tuple, operation: Any, *args: Any, **kwargs: Any) -> Any:
        y = change(call_in_inference(path, operation, *args, **kwargs))
        if (
            type(operation).__name__ in _SATURATING_OPERATIONS
            or getattr(operation, "activation", None) in _SATURATING
        ):
            saturated[id(y)] = operation, args, y
        return y

    graph = require_graph(model)
    tensors = [
        ops.convert_to_tensor(x, dtype=own.dtype)
        for x, own in zip(tree.flatten(inputs), graph.inputs, strict=True)
    ]
    with keras.StatelessScope():
        outputs = tree.flatten(walk(graph, tensors, call))
    return [_before_activation(*saturated.get(id(y), (None, None, y))) for y in outputs]


def relative_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference of two tensors by the largest absolute value expected."""
    actual, expected = (_float64(x) for x in (actual, expected))
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(actual - expected).max(initial=0.0) / (largest or 1.0))


def _random(x: keras.KerasTensor, rng: np.random.Generator) -> np.ndarray:
    shape = [_BATCH_SIZE if x.shape[0] is None else x.shape[0]]
    shape += [_OPEN_SIZE if size is None else size for size in x.shape[1:]]
    if keras.backend.is_float_dtype(x.dtype):
        return rng.normal(size=shape).astype("float32")
    return rng.integers(0, 2, shape).astype(x.dtype)


def _before_activation(layer: Any, args: Any, y: Any) -> Any:
    is_activation = isinstance(layer, layers.Activation)
    if is_activation or type(layer).__name__ in _SATURATING_OPERATIONS:
        return args[0]
    if not isinstance(layer, WITH_ACTIVATION):
        return y
    linear = rebuild_layer(layer)
    linear.build(args[0].shape)
    copy_state(layer, linear)
    linear.activation = activations.linear
    return linear(args[0])


def _float64(x: Any) -> np.ndarray:
    """Return a tensor as an array of float64, from any dtype, which NumPy need not know."""
    if keras.backend.standardize_dtype(x.dtype) not in ("float32", "float64"):
        x = ops.cast(x, "float32")
    return np.asarray(ops.convert_to_numpy(x), "float64")
