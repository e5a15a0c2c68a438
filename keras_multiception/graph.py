"""The graph behind a Keras model."""

import keras
from keras import tree


def graph_of(operation):
    """Return the graph of a Functional or built Sequential model; `None` for everything else.

    A model whose class has a `call` of its own does something else than its graph.

    Args:
        operation: A layer, model or operation of Keras.

    Returns:
        A `keras.Function` or `None`.
    """
    if not isinstance(operation, (keras.Sequential, keras.Function)):
        return None
    if not type(operation).call.__module__.startswith("keras."):
        return None
    return operation._functional if isinstance(operation, keras.Sequential) else operation


def open_call(operation, args, kwargs):
    """Look into the call of a nested model.

    Args:
        operation: A layer, model or operation of Keras.
        args: Tuple, the positional arguments of the call.
        kwargs: Dictionary, its keyword arguments.

    Returns:
        The graph of the model, and the tensors that it is called on, in the structure of its
        inputs. Instead of the graph `None` for what has none, and where Keras changes the tensors
        in the call to fit the inputs: floats to integers, say, or the number of axes.
    """
    graph, inputs = graph_of(operation), first_argument(args, kwargs)
    if graph is None:
        return None, inputs
    inputs = in_order(graph, inputs)
    fits = all(map(_is_taken_as_it_is, tree.flatten(inputs), graph.inputs))
    return graph if fits else None, inputs


def in_order(graph, inputs):
    """Return what a model is called on in the structure of its inputs, also if given by name.

    Args:
        graph: The `keras.Function` behind the model.
        inputs: A structure of tensors or arrays, or a dictionary from the names of the inputs.

    Returns:
        The same, or a list of what the dictionary has for the inputs.
    """
    by_name = isinstance(inputs, dict) and not isinstance(graph.input, dict)
    if by_name and all(x.name in inputs for x in graph.inputs):
        return [inputs[x.name] for x in graph.inputs]
    return inputs


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


def _is_taken_as_it_is(x, own):
    if x is None:  # an input that may be left out
        return True
    dtypes = {keras.backend.standardize_dtype(t.dtype) for t in (x, own)}
    alike = len(dtypes) == 1 or all(map(keras.backend.is_float_dtype, dtypes))
    return alike and len(x.shape) == len(own.shape)
