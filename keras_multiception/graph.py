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
