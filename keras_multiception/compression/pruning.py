"""Weights set to zero, or to few values, while a network trains on; and what that saves."""

import importlib
import operator
import os
import zlib
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.litert_files import litert_buffers, litert_kernels, read_litert
from keras_multiception.compression.tf_keras_bridge import import_tfmot, require_either, to_tf_keras
from keras_multiception.layers.arguments import is_positive_integer, standardize_integer

KINDS = ("standard", "depthwise", "pointwise", "dense")
_FILES = (str, os.PathLike, bytes, bytearray, memoryview)


def prune_model(
    model: Any,
    sparsity: float,
    *,
    begin_step: int = 0,
    end_step: int,
    frequency: int = 100,
    initial_sparsity: float = 0.0,
    blocks: str | None = None,
    depthwise: bool = False,
    verbose: bool = True,
) -> Any:
    """Return a network that sets its smallest weights to zero while it trains on.

    From `begin_step` to `end_step`, the share of zeros grows with the toolkit's polynomial
    schedule, in each standard, pointwise and dense kernel; in depthwise ones on request only.
    `fit` needs `pruning_callback()`; after it, `strip_pruning` takes the wrappers off.

    Args:
        model: A trained `keras.Model`, or a `tf_keras.Model` (nested ones stay dense in it).
        sparsity: In 0..1 (1 excluded), the share of zeros at the end. With blocks, 0.5.
        begin_step: The training step at which pruning begins, or up to `frequency` later.
        end_step: The step at which `sparsity` is reached: train at least as long.
        frequency: Steps from one choice of zeros to the next.
        initial_sparsity: In 0..`sparsity`, the share of zeros at `begin_step`.
        blocks: `None` or `"2:4"`: 2 zeros in every 4 weights along the input channels, chosen
            once. Kernels whose input channels are not a multiple of 4 stay dense.
        depthwise: Whether depthwise kernels are pruned too; not with blocks.
        verbose: Whether to print which kernels blocks leave dense.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Raises:
        ValueError: If an argument is out of its range, or the model has no such kernels.

    Example:
        >>> pruned = prune_model(model, 0.8, end_step=2000)
        >>> pruned.compile("adam", "sparse_categorical_crossentropy")
        >>> pruned.fit(images, labels, callbacks=[pruning_callback()])
        >>> sparse = strip_pruning(pruned)

    Reference: Zhu, Gupta: To prune, or not to prune (2017).
    """
    _require_blocks(blocks, sparsity, depthwise)
    from tf_keras.models import clone_model

    schedule = _make_schedule(initial_sparsity, sparsity, begin_step, end_step, frequency)
    new = _plain_tf_keras(model)
    kernels = _kernel_layers(new, depthwise)
    found = _in_blocks(kernels, verbose) if blocks else kernels
    prune = import_tfmot().sparsity.keras.prune_low_magnitude

    def wrapper_of(layer: Any) -> Any:
        if layer not in found:
            return layer
        layer.get_prunable_weights = lambda: [getattr(layer, name) for name in found[layer]]
        return prune(layer, schedule, sparsity_m_by_n=(2, 4) if blocks else None)

    return clone_model(new, clone_function=wrapper_of)


def _require_blocks(blocks: str | None, sparsity: float, depthwise: bool) -> None:
    if blocks not in (None, "2:4") or (blocks and (sparsity != 0.5 or depthwise)):
        raise ValueError(
            "`blocks` must be None, or '2:4' with sparsity=0.5 and depthwise=False. "
            f"Received: blocks={blocks!r}, sparsity={sparsity}, depthwise={depthwise}"
        )


def pruning_callback() -> Any:
    """Return the `tf_keras.callbacks.Callback` that `fit` needs for a model of `prune_model`."""
    return import_tfmot().sparsity.keras.UpdatePruningStep()


def strip_pruning(model: Any) -> Any:
    """Return the plain network, uncompiled, in one of `prune_model`, which stays as it is."""
    _require_wrappers(model, "pruned", "prune_model")
    return _copy_tf_keras(import_tfmot().sparsity.keras.strip_pruning(model))


def cluster_model(
    model: Any, clusters: int = 16, *, preserve_sparsity: bool = False, depthwise: bool = False
) -> Any:
    """Return a network whose kernels have few distinct values, to train on.

    In each kernel, values near to each other become one, which training moves. Clustered are
    standard, pointwise and dense kernels; depthwise ones, which lose much, on request only.
    Kernels of no more weights than `clusters` stay as they are. `strip_clustering` takes the
    wrappers off.

    Args:
        model: A trained `keras.Model`, which `to_tf_keras` rebuilds, or a `tf_keras.Model`, such
            as one of `strip_pruning`; it stays as it is.
        clusters: At least 2, how many values a kernel may have; at least 3 with
            `preserve_sparsity`.
        preserve_sparsity: Whether zero is one of the values, and zeros stay zero.
        depthwise: Whether depthwise kernels are clustered too.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Raises:
        ValueError: If `clusters` is out of its range, or the model has no such kernels.

    Example:
        >>> clustered = cluster_model(model, 16)
        >>> clustered.compile("adam", "sparse_categorical_crossentropy")
        >>> clustered.fit(images, labels)
        >>> small = strip_clustering(clustered)

    Reference:
        Han, Mao, Dally: Deep Compression (ICLR 2016).
    """
    _require_clusters(clusters, preserve_sparsity)
    from tf_keras.models import clone_model

    clusters = operator.index(clusters)
    new = _plain_tf_keras(model)
    sizes = _kernel_sizes(new, clusters, depthwise)
    cluster, aggregation = import_tfmot().clustering.keras.cluster_weights, mean_gradient()

    def wrapper_of(layer: Any) -> Any:
        names = [name for name, size in sizes.get(layer, {}).items() if size > clusters]
        if not names:
            return layer
        wrapper = cluster(
            layer,
            clusters,
            preserve_sparsity=preserve_sparsity,
            cluster_gradient_aggregation=aggregation,
        )
        layer.get_clusterable_weights = lambda: [(name, getattr(layer, name)) for name in names]
        return wrapper

    return clone_model(new, clone_function=wrapper_of)


def _kernel_sizes(model: Any, clusters: int, depthwise: bool) -> dict[Any, dict[str, int]]:
    """Return the weights of each kernel by layer and name, of which one must exceed `clusters`."""
    sizes = {
        layer: {name: getattr(layer, name).shape.num_elements() for name in names}
        for layer, names in _kernel_layers(model, depthwise).items()
    }
    largest = max(size for kernels in sizes.values() for size in kernels.values())
    if clusters >= largest:
        raise ValueError(
            f"`clusters` must be less than the weights of the largest kernel, {largest}. "
            f"Received: clusters={clusters}"
        )
    return sizes


def _require_clusters(clusters: int, preserve_sparsity: bool) -> None:
    if not is_positive_integer(clusters) or clusters < (3 if preserve_sparsity else 2):
        raise ValueError(
            "`clusters` must be an integer of at least 2, or 3 with preserve_sparsity=True. "
            f"Received: clusters={clusters!r}"
        )


def strip_clustering(model: Any) -> Any:
    """Return the plain network, uncompiled, in one of `cluster_model`, which stays as it is."""
    _require_wrappers(model, "clustered", "cluster_model")
    return _copy_tf_keras(import_tfmot().clustering.keras.strip_clustering(model))


def mean_gradient() -> Any:
    """Return the toolkit's option by which a value moves by the mean gradient of its weights.

    The default, the sum, lets large kernels learn thousands of times too fast.
    """
    import_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_config

    return cluster_config.GradientAggregation.AVG


def _require_wrappers(model: Any, kind: str, maker: str) -> None:
    import tf_keras

    if not isinstance(model, tf_keras.Model) or kind not in _apply_masks(model):
        raise ValueError(f"`model` must come from `{maker}`. Received: model={model!r}")


def _make_schedule(
    initial_sparsity: float, sparsity: float, begin_step: int, end_step: int, frequency: int
) -> Any:
    """Return a schedule whose last choice of zeros is at `end_step`."""
    end_step = standardize_integer(end_step, "end_step")
    frequency = standardize_integer(frequency, "frequency")
    if not 0 <= initial_sparsity <= sparsity < 1 or begin_step not in range(end_step):
        raise ValueError(
            "The schedule must have 0 <= `initial_sparsity` <= `sparsity` < 1 and integers "
            f"0 <= `begin_step` < `end_step`. Received: {initial_sparsity=}, {sparsity=}, "
            f"{begin_step=}, {end_step=}"
        )
    frequency = min(frequency, end_step - begin_step)
    begin_step = end_step - (end_step - begin_step) // frequency * frequency
    return import_tfmot().sparsity.keras.PolynomialDecay(
        initial_sparsity, sparsity, begin_step, end_step, frequency=frequency
    )


def _in_blocks(found: dict[Any, list[str]], verbose: bool) -> dict[Any, list[str]]:
    """Return the layers whose input channels come in blocks of 4, and tell of the others."""
    fit = {
        layer: names
        for layer, names in found.items()
        if all(getattr(layer, name).shape[-2] % 4 == 0 for name in names)
    }
    dense = [layer.name for layer in found if layer not in fit]
    if not fit:
        raise ValueError(
            "`blocks` need a kernel whose input channels are a multiple of 4. "
            f"Received: kernels of {', '.join(dense)}"
        )
    if dense and verbose:
        print(f"Left dense, their input channels not in blocks of 4: {', '.join(dense)}")
    return fit


def _kernel_layers(model: Any, depthwise: bool) -> dict[Any, list[str]]:
    """Return the layers of a `tf_keras.Model` with kernels to compress, and their names."""
    found = {}
    for layer in model.layers:
        kinds = kernel_kinds(layer)
        if names := [name for name in kinds if depthwise or kinds[name] != "depthwise"]:
            found[layer] = names
    if not found:
        raise ValueError(
            "`model` must have standard, pointwise or dense kernels, or depthwise ones with "
            f"depthwise=True. Received: model={model!r}"
        )
    return found


def kernel_kinds(layer: Any) -> dict[str, str]:
    """Return the kind of each kernel of a layer of either Keras, as in `KINDS`, by its name."""
    is_keras_3 = isinstance(layer, keras.layers.Layer)
    layers: Any = keras.layers if is_keras_3 else importlib.import_module("tf_keras.layers")
    if isinstance(layer, layers.SeparableConv2D):
        return {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}
    if isinstance(layer, layers.DepthwiseConv2D):
        return {"kernel" if is_keras_3 else "depthwise_kernel": "depthwise"}
    if isinstance(layer, layers.Conv2D):
        return {"kernel": "pointwise" if max(layer.kernel_size) == 1 else "standard"}
    return {"kernel": "dense"} if isinstance(layer, layers.Dense) else {}


def _plain_tf_keras(model: Any) -> Any:
    """Return a `tf_keras.Model` without wrappers that shares nothing with the model, of either."""
    require_either(model)
    if isinstance(model, keras.Model):
        return to_tf_keras(model)
    if _is_wrapped(model):
        raise ValueError(f"`model` must have no wrappers. Received: model={model!r}")
    return _copy_tf_keras(model)


def _copy_tf_keras(model: Any) -> Any:
    """Return an uncompiled copy of a `tf_keras.Model` with its weights."""
    from tf_keras.models import clone_model

    copy = clone_model(model)
    copy.set_weights(model.get_weights())
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        new.trainable = old.trainable
    return copy


def _is_wrapped(model: Any) -> bool:
    """Tell whether a `tf_keras.Model` has layers in wrappers."""
    import tf_keras

    return any(isinstance(x, tf_keras.layers.Wrapper) for x in model._flatten_layers())


def _apply_masks(model: Any) -> set[str]:
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


def sparsity_report(model: Any) -> dict[str, dict[str, Any]]:
    """Count zeros and distinct values in the kernels of a network; no bias or batch norm.

    Args:
        model: A built `keras.Model`; a `tf_keras.Model`, plain or by `prune_model` or
            `cluster_model`; or a LiteRT file, as bytes or as a path.

    Returns:
        A dictionary from each of `"standard"`, `"depthwise"`, `"pointwise"` and `"dense"` that
        the network has, and from `"total"`, to a dictionary of `parameters`, the `nonzero` among
        them, the `sparsity` in 0..1, and `distinct`, the most distinct values of one kernel.

    Example:
        >>> sparsity_report(model)["pointwise"]["sparsity"]
    """
    is_file = isinstance(model, _FILES)
    found = litert_kernels(read_litert(model)) if is_file else _kernels(_plain(model))
    by_kind = {kind: [x for k, x in found if k == kind] for kind in KINDS}
    report = {kind: _counts(arrays) for kind, arrays in by_kind.items() if arrays}
    return {**report, "total": _counts([x for _, x in found])}


def size_report(model: Any) -> dict[str, int]:
    """Measure a network in bytes: as it is, deflated, and at the entropy of its weights.

    The entropy is the bound for codes with a word for each distinct number of an array: `n`
    numbers, of which the share `p(s)` is `s`, take `-n * sum(p * log2(p))` bits, and the table 4
    bytes more than the number for each; or the array's own bytes if these are fewer.

    Args:
        model: A LiteRT file, as bytes or as a path; or a model as in `sparsity_report`, of which
            the weights are measured, without wrappers and optimizer.

    Returns:
        A dictionary of integers: `raw`, the bytes as they are; `deflated`, as in a zip file (zlib
        at level 9); `weights`, the part of `raw` that is weights and other constants; `entropy`,
        `raw` with each of these arrays at its bound.

    Example:
        >>> size_report("model.tflite")["deflated"]
    """
    if isinstance(model, _FILES):
        content = read_litert(model)
        arrays = litert_buffers(content)
    else:
        arrays = [np.asarray(array) for array in _plain(model).get_weights()]
        content = b"".join(array.tobytes() for array in arrays)
    weights = sum(array.nbytes for array in arrays)
    return {
        "raw": len(content),
        "deflated": len(zlib.compress(content, 9)),
        "weights": weights,
        "entropy": len(content) - weights + sum(map(_coded_bytes, arrays)),
    }


def _plain(model: Any) -> Any:
    """Return a model without wrappers."""
    if isinstance(model, keras.Model) and model.built:
        return model
    import tf_keras

    if not isinstance(model, tf_keras.Model) or not model.built:
        raise ValueError(
            "`model` must be a built model of Keras 3 or tf_keras, or a LiteRT file as bytes or "
            f"path. Received: model={model!r}"
        )
    found = _apply_masks(model)
    if "pruned" in found:
        return strip_pruning(model)
    if "clustered" in found:
        return strip_clustering(model)
    if _is_wrapped(model):
        raise ValueError(
            "`model` must have no wrappers of quantization: convert it, and pass the LiteRT file. "
            f"Received: model={model!r}"
        )
    return model


def _kernels(model: Any) -> list[tuple[str, np.ndarray]]:
    """Return (kind, values) of the kernels of a built model of either Keras."""
    return [
        (kind, np.asarray(keras.ops.convert_to_numpy(getattr(layer, name))))
        for layer in model._flatten_layers()
        for name, kind in kernel_kinds(layer).items()
    ]


def _counts(arrays: list[np.ndarray]) -> dict[str, Any]:
    parameters = sum(array.size for array in arrays)
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays)
    return {
        "parameters": parameters,
        "nonzero": nonzero,
        "sparsity": 1 - nonzero / parameters if parameters else 0.0,
        "distinct": max((len(np.unique(array)) for array in arrays), default=0),
    }


def _coded_bytes(array: np.ndarray) -> int:
    _, counts = np.unique(array, return_counts=True)
    bits = -float(np.sum(counts * np.log2(counts / array.size)))
    table = len(counts) * (array.itemsize + 4)
    return min(array.nbytes, int(np.ceil(bits / 8)) + table)
