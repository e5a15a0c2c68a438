"""Copies of layers and of what they hold."""

import tempfile

import keras
import numpy as np
from keras import layers

_LOOKUPS = (layers.IntegerLookup, layers.StringLookup, layers.TextVectorization)


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


def copy_activation(activation, copies):
    """Return an activation for a new model: of one that is a layer, a copy with its weights.

    Args:
        activation: A function or a layer.
        copies: Dictionary from the id of a layer to its copy, which is added to: one copy serves
            wherever the layer does.

    Returns:
        The function as it is, or the copy.

    Raises:
        ValueError: If the config of the layer does not rebuild it.
    """
    if not isinstance(activation, layers.Layer):
        return activation
    if id(activation) not in copies:
        copies[id(activation)] = rebuild_layer(activation)
        copy_state(activation, copies[id(activation)])
    return copies[id(activation)]


def copy_state(old, new):
    """Hand the weights, flags and vocabulary of a layer, and of those inside it, on to its copy.

    Args:
        old: The layer. What Keras builds when it is first run, such as an activation that is a
            layer, may not be built yet.
        new: Its copy by `rebuild_layer`, built as well; parts of it are built like the layer's.
    """
    for source, target in zip(old._flatten_layers(), new._flatten_layers(), strict=True):
        if source.built and not target.built:
            target.build_from_config(source.get_build_config())
        state: dict = {}
        source.save_own_variables(state)
        target.load_own_variables({name: copy_values(x) for name, x in state.items()})
        _copy_vocabulary(source, target)
        target.trainable = source.trainable


def _copy_vocabulary(source, target):
    """Hand on the words or numbers that `adapt` has found, as Keras does in saving."""
    if isinstance(source, _LOOKUPS) and source.get_vocabulary(include_special_tokens=False):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)


def copy_values(variable):
    """Return a copy of the values: on JAX, training deletes arrays that two models share.

    Args:
        variable: A `keras.Variable`; anything else is returned as it is.

    Returns:
        A NumPy array.
    """
    is_variable = isinstance(variable, keras.Variable)
    return np.array(keras.ops.convert_to_numpy(variable)) if is_variable else variable
