"""Copies of layers and of what they hold."""

import keras
import numpy as np
from keras import layers


def rebuild_layer(layer):
    """Return a layer or operation of the same config; its weights are new.

    Args:
        layer: A layer or another `keras.Operation`.

    Returns:
        An object of the same class.

    Raises:
        ValueError: If its config does not rebuild it.
    """
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


def copy_state(old, new):
    """Hand the weights and flags of a built layer, and of those inside it, on to its copy.

    Args:
        old: The layer.
        new: Its copy by `rebuild_layer`, built as well.
    """
    for source, target in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        state: dict = {}
        source.save_own_variables(state)
        target.load_own_variables({name: copy_values(x) for name, x in state.items()})
        target.trainable = source.trainable


def copy_values(variable):
    """Return a copy of the values: on JAX, training deletes arrays that two models share.

    Args:
        variable: A `keras.Variable`; anything else is returned as it is.

    Returns:
        A NumPy array.
    """
    is_variable = isinstance(variable, keras.Variable)
    return np.array(keras.ops.convert_to_numpy(variable)) if is_variable else variable
