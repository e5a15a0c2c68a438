"""Models of Keras 2 and the wrappers that the toolkit puts around their layers."""

import keras

from keras_multiception.compression.keras_2 import to_tf_keras
from keras_multiception.compression.kernels import kernel_kinds


def plain_tf_keras(model):
    """Return a model of Keras 2 that shares nothing with the one given.

    Args:
        model: A `keras.Model` that `to_tf_keras` takes, or a `tf_keras.Model` that is Functional
            or a built Sequential one and has no wrappers.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Raises:
        ValueError: If the model is another.
    """
    import tf_keras

    if isinstance(model, keras.Model):
        return to_tf_keras(model)
    functional = isinstance(model, tf_keras.Model) and getattr(model, "_is_graph_network", False)
    if not functional or is_wrapped(model):
        raise ValueError(
            "`model` must be a Keras 3 model, or one of tf_keras that is Functional or a built "
            f"Sequential one and has no wrappers. Received: model={model!r}"
        )
    return copy_tf_keras(model)


def copy_tf_keras(model):
    """Return a copy of a model of Keras 2, with its weights, uncompiled."""
    import tf_keras

    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        new.trainable = old.trainable
    return copy


def is_wrapped(model):
    """Return whether a model of Keras 2 has layers in wrappers."""
    import tf_keras

    return any(isinstance(x, tf_keras.layers.Wrapper) for x in model._flatten_layers())


def wrap(model, wrapper_of):
    """Return a model of Keras 2 with wrappers around some layers, which it shares with the old.

    Args:
        model: A `tf_keras.Model` without wrappers.
        wrapper_of: Function from a layer to its wrapper; it may also return the layer.

    Returns:
        A `tf_keras.Model`.
    """
    import tf_keras

    def clone(layer):
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=clone)
        return wrapper_of(layer)

    return tf_keras.models.clone_model(model, clone_function=clone)


def kernel_layers(model, depthwise):
    """Return the layers of a model of Keras 2 that hold the kernels to compress.

    Args:
        model: A `tf_keras.Model` without wrappers.
        depthwise: Boolean, whether depthwise kernels are among them.

    Returns:
        A dictionary from layers to lists of the names of their kernels.

    Raises:
        ValueError: If there are none.
    """
    found = {}
    for layer in model._flatten_layers():
        kinds = kernel_kinds(layer)
        names = [name for name, kind in kinds.items() if kind != "depthwise" or depthwise]
        if names:
            found[layer] = names
    if not found:
        raise ValueError(
            "`model` must have standard, pointwise or dense kernels, or depthwise ones with "
            f"depthwise=True. Received: model={model!r}"
        )
    return found


def settle(model):
    """Give wrapped layers the weights that they stand for: masked or clustered ones.

    A forward pass does the same; training may have stopped behind a step of the optimizer.

    Args:
        model: A `tf_keras.Model`, with or without wrappers.

    Returns:
        A set of what was found: `"pruned"` and `"clustered"`.
    """
    found = set()
    for layer in model._flatten_layers():
        if hasattr(layer, "pruning_obj"):
            layer.pruning_obj.weight_mask_op()
            found.add("pruned")
        elif hasattr(layer, "update_clustered_weights_associations"):
            layer.update_clustered_weights_associations()
            found.add("clustered")
    return found
