"""The names by which the outputs of a LiteRT file are called."""

import itertools

import keras

from keras_multiception.graphs.reading import graph_of

PROBABILITIES = "probabilities"


def output_names(model):
    """Return what the outputs of a model are called in the signature of its LiteRT file.

    Args:
        model: A Functional or Sequential model of Keras 3 or of `tf_keras`.

    Returns:
        A list of strings, one for each output: `"probabilities"` for a softmax that is the only
        one, else the names of the layers, with `_1`, `_2` and so on behind those that repeat.
    """
    graph = graph_of(model) if isinstance(model, keras.Model) else model
    if len(graph.outputs) == 1 and _is_softmax(graph.outputs[0]):
        return [PROBABILITIES]
    names: list[str] = []
    for own in graph.output_names:
        name = base = own.removeprefix("quant_")
        for number in itertools.count(1):
            if name not in names:
                break
            name = f"{base}_{number}"
        names.append(name)
    return names


def _is_softmax(tensor):
    history = tensor._keras_history
    layer = getattr(history, "operation", None) or history.layer
    layer = getattr(layer, "layer", layer)  # the wrapper of quantization-aware training
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)
    return type(layer).__name__ == "Softmax" or getattr(activation, "__name__", "") == "softmax"
