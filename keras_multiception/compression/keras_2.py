"""Keras 3 models as models of Keras 2, `tf_keras`."""

import numpy as np
from keras import layers, tree

from keras_multiception.compression.keras_2_layers import build_layer, is_known
from keras_multiception.compression.keras_2_operations import layer_of
from keras_multiception.graphs.copying import unique_name
from keras_multiception.graphs.equality import require_equal_answers, sample_inputs
from keras_multiception.graphs.reading import Calls, first_argument, graph_of, require_graph, walk

SATURATING = ("sigmoid", "softmax", "tanh")


def to_tf_keras(model, inputs=None):
    """Rebuild a Keras 3 model with the layers of `tf_keras`, and hand its weights on.

    The new model is flat: nested models are opened, and our own layers are written out.
    `MulticeptionConv2D` becomes a batch norm for each branch, which is the same, in training too,
    as one behind the concatenation, and what quantization-aware training can take; Shake-Shake
    becomes the mean of its inputs, and a slice of an image's channels a crop. Regularizers,
    constraints and initializers are dropped. In training, the moving variances of Keras 2 are
    averages of unbiased variances, those of Keras 3 of biased ones.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        inputs: Inputs of the model, for the comparison. The default is two random ones.

    Returns:
        A Functional `tf_keras.Model`.

    Raises:
        ImportError: If `tf_keras` is not installed.
        ValueError: If the model is not Functional or a built Sequential one of Keras 3, or has
            layers that this cannot rebuild; all of them are named.
        RuntimeError: If the new model answers otherwise than the model.

    Example:
        >>> from keras_multiception.compression import to_tf_keras
        >>> legacy = to_tf_keras(km.ResNet20())
    """
    import tf_keras

    graph = require_graph(model)
    _require_known_layers(model)
    own = tree.map_structure(
        lambda x: tf_keras.Input(batch_shape=x.shape, dtype=x.dtype, name=_input_name(x)),
        graph.input,
    )
    builder = _Builder()
    outputs = walk(graph, own, builder.call)
    legacy = tf_keras.Model(own, outputs, name=model.name)
    inputs = sample_inputs(model, inputs)
    answers = _linear_outputs(legacy, tree.map_structure(np.asarray, inputs))
    require_equal_answers(model, answers, inputs)
    return legacy


class _Builder:
    """Calls the layers of Keras 2 that stand for those of Keras 3."""

    def __init__(self):
        self.built = {}  # from the id of a layer to a function of tensors
        self.names = set()

    def call(self, path, operation, *args, **kwargs):
        """Return what a layer or operation makes of tensors of Keras 2."""
        if graph_of(operation) is not None:
            raise ValueError(
                "`model` must call nested models on tensors of the type and rank of their inputs. "
                f"Received: {operation.name}, called on {tree.flatten((args, kwargs))}"
            )
        if not isinstance(operation, layers.Layer):
            return layer_of(operation)(args, self._name(path, operation))
        if id(operation) not in self.built:
            self.built[id(operation)] = build_layer(operation, self._name(path, operation))
        return self.built[id(operation)](first_argument(args, kwargs))

    def _name(self, path, operation):
        name = operation.name
        return unique_name("_".join((*path, name)) if name in self.names else name, self.names)


def _require_known_layers(model):
    calls = Calls(model)
    graphs = [model, *(layer for layer in calls.layers if graph_of(layer) is not None)]
    operations = {x: None for x in calls.of if x not in graphs and not _is_input(x)}
    unknown = [x for x in operations if not is_known(x)]
    called_oddly = [
        x
        for x in operations
        if x not in unknown and any(call.arguments.kwargs.get("training") for call in calls.of[x])
    ]
    if unknown or called_oddly:
        names = [f"{type(x).__name__} {x.name}" for x in unknown]
        names += [f"{type(x).__name__} {x.name} with training=True" for x in called_oddly]
        raise ValueError(
            "`model` must consist of layers that can be rebuilt in tf_keras. "
            f"Received: {', '.join(names)}"
        )


def _is_input(operation):
    return type(operation).__name__ == "InputLayer"


def _input_name(x):
    return x._keras_history.operation.name


def _linear_outputs(legacy, inputs):
    """Return the outputs of a model of Keras 2 as arrays, before softmax, sigmoid and tanh."""
    import tf_keras

    last = [y.node.layer for y in legacy.outputs]
    saturates = [
        isinstance(x, tf_keras.layers.Softmax)
        or getattr(getattr(x, "activation", None), "__name__", "") in SATURATING
        for x in last
    ]
    ends = [
        y.node.keras_inputs[0] if is_last else y
        for y, is_last in zip(legacy.outputs, saturates, strict=True)
    ]
    values = tree.flatten(tf_keras.Model(legacy.input, ends)(inputs, training=False))
    return [
        np.asarray(_without_activation(layer, value) if is_last else value)
        for layer, value, is_last in zip(last, values, saturates, strict=True)
    ]


def _without_activation(layer, x):
    if not hasattr(layer, "activation"):
        return x
    activation, layer.activation = layer.activation, lambda y: y
    try:
        return layer(x)
    finally:
        layer.activation = activation
