"""The Multiception layers of a network, and a run through it that sees every part."""

import functools

from keras_multiception.graph import call_in_inference, graph_of, open_call
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D


def multiception_layers(model):
    """Find the `MulticeptionConv2D` layers of a model.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; nested ones are opened.

    Returns:
        A dictionary from names, as in `km.cost`, to layers, in the order of the network.

    Raises:
        ValueError: If the model has no graph or no such layer in it.
    """
    names: dict[MulticeptionConv2D, str] = {}  # a layer that is shared counts once
    if graph_of(model) is not None:
        for name, layer in _named_layers(model):
            names.setdefault(layer, name)
    if not names:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one that has "
            f"MulticeptionConv2D layers. Received: model={model!r}"
        )
    return {name: layer for layer, name in names.items()}


def run(model, x, visit):
    """Run a model part by part, in inference.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; nested ones are opened.
        x: Tensor, its input.
        visit: Function of (name, operation, inputs, outputs), called behind each layer and model.
    """

    def call(prefix, operation, *args, **kwargs):
        name = prefix + operation.name
        graph, inputs = open_call(operation, args, kwargs)
        if graph is None:
            outputs = call_in_inference(operation, *args, **kwargs)
        else:
            outputs = graph._run_through_graph(inputs, call_fn=functools.partial(call, f"{name}/"))
        visit(name, operation, inputs, outputs)
        return outputs

    graph_of(model)._run_through_graph(x, call_fn=functools.partial(call, ""))


def _named_layers(model, prefix=""):
    for layer in model.layers:
        name = prefix + layer.name
        if isinstance(layer, MulticeptionConv2D):
            yield name, layer
        elif graph_of(layer) is not None:
            yield from _named_layers(layer, f"{name}/")
