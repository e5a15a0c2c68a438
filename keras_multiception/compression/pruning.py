"""Small weights set to zero while a network trains on."""

import numbers

from keras_multiception.compression.toolkit import import_tfmot
from keras_multiception.compression.wrappers import (
    copy_tf_keras,
    kernel_layers,
    plain_tf_keras,
    settle,
    wrap,
)


def prune_model(
    model,
    sparsity,
    *,
    begin_step=0,
    end_step,
    frequency=100,
    initial_sparsity=0.0,
    blocks=None,
    depthwise=False,
    verbose=True,
):
    """Return a network that sets its smallest weights to zero while it trains on.

    From `begin_step` to `end_step`, the share of zeros in each kernel grows with the toolkit's
    polynomial (cubic) schedule. Pruned are standard, pointwise and dense kernels, each on its
    own; never a bias or a batch norm. Depthwise kernels are a small part of the weights and lose
    much: they are pruned on request only, so a sparsity is one of kernels, not of the network;
    `sparsity_report` tells both.

    `fit` needs `pruning_callback()`; behind it, `strip_pruning` takes the wrappers off. To go on
    from a checkpoint, make the model anew with the same arguments and load its weights
    (`save_weights` and `BackupAndRestore` hold the masks and the step; `get_weights` does not).

    Args:
        model: A trained `keras.Model`, which `to_tf_keras` rebuilds, or a `tf_keras.Model`; it
            stays as it is.
        sparsity: Float in 0..1 (1 excluded), the share of zeros at the end. With blocks, 0.5.
        begin_step: Integer, the training step at which pruning begins; it may be up to
            `frequency` later, so that the last masks are those of `end_step`.
        end_step: Integer, the step at which `sparsity` is reached: train at least as long.
        frequency: Positive integer, steps from one choice of zeros to the next.
        initial_sparsity: Float in 0..`sparsity`, the share of zeros at `begin_step`.
        blocks: `None` or `"2:4"`: 2 zeros in every 4 weights that follow each other in the input
            channels, chosen once, at the first step. Kernels whose input channels are not a
            multiple of 4 stay dense.
        depthwise: Boolean, whether depthwise kernels are pruned too; not with blocks.
        verbose: Boolean, whether to print which kernels blocks leave dense.

    Returns:
        A `tf_keras.Model`, uncompiled.

    Raises:
        ImportError: If the toolkit is not installed.
        ValueError: If an argument is out of its range, or the model has no such kernels.

    Example:
        >>> pruned = prune_model(km.ResNet20(), 0.8, end_step=2000)
        >>> pruned.compile("adam", "sparse_categorical_crossentropy")
        >>> pruned.fit(images, labels, callbacks=[pruning_callback()])
        >>> sparse = strip_pruning(pruned)

    Reference:
        Zhu, Gupta: To prune, or not to prune: exploring the efficacy of pruning for model
        compression (2017).
    """
    _require_schedule(sparsity, initial_sparsity, begin_step, end_step, frequency)
    if blocks not in (None, "2:4"):
        raise ValueError(f"`blocks` must be None or '2:4'. Received: blocks={blocks!r}")
    if blocks and (sparsity != 0.5 or depthwise):
        raise ValueError(
            "`blocks` need sparsity=0.5 and depthwise=False. "
            f"Received: blocks={blocks!r}, sparsity={sparsity}, depthwise={depthwise}"
        )
    tfmot = import_tfmot()
    new = plain_tf_keras(model)
    found = kernel_layers(new, depthwise)
    if blocks:
        found = _in_blocks(found, verbose)
    frequency = min(frequency, end_step - begin_step)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity,
        sparsity,
        begin_step=end_step - (end_step - begin_step) // frequency * frequency,
        end_step=end_step,
        frequency=frequency,
    )

    def wrapper_of(layer):
        if layer not in found:
            return layer
        layer.get_prunable_weights = lambda: [getattr(layer, name) for name in found[layer]]
        return tfmot.sparsity.keras.prune_low_magnitude(
            layer, schedule, sparsity_m_by_n=(2, 4) if blocks else None
        )

    return wrap(new, wrapper_of)


def pruning_callback():
    """Return the callback that `fit` needs for a model of `prune_model`.

    Returns:
        A `tf_keras.callbacks.Callback`.
    """
    return import_tfmot().sparsity.keras.UpdatePruningStep()


def strip_pruning(model):
    """Return the plain network behind a pruned one; its zeros are zeros.

    Args:
        model: A `tf_keras.Model` by `prune_model`; it stays as it is.

    Returns:
        A `tf_keras.Model` without wrappers, uncompiled.

    Raises:
        ValueError: If the model has no pruning wrappers.
    """
    import tf_keras

    if not isinstance(model, tf_keras.Model) or "pruned" not in settle(model):
        raise ValueError(f"`model` must come from `prune_model`. Received: model={model!r}")
    return copy_tf_keras(import_tfmot().sparsity.keras.strip_pruning(model))


def _require_schedule(sparsity, initial_sparsity, begin_step, end_step, frequency):
    steps = {"begin_step": begin_step, "end_step": end_step, "frequency": frequency}
    shares = {"sparsity": sparsity, "initial_sparsity": initial_sparsity}
    for arguments, kind in ((shares, numbers.Real), (steps, numbers.Integral)):
        for name, value in arguments.items():
            if isinstance(value, bool) or not isinstance(value, kind):
                what = "a number" if kind is numbers.Real else "an integer"
                raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"`sparsity` must be in 0..1, without 1. Received: sparsity={sparsity}")
    if not 0 <= initial_sparsity <= sparsity:
        raise ValueError(
            "`initial_sparsity` must be in 0..`sparsity`. "
            f"Received: initial_sparsity={initial_sparsity}, sparsity={sparsity}"
        )
    if not 0 <= begin_step < end_step:
        raise ValueError(
            "`begin_step` must not be negative, and less than `end_step`. "
            f"Received: begin_step={begin_step}, end_step={end_step}"
        )
    if not frequency >= 1:
        raise ValueError(f"`frequency` must be at least 1. Received: frequency={frequency}")


def _in_blocks(found, verbose):
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
