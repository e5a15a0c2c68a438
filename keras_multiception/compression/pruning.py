"""Weights set to zero, or to few values, while a network trains on; and what that saves."""

import operator
import os
import zlib
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.litert_files import litert_constants, read_litert
from keras_multiception.compression.tf_keras_bridge import import_tfmot, require_either, to_tf_keras
from keras_multiception.layers.arguments import is_positive_integer, standardize_integer

# Of the toolkit: by its default, the sum, large kernels learn thousands of times too fast.
MEAN_GRADIENT = "GradientAggregation.AVG"
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
        model: A trained `keras.Model` or plain `tf_keras.Model`; it stays as it is.
        sparsity: In 0..1, 1 excluded, the share of zeros at the end. With blocks, 0.5.
        begin_step: The training step at which pruning begins, or up to `frequency` later.
        end_step: The step at which `sparsity` is reached: train at least as long.
        frequency: Steps from one choice of zeros to the next.
        initial_sparsity: In 0..`sparsity`, the share of zeros at `begin_step`.
        blocks: `"2:4"` for 2 zeros in every 4 weights along the input channels, chosen once.
            Kernels whose input channels are not a multiple of 4 stay dense.
        depthwise: Whether depthwise kernels are pruned too; not with blocks.
        verbose: Whether to print which kernels blocks leave dense.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Example:
        >>> pruned = prune_model(model, 0.8, end_step=2000)
        >>> pruned.compile("adam", "sparse_categorical_crossentropy")
        >>> pruned.fit(images, labels, callbacks=[pruning_callback()])
        >>> sparse = strip_pruning(pruned)

    Reference: Zhu, Gupta: To prune, or not to prune (2017).
    """
    if blocks not in (None, "2:4") or (blocks and (sparsity != 0.5 or depthwise)):
        raise ValueError(
            "`blocks` must be None, or '2:4' with sparsity=0.5 and depthwise=False. "
            f"Received: blocks={blocks!r}, sparsity={sparsity}, depthwise={depthwise}"
        )
    from tf_keras.models import clone_model

    schedule = _make_schedule(initial_sparsity, sparsity, begin_step, end_step, frequency)
    plain = _plain_copy(model)
    kernels = _kernel_layers(plain, depthwise)
    found = _in_blocks(kernels, verbose) if blocks else kernels
    prune = import_tfmot().sparsity.keras.prune_low_magnitude

    def wrap(layer: Any) -> Any:
        if layer not in found:
            return layer
        layer.get_prunable_weights = lambda: [getattr(layer, name) for name in found[layer]]
        return prune(layer, schedule, sparsity_m_by_n=(2, 4) if blocks else None)

    return clone_model(plain, clone_function=wrap)


def pruning_callback() -> Any:
    """Return the `tf_keras.callbacks.Callback` that `fit` needs for a model of `prune_model`."""
    return import_tfmot().sparsity.keras.UpdatePruningStep()


def strip_pruning(model: Any) -> Any:
    """Return the plain network, uncompiled, in one of `prune_model`, which stays as it is."""
    return _strip(model, "prune_model")


def cluster_model(
    model: Any, clusters: int = 16, *, preserve_sparsity: bool = False, depthwise: bool = False
) -> Any:
    """Return a network whose kernels have few distinct values, to train on.

    In each kernel, values near to each other become one, which training moves. Clustered are
    standard, pointwise and dense kernels of more weights than `clusters`; depthwise ones, which
    lose much, on request only. `strip_clustering` takes the wrappers off.

    Args:
        model: A trained `keras.Model` or plain `tf_keras.Model`; it stays as it is.
        clusters: At least 2, how many values a kernel may have; at least 3 with
            `preserve_sparsity`.
        preserve_sparsity: Whether zero is one of the values, and zeros stay zero.
        depthwise: Whether depthwise kernels are clustered too.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Example:
        >>> clustered = cluster_model(model, 16)
        >>> clustered.compile("adam", "sparse_categorical_crossentropy")
        >>> clustered.fit(images, labels)
        >>> small = strip_clustering(clustered)

    Reference: Han, Mao, Dally: Deep Compression (ICLR 2016).
    """
    if not is_positive_integer(clusters) or clusters < (3 if preserve_sparsity else 2):
        raise ValueError(
            "`clusters` must be an integer of at least 2, or 3 with preserve_sparsity=True. "
            f"Received: clusters={clusters!r}"
        )
    from tf_keras.models import clone_model

    clusters = operator.index(clusters)
    plain = _plain_copy(model)
    found = {
        layer: [name for name in names if getattr(layer, name).shape.num_elements() > clusters]
        for layer, names in _kernel_layers(plain, depthwise).items()
    }
    if not any(found.values()):
        raise ValueError(
            "`clusters` must be less than the weights of the largest kernel. "
            f"Received: clusters={clusters}"
        )
    cluster = import_tfmot().clustering.keras.cluster_weights

    def wrap(layer: Any) -> Any:
        if not found.get(layer):
            return layer
        wrapper = cluster(
            layer,
            clusters,
            preserve_sparsity=preserve_sparsity,
            cluster_gradient_aggregation=MEAN_GRADIENT,
        )
        layer.get_clusterable_weights = lambda: [(x, getattr(layer, x)) for x in found[layer]]
        return wrapper

    return clone_model(plain, clone_function=wrap)


def strip_clustering(model: Any) -> Any:
    """Return the plain network, uncompiled, in one of `cluster_model`, which stays as it is."""
    return _strip(model, "cluster_model")


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
    fit = {x: names for x, names in found.items() if getattr(x, names[-1]).shape[-2] % 4 == 0}
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
    classes = {base.__name__ for base in type(layer).__mro__}
    if "SeparableConv2D" in classes:
        return {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}
    if "DepthwiseConv2D" in classes:
        is_keras_3 = isinstance(layer, keras.layers.Layer)
        return {"kernel" if is_keras_3 else "depthwise_kernel": "depthwise"}
    if "Conv2D" in classes:
        return {"kernel": "pointwise" if max(layer.kernel_size) == 1 else "standard"}
    return {"kernel": "dense"} if "Dense" in classes else {}


def _plain_copy(model: Any) -> Any:
    """Return a `tf_keras.Model` that shares nothing with the model, of either Keras."""
    require_either(model)
    return to_tf_keras(model) if isinstance(model, keras.Model) else _clone(model)


def _clone(model: Any) -> Any:
    """Return an uncompiled copy of a `tf_keras.Model` with its weights."""
    from tf_keras.models import clone_model

    copy = clone_model(model)
    copy.set_weights(model.get_weights())
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        new.trainable = old.trainable
    return copy


def _wrappers(model: Any) -> set[str]:
    """Return which functions have put layers of a `tf_keras.Model` into wrappers.

    Their weights become the masked or clustered ones, as in a forward pass: training may have
    stopped after a step of the optimizer.
    """
    import tf_keras

    found = set()
    for layer in model._flatten_layers():
        if hasattr(layer, "pruning_obj"):
            layer.pruning_obj.weight_mask_op()
            found.add("prune_model")
        elif hasattr(layer, "update_clustered_weights_associations"):
            layer.update_clustered_weights_associations()
            found.add("cluster_model")
        elif isinstance(layer, tf_keras.layers.Wrapper):
            found.add("quantize_model")
    return found


def _strip(model: Any, maker: str) -> Any:
    import tf_keras

    if not isinstance(model, tf_keras.Model) or maker not in _wrappers(model):
        raise ValueError(f"`model` must come from `{maker}`. Received: model={model!r}")
    tfmot = import_tfmot()
    if maker == "prune_model":
        return _clone(tfmot.sparsity.keras.strip_pruning(model))
    return _clone(tfmot.clustering.keras.strip_clustering(model))


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
    if isinstance(model, _FILES):
        found = litert_constants(read_litert(model))
    else:
        found = [
            (kind, np.asarray(keras.ops.convert_to_numpy(getattr(layer, name))))
            for layer in _plain(model)._flatten_layers()
            for name, kind in kernel_kinds(layer).items()
        ]
    by_kind = {kind: [x for k, x in found if k == kind] for kind in KINDS}
    report = {kind: _counts(arrays) for kind, arrays in by_kind.items() if arrays}
    return {**report, "total": _counts([x for kind, x in found if kind])}


def size_report(model: Any) -> dict[str, int]:
    """Measure a network in bytes: as it is, deflated, and at the entropy of its weights.

    The entropy bounds codes with a word for each distinct number of an array; the table of these
    takes 4 bytes more than the number for each. It is at most the array's own bytes.

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
        arrays = [array for _, array in litert_constants(content)]
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
    wrappers = _wrappers(model)
    if "quantize_model" in wrappers:
        raise ValueError(
            "`model` must have no wrappers of quantization: convert it, and pass the LiteRT file. "
            f"Received: model={model!r}"
        )
    return _strip(model, *wrappers) if wrappers else model


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
