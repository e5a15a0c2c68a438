"""Whether two networks answer alike, up to rounding."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops, tree

from keras_multiception.graphs.copying import copy_state, rebuild_layer
from keras_multiception.graphs.reading import call_in_inference, require_graph, sort_inputs, walk
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

# How far answers may be from the model's, relative to the largest: the larger of this,
TOLERANCE = 1e-5
# and as many times what rounding alone does to them: in half precision, or with numbers that cancel
ROUNDING = 5

_BATCH_SIZE = 2
_OPEN_SIZE = 64  # of an image where the model leaves it open
_DRAWS = 5  # of random rounding
_UNIT_ROUNDOFF = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
_WITH_ACTIVATION = (
    layers.Conv2D,
    layers.Dense,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    MixConv2D,
    MulticeptionConv2D,
)
_SATURATING = (activations.sigmoid, activations.softmax, activations.tanh)
_SATURATING_OPERATIONS = ("Sigmoid", "Softmax", "Tanh")  # layers and functions of `keras.ops`


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

    A `RuntimeError` if that is more than `tolerance`, or the model's own are not finite. The
    default is `TOLERANCE`, or `ROUNDING` times what rounding alone does, where that is more.
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

    The output of each layer is moved at random, by up to twice what rounding can change it by in
    its dtype, as in Monte Carlo arithmetic. In a network that amplifies this, one such draw may
    come out ten times as far as another, so it is the farthest of several.
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

    A network that is sure of its answer gives the same probabilities for other numbers. `change`
    is applied to what each layer returns; the model's state stays as it is.
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
    if not isinstance(layer, _WITH_ACTIVATION):
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
