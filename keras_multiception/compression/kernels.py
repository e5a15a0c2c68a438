"""The kernels of a network by what they do, in Keras 3 and in Keras 2."""

import keras
import numpy as np
from keras import ops

KINDS = ("standard", "depthwise", "pointwise", "dense")


def kernel_kinds(layer):
    """Return which weights of a layer are kernels, and of which kind.

    Args:
        layer: A layer of Keras 3 or of `tf_keras`.

    Returns:
        A dictionary from names of attributes to `"standard"`, `"depthwise"`, `"pointwise"` (1x1)
        or `"dense"`; empty for layers of other kinds.
    """
    is_keras_3 = isinstance(layer, keras.layers.Layer)
    layers = keras.layers if is_keras_3 else _tf_keras().layers
    if isinstance(layer, layers.SeparableConv2D):
        return {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}
    if isinstance(layer, layers.DepthwiseConv2D):
        return {"kernel" if is_keras_3 else "depthwise_kernel": "depthwise"}
    if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
        return {"kernel": "pointwise" if max(layer.kernel_size) == 1 else "standard"}
    return {"kernel": "dense"} if isinstance(layer, layers.Dense) else {}


def kernels(model):
    """Return the kernels of a model, those of its nested models and layers included.

    Args:
        model: A built `keras.Model` or `tf_keras.Model`, without wrappers.

    Returns:
        A list of tuples (name of the layer, kind, array), in the order of the network.
    """
    return [
        (layer.name, kind, as_array(getattr(layer, name)))
        for layer in model._flatten_layers()
        for name, kind in kernel_kinds(layer).items()
    ]


def as_array(weight):
    """Return a weight of Keras 3 or of `tf_keras` as an array."""
    is_keras_3 = isinstance(weight, keras.Variable)
    return np.asarray(ops.convert_to_numpy(weight) if is_keras_3 else weight.numpy())


def _tf_keras():
    import tf_keras

    return tf_keras
