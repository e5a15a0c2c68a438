"""Whether two networks answer alike."""

import keras
import numpy as np
from keras import activations, layers, ops, tree

from keras_multiception.copying import copy_state, rebuild_layer
from keras_multiception.graph import call_in_inference, graph_of, in_order, open_call
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

BATCH_SIZE = 2
OPEN_SIZE = 64  # of an image where the model leaves it open
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


def sample_inputs(model, inputs=None):
    """Return inputs of a model: those given, or random ones.

    Args:
        model: A model that has a graph.
        inputs: `None`, or the inputs in the structure that the model takes, or by name.

    Returns:
        A structure of arrays.

    Raises:
        ValueError: If the inputs do not fit the model, or are not given and it takes strings.
    """
    if inputs is None:
        strings = [x.name for x in graph_of(model).inputs if x.dtype == "string"]
        if strings:
            raise ValueError(
                "`inputs` must be given for a model that takes strings. "
                f"Received: inputs=None for {', '.join(strings)}"
            )
        rng = np.random.default_rng(0)
        return tree.map_structure(lambda x: _random(x, rng), graph_of(model).input)
    inputs = in_order(graph_of(model), inputs)
    expected = [tuple(x.shape) for x in tree.flatten(graph_of(model).input)]
    shapes = [tuple(getattr(x, "shape", ())) for x in tree.flatten(inputs)]
    if len(shapes) != len(expected) or not all(map(_fits, shapes, expected)):
        raise ValueError(
            f"`inputs` must fit those of the model, {', '.join(map(str, expected))}. "
            f"Received: inputs of the shapes {', '.join(map(str, shapes))}"
        )
    return inputs


def relative_difference(model, other, inputs):
    """Compare the outputs of two models in inference, without a change to their state.

    Outputs behind a softmax, sigmoid or tanh are compared in front of it: a network that is sure
    of its answer gives the same probabilities for other numbers.

    Args:
        model: The model that is right.
        other: The model to compare.
        inputs: Their inputs.

    Returns:
        A float: for each output, the largest difference by the largest absolute value; the
        largest of these.
    """
    return max(map(difference, linear_outputs(other, inputs), linear_outputs(model, inputs)))


def answers_are_finite(model, inputs):
    """Return whether all outputs of a model are finite, in front of a softmax too."""
    return all(np.isfinite(_float64(y)).all() for y in linear_outputs(model, inputs))


def rounding_difference(model, inputs):
    """Measure how far rounding alone moves the outputs of a model.

    The output of each layer is moved at random, by up to twice what rounding can change it by in
    its dtype, as in Monte Carlo arithmetic. In a network that amplifies this, one such draw may
    come out ten times as far as another, so it is the farthest of several.

    Args:
        model: A model that has a graph.
        inputs: Its inputs.

    Returns:
        A float, of the kind of `relative_difference`.
    """
    rng = np.random.default_rng(0)

    def move(x):
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
    return max(difference(*pair) for moved in draws for pair in zip(moved, expected, strict=True))


def linear_outputs(model, inputs, change=lambda results: results):
    """Return the outputs of a model, in front of their activation where that saturates.

    Args:
        model: A model that has a graph.
        inputs: Its inputs.
        change: A function that is applied to what each layer returns.

    Returns:
        A list of tensors.
    """
    saturated = {}  # by the id of a tensor: what made it, from what, and itself, to keep the id

    def call(operation, *args, **kwargs):
        graph, x = open_call(operation, args, kwargs)
        if graph is not None:
            return graph._run_through_graph(x, call_fn=call)
        y = change(call_in_inference(operation, *args, **kwargs))
        if (
            type(operation).__name__ in _SATURATING_OPERATIONS
            or getattr(operation, "activation", None) in _SATURATING
        ):
            saturated[id(y)] = operation, args, y
        return y

    graph = graph_of(model)
    tensors = [
        ops.convert_to_tensor(x, dtype=own.dtype)
        for x, own in zip(tree.flatten(inputs), graph.inputs, strict=True)
    ]
    with keras.StatelessScope():
        outputs = tree.flatten(graph._run_through_graph(tensors, call_fn=call))
    return [_before_activation(*saturated.get(id(y), (None, None, y))) for y in outputs]


def difference(actual, expected):
    """Return how far a tensor is from another.

    Args:
        actual: Tensor or array.
        expected: Tensor or array of the same shape.

    Returns:
        A float, the largest difference by the largest absolute value that is expected.
    """
    actual, expected = (_float64(x) for x in (actual, expected))
    largest = np.abs(expected).max(initial=0.0)
    return float(np.abs(actual - expected).max(initial=0.0) / (largest or 1.0))


def _random(x, rng):
    shape = [BATCH_SIZE if x.shape[0] is None else x.shape[0]]
    shape += [OPEN_SIZE if size is None else size for size in x.shape[1:]]
    if keras.backend.is_float_dtype(x.dtype):
        return rng.normal(size=shape).astype("float32")
    return rng.integers(0, 2, shape).astype(x.dtype)


def _fits(shape, expected):
    return len(shape) == len(expected) and all(
        own in (None, size) for size, own in zip(shape, expected, strict=True)
    )


def _before_activation(layer, args, y):
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


def _float64(x):
    """Return a tensor as an array of float64, from any dtype, which NumPy need not know."""
    if keras.backend.standardize_dtype(x.dtype) not in ("float32", "float64"):
        x = ops.cast(x, "float32")
    return np.asarray(ops.convert_to_numpy(x), "float64")
