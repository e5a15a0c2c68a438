"""Models of `tf_keras` as TensorFlow's model optimization toolkit (tfmot) takes and makes them."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.tf_keras_bridge import to_tf_keras
from keras_multiception.graphs.equality import fits

KINDS = ("standard", "depthwise", "pointwise", "dense")


def import_tfmot() -> Any:
    """Import the toolkit, which would make `tf.keras` Keras 2 for the whole process if it could.

    It sets an environment variable by which `tf.keras`, at its first use, chooses its version. So
    that first use comes before, and the variable is put back.
    """
    import tensorflow as tf
    import tf_keras  # noqa: F401 (it makes `tf.compat.v2.keras` anew)

    for lazy in (tf.keras, tf.compat.v2.keras):
        lazy.layers  # noqa: B018
    variable = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(variable)
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before
    return tfmot


def plain_tf_keras(model: Any) -> Any:
    """Return a `tf_keras.Model` without wrappers that shares nothing with the model, of either."""
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


def copy_tf_keras(model: Any) -> Any:
    """Return an uncompiled copy of a `tf_keras.Model` with its weights."""
    import tf_keras

    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        new.trainable = old.trainable
    return copy


def is_wrapped(model: Any) -> bool:
    """Tell whether a `tf_keras.Model` has layers in wrappers."""
    import tf_keras

    return any(isinstance(x, tf_keras.layers.Wrapper) for x in model._flatten_layers())


def wrap(model: Any, wrapper_of: Callable[[Any], Any]) -> Any:
    """Return a `tf_keras.Model` of the same layers, each as `wrapper_of` returns it."""
    import tf_keras

    def clone(layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=clone)
        return wrapper_of(layer)

    return tf_keras.models.clone_model(model, clone_function=clone)


def apply_masks(model: Any) -> set[str]:
    """Give wrapped layers their masked or clustered weights; return `"pruned"`, `"clustered"`.

    A forward pass does the same; training may have stopped after a step of the optimizer.
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


def is_quantized(model: Any) -> bool:
    """Tell whether a model has the wrappers of quantization-aware training."""
    return any(
        base.__name__ in ("QuantizeWrapper", "QuantizeLayer")
        for layer in model.layers
        for base in type(layer).__mro__
    )


def require_batches(
    name: str, batches: Any, shapes: Sequence[tuple], names: Sequence[str] = ()
) -> list:
    """Return batches of a model's inputs as a list; they must be float32, finite and fit it."""
    try:
        batches = list(batches)
    except TypeError:
        batches = [batches]
    for batch in batches:
        by_name = isinstance(batch, dict) and set(batch) == set(names)
        arrays = [batch[x] for x in names] if by_name else keras.tree.flatten(batch)
        received = None
        if len(arrays) != len(shapes):
            received = f"{len(arrays)} arrays in one of them"
        elif not all(map(_fits, arrays, shapes)):
            received = ", ".join(map(_describe, arrays))
        elif not all(np.isfinite(x).all() for x in arrays):
            received = "NaN or infinite values"
        if received:
            raise ValueError(
                f"`{name}` must be batches of the model's inputs, float32 and finite, of shape "
                f"{', '.join(map(str, shapes))}. Received: {received}"
            )
    return batches


def _fits(array: Any, expected: tuple) -> bool:
    shape, dtype = _shape_and_dtype(array)
    return dtype == "float32" and fits(shape, expected) and shape[0] > 0


def _describe(array: Any) -> str:
    shape, dtype = _shape_and_dtype(array)
    return f"{type(array).__name__} of shape {shape} and dtype {dtype}"


def _shape_and_dtype(array: Any) -> tuple[tuple, str]:
    dtype = getattr(array, "dtype", None)
    return tuple(getattr(array, "shape", ())), getattr(dtype, "name", str(dtype))


def kernel_layers(model: Any, depthwise: bool) -> dict[Any, list[str]]:
    """Return the layers of a `tf_keras.Model` with kernels to compress, and their names."""
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


def kernels(model: Any) -> list[tuple[str, str, np.ndarray]]:
    """Return (layer's name, kind, values) of the kernels of a built model of either Keras."""
    return [
        (layer.name, kind, np.asarray(keras.ops.convert_to_numpy(getattr(layer, name))))
        for layer in model._flatten_layers()
        for name, kind in kernel_kinds(layer).items()
    ]


def kernel_kinds(layer: Any) -> dict[str, str]:
    """Return the kind of each kernel of a layer of either Keras, one of `KINDS`, by its name."""
    is_keras_3 = isinstance(layer, keras.layers.Layer)
    layers = keras.layers if is_keras_3 else _tf_keras_layers()
    if isinstance(layer, layers.SeparableConv2D):
        return {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}
    if isinstance(layer, layers.DepthwiseConv2D):
        return {"kernel" if is_keras_3 else "depthwise_kernel": "depthwise"}
    if isinstance(layer, layers.Conv2D | layers.Conv2DTranspose):
        return {"kernel": "pointwise" if max(layer.kernel_size) == 1 else "standard"}
    return {"kernel": "dense"} if isinstance(layer, layers.Dense) else {}


def _tf_keras_layers() -> Any:
    import tf_keras

    return tf_keras.layers
