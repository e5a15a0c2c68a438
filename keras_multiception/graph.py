"""The graph behind a Keras model."""

import keras


def graph_of(operation):
    """Return the graph of a Functional or built Sequential model; `None` for everything else.

    Args:
        operation: A layer, model or operation of Keras.

    Returns:
        A `keras.Function` or `None`.
    """
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, keras.Function) else None


def innermost(x):
    """Follow an output of a model that is nested in another to the tensor in it.

    Args:
        x: `keras.KerasTensor` of a graph.

    Returns:
        A `keras.KerasTensor`, which a layer or operation makes that is no model.
    """
    while (graph := graph_of(x._keras_history.operation)) is not None:
        x = graph.outputs[x._keras_history.tensor_index]
    return x


def first_argument(args, kwargs):
    """Return what a layer or model is called on, by position or by name.

    Args:
        args: Tuple, its positional arguments.
        kwargs: Dictionary, its keyword arguments.

    Returns:
        A tensor or a structure of tensors; `None` if there is no argument.
    """
    return args[0] if args else kwargs.get("inputs", next(iter(kwargs.values()), None))


def call_in_inference(operation, *args, **kwargs):
    """Call a layer or operation as a model does that is called with `training=False`.

    Keras notes `training=True` with the calls of layers that augment images, and with others on
    demand; a model that is told overrules it.

    Args:
        operation: A layer, model or operation of Keras.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        What it returns.
    """
    if getattr(operation, "_call_has_training_arg", False):
        kwargs["training"] = False
    return operation(*args, **kwargs)
