"""Weights set to zero, or to few values, while a network trains on."""

import numbers
import operator
from typing import Any

from keras_multiception.compression.tf_keras_models import (
    apply_masks,
    copy_tf_keras,
    import_tfmot,
    kernel_layers,
    plain_tf_keras,
    wrap,
)
from keras_multiception.layers.arguments import is_positive_integer, standardize_integer


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
    schedule, in each standard, pointwise and dense kernel. Depthwise kernels, few of the weights,
    lose much: they are pruned on request only, so a sparsity is one of kernels.

    `fit` needs `pruning_callback()`; after it, `strip_pruning` takes the wrappers off. To go on
    from a checkpoint, make the model anew and load its weights (`save_weights` and
    `BackupAndRestore` hold the masks and the step; `get_weights` does not).

    Args:
        model: A trained `keras.Model`, which `to_tf_keras` rebuilds, or a `tf_keras.Model`; it
            stays as it is.
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
        >>> pruned = prune_model(km.ResNet20(), 0.8, end_step=2000)
        >>> pruned.compile("adam", "sparse_categorical_crossentropy")
        >>> pruned.fit(images, labels, callbacks=[pruning_callback()])
        >>> sparse = strip_pruning(pruned)

    Reference:
        Zhu, Gupta: To prune, or not to prune (2017).
    """
    _require_schedule(sparsity, initial_sparsity, begin_step, end_step, frequency)
    _require_blocks(blocks, sparsity, depthwise)
    new = plain_tf_keras(model)
    found = kernel_layers(new, depthwise)
    found = _in_blocks(found, verbose) if blocks else found
    schedule = _make_schedule(initial_sparsity, sparsity, begin_step, end_step, frequency)
    return _wrap_pruned(new, found, schedule, blocks)


def pruning_callback() -> Any:
    """Return the `tf_keras.callbacks.Callback` that `fit` needs for a model of `prune_model`."""
    return import_tfmot().sparsity.keras.UpdatePruningStep()


def strip_pruning(model: Any) -> Any:
    """Return the plain network in a pruned one, uncompiled; its zeros are zeros.

    Args:
        model: A `tf_keras.Model` by `prune_model`, otherwise a ValueError; it stays as it is.
    """
    _require_wrappers(model, "pruned", "prune_model")
    return copy_tf_keras(import_tfmot().sparsity.keras.strip_pruning(model))


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
        >>> clustered = cluster_model(km.ResNet20(), 16)
        >>> clustered.compile("adam", "sparse_categorical_crossentropy")
        >>> clustered.fit(images, labels)
        >>> small = strip_clustering(clustered)

    Reference:
        Han, Mao, Dally: Deep Compression (ICLR 2016).
    """
    if not is_positive_integer(clusters) or clusters < (3 if preserve_sparsity else 2):
        raise ValueError(
            "`clusters` must be an integer of at least 2, or 3 with preserve_sparsity=True. "
            f"Received: clusters={clusters!r}"
        )
    new = plain_tf_keras(model)
    found = kernel_layers(new, depthwise)
    return _wrap_clustered(new, found, operator.index(clusters), preserve_sparsity)


def strip_clustering(model: Any) -> Any:
    """Return the plain network in a clustered one, uncompiled.

    Args:
        model: A `tf_keras.Model` by `cluster_model`, otherwise a ValueError; it stays as it is.
    """
    _require_wrappers(model, "clustered", "cluster_model")
    return copy_tf_keras(import_tfmot().clustering.keras.strip_clustering(model))


def mean_gradient() -> Any:
    """Return the toolkit's name for it: a value moves by the mean gradient of its weights."""
    import_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras import cluster_config

    return cluster_config.GradientAggregation.AVG


def _require_wrappers(model: Any, kind: str, maker: str) -> None:
    import tf_keras

    if not isinstance(model, tf_keras.Model) or kind not in apply_masks(model):
        raise ValueError(f"`model` must come from `{maker}`. Received: model={model!r}")


def _wrap_clustered(
    model: Any, found: dict[Any, list[str]], clusters: int, preserve_sparsity: bool
) -> Any:
    sizes = {
        layer: {name: getattr(layer, name).shape.num_elements() for name in names}
        for layer, names in found.items()
    }
    largest = max(size for kernels in sizes.values() for size in kernels.values())
    if clusters >= largest:
        raise ValueError(
            f"`clusters` must be less than the weights of the largest kernel, {largest}. "
            f"Received: clusters={clusters}"
        )
    clustering = import_tfmot().clustering.keras

    def wrapper_of(layer: Any) -> Any:
        names = [name for name, size in sizes.get(layer, {}).items() if size > clusters]
        if not names:
            return layer
        wrapper = clustering.cluster_weights(
            layer,
            clusters,
            preserve_sparsity=preserve_sparsity,
            # the toolkit's default, the sum, lets large kernels learn thousands of times too fast
            cluster_gradient_aggregation=mean_gradient(),
        )
        layer.get_clusterable_weights = lambda: [(name, getattr(layer, name)) for name in names]
        return wrapper

    return wrap(model, wrapper_of)


def _wrap_pruned(model: Any, found: dict[Any, list[str]], schedule: Any, blocks: str | None) -> Any:
    def wrapper_of(layer: Any) -> Any:
        if layer not in found:
            return layer
        layer.get_prunable_weights = lambda: [getattr(layer, name) for name in found[layer]]
        return import_tfmot().sparsity.keras.prune_low_magnitude(
            layer, schedule, sparsity_m_by_n=(2, 4) if blocks else None
        )

    return wrap(model, wrapper_of)


def _require_schedule(
    sparsity: Any, initial_sparsity: Any, begin_step: Any, end_step: Any, frequency: Any
) -> None:
    def is_in(x: Any, kind: Any, end: Any) -> bool:
        return isinstance(x, kind) and not isinstance(x, bool) and 0 <= x < end

    def require(name: str, value: Any, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")

    standardize_integer(end_step, "end_step")
    standardize_integer(frequency, "frequency")
    require("sparsity", sparsity, is_in(sparsity, numbers.Real, 1), "a number in 0..1, without 1")
    fits = is_in(initial_sparsity, numbers.Real, 1) and initial_sparsity <= sparsity
    require("initial_sparsity", initial_sparsity, fits, "a number in 0..`sparsity`")
    fits = is_in(begin_step, numbers.Integral, end_step)
    require("begin_step", begin_step, fits, "an integer from 0 to before `end_step`")


def _make_schedule(
    initial_sparsity: float, sparsity: float, begin_step: int, end_step: int, frequency: int
) -> Any:
    """Return a schedule whose last masks are those of `end_step`."""
    frequency = min(frequency, end_step - begin_step)
    begin_step = end_step - (end_step - begin_step) // frequency * frequency
    return import_tfmot().sparsity.keras.PolynomialDecay(
        initial_sparsity, sparsity, begin_step, end_step, frequency=frequency
    )


def _require_blocks(blocks: str | None, sparsity: float, depthwise: bool) -> None:
    if blocks not in (None, "2:4"):
        raise ValueError(f"`blocks` must be None or '2:4'. Received: blocks={blocks!r}")
    if blocks and (sparsity != 0.5 or depthwise):
        raise ValueError(
            "`blocks` need sparsity=0.5 and depthwise=False. "
            f"Received: blocks={blocks!r}, sparsity={sparsity}, depthwise={depthwise}"
        )


def _in_blocks(found: dict[Any, list[str]], verbose: bool) -> dict[Any, list[str]]:
    """Return the layers whose input channels come in blocks of 4, and tell of the others."""
    fit = {
        layer: names
        for layer, names in found.items()
        # the toolkit's blocks lie along the last axis but one: in transposed kernels, the outputs
        if type(layer).__name__ != "Conv2DTranspose"
        and all(getattr(layer, name).shape[-2] % 4 == 0 for name in names)
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
