"""Whole kernel branches dropped by the scale analysis: smaller without special kernels."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_multiception.cost import report_costs
from keras_multiception.graphs import copy_activation, copy_state, copy_values, rebuild
from keras_multiception.layers.arguments import standardize_integer, standardize_kernel_sizes
from keras_multiception.layers.trainable_parts import KEY
from keras_multiception.scale_analysis import (
    ScaleShares,
    multiception_layers,
    size_name,
    weight_shares,
)


@dataclasses.dataclass(frozen=True)
class Branch:
    """One branch of a `MulticeptionConv2D`.

    Attributes:
        layer: Name of the layer, as in `km.scale_analysis.ScaleShares`.
        index: Its position in the layer's `kernel_sizes`.
        kernel_size: Height and width.
        share: Its share in the layer; `None` if none was asked for.
    """

    layer: str
    index: int
    kernel_size: tuple[int, int]
    share: float | None = None


def weakest_branches(
    model: keras.Model,
    keep: int | None = None,
    threshold: float | None = None,
    shares: Sequence[ScaleShares] | None = None,
) -> list[Branch]:
    """Find the branches that count least; in each layer the strongest is never among them.

    Args:
        model: A trained model that has `MulticeptionConv2D` layers.
        keep: How many branches a layer keeps at most. Either this or `threshold`.
        threshold: In 0..1: branches of a smaller share in their layer are found.
        shares: Shares of the model. The default is `km.scale_analysis.weight_shares(model)`;
            `energy_shares` reads images.

    Returns:
        A list of `Branch`, in the order of the network.

    Example:
        >>> weakest_branches(km.ResNet20(weights="cifar10"), keep=2)[0]
        Branch(layer='stage1_block1_conv1', index=2, kernel_size=(7, 7), share=0.1...)
    """
    if (keep is None) == (threshold is None) or not 0 <= (threshold or 0) <= 1:
        raise ValueError(
            "Either `keep` or `threshold`, which is in 0..1, must be given. "
            f"Received: keep={keep}, threshold={threshold}"
        )
    if keep is not None:
        keep = standardize_integer(keep, "keep")
    found = multiception_layers(model)
    shares = weight_shares(model) if shares is None else shares
    if {x.layer: x.kernel_sizes for x in shares} != {k: x.kernel_sizes for k, x in found.items()}:
        raise ValueError(
            "`shares` must describe the model, one entry for each MulticeptionConv2D. "
            f"Received: shares of {[entry.layer for entry in shares]}"
        )
    branches = []
    for entry in shares:
        values = np.nan_to_num(entry.branches)  # nothing gets through: all count nothing
        strongest = np.argsort(-values, kind="stable")
        kept = strongest[:keep] if threshold is None else strongest[values[strongest] >= threshold]
        gone = set(range(len(values))) - {int(strongest[0]), *kept.tolist()}
        branches += [
            Branch(entry.layer, index, entry.kernel_sizes[index], float(values[index]))
            for index in sorted(gone)
        ]
    return branches


def prune_branches(
    model: keras.Model,
    keep: int | None = None,
    threshold: float | None = None,
    remove: Iterable[tuple[str, Any]] | None = None,
    shares: Sequence[ScaleShares] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Return a copy of a network without some of its kernel branches, to fine-tune.

    A branch goes as a whole: its depthwise kernels, its channels of the first batch norm and the
    rows of the pointwise kernel that read them. The network answers as if those rows were zero;
    the mean of what they added is lost until fine-tuning moves the statistics.

    Args:
        model: A trained Functional `keras.Model` or built `keras.Sequential` that has
            `MulticeptionConv2D` layers; nested ones are opened. It stays as it is.
        keep: Each layer keeps at most so many branches, those of the largest shares.
        threshold: In 0..1: branches of a smaller share in their layer go, but for the strongest.
        remove: Pairs (name of a layer in the scale analysis, kernel size): all branches of this
            size go. One of `keep`, `threshold` and `remove`.
        shares: Shares to go by. The default is `km.scale_analysis.weight_shares(model)`.
        verbose: Whether to print what was dropped (`weakest_branches` returns it), and the costs.

    Returns:
        A new, uncompiled model, also if there was nothing to drop.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = prune_branches(km.ResNet20(), keep=2)
        Dropped 3 of 21 branches of the model 'resnet20'. ...
    """
    if sum(x is not None for x in (keep, threshold, remove)) != 1:
        raise ValueError(
            "One of `keep`, `threshold` and `remove` must be given. "
            f"Received: keep={keep}, threshold={threshold}, remove={remove}"
        )
    found = multiception_layers(model)
    if remove is None:
        branches = weakest_branches(model, keep, threshold, shares)
    else:
        branches = _named_branches(found, remove)
    successors, kept = {}, {}
    for name, layer in found.items():
        if gone := {branch.index for branch in branches if branch.layer == name}:
            kept[layer] = [i for i in range(len(layer.kernel_sizes)) if i not in gone]
            config = layer.get_config()
            config["kernel_sizes"] = [layer.kernel_sizes[i] for i in kept[layer]]
            config["activation"] = copy_activation(layer.activation)
            config.pop(KEY, None)
            successors[layer] = [type(layer).from_config(config)]
    new_model = rebuild(model, successors)
    for layer, (new,) in successors.items():
        _copy_branches(layer, new, kept[layer])
    if verbose:
        _report(model, new_model, found, branches)
    return new_model


def _named_branches(found: Mapping[str, Any], remove: Iterable[tuple[str, Any]]) -> list[Branch]:
    branches: dict[Branch, None] = {}  # a set that keeps its order
    for name, size in remove:
        sizes = found[name].kernel_sizes if name in found else ()
        (size,) = standardize_kernel_sizes([size])
        named = {Branch(name, i, size): None for i, own in enumerate(sizes) if own == size}
        branches |= named
        if not named or sum(branch.layer == name for branch in branches) == len(sizes):
            raise ValueError(
                "`remove` must name layers of the model and kernel sizes of theirs, and leave each "
                f"layer a branch. Received: {(name, size)!r}"
            )
    return [*branches]


def _copy_branches(old: Any, new: Any, kept: Sequence[int]) -> None:
    """Hand on the weights of the branches that are kept, and all that is none of a branch."""
    is_kept = np.isin(np.arange(len(old.kernel_sizes)), kept)
    old_parts, new_parts = (
        [x for x in layer._flatten_layers() if x not in layer.depthwise_convs]
        for layer in (old, new)
    )
    for source, target in zip(old_parts, new_parts, strict=True):
        target.trainable = source.trainable
        for a, b in zip(_own_variables(source), _own_variables(target), strict=True):
            value = copy_values(a)
            for axis, (length, rest) in enumerate(zip(a.shape, b.shape, strict=True)):
                if length != rest:  # one entry, or several, for each branch
                    value = value.compress(np.repeat(is_kept, length // len(is_kept)), axis)
            b.assign(value)
            b.trainable = a.trainable
    for index, conv in zip(kept, new.depthwise_convs, strict=True):
        copy_state(old.depthwise_convs[index], conv)


def _own_variables(layer: Any) -> list:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _report(
    old: keras.Model, new: keras.Model, found: Mapping[str, Any], branches: Sequence[Branch]
) -> None:
    total = sum(len(layer.kernel_sizes) for layer in found.values())
    print(f"Dropped {len(branches)} of {total} branches of the model {old.name!r}.")
    for name, dropped in itertools.groupby(branches, lambda branch: branch.layer):
        shares = ((x, "" if x.share is None else f" ({x.share:.1%})") for x in dropped)
        print(f"  {name}: {', '.join(size_name(x.kernel_size) + share for x, share in shares)}")
    report_costs(old, new)
