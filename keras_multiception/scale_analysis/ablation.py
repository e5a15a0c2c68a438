"""A network without one of its kernel sizes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multiception.graphs.copying import rebuild
from keras_multiception.layers.arguments import standardize_kernel_sizes
from keras_multiception.scale_analysis.shares import multiception_layers, size_name


def without_kernel_size(
    model: keras.Model,
    size: int | tuple[int, int],
    layers: str | list[str] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Return an uncompiled copy of a network in which one kernel size is left out.

    Each channel of the branches of this size is replaced by its mean over the training data,
    which batch norm puts at `beta`: `gamma` is set to 0. (Zeros in their place would move the
    layer's output as well, and so measure something else.) A layer that has no other size becomes
    a constant. The copy is to evaluate, not to train further.

    Args:
        model: A trained model that has `MulticeptionConv2D` layers; it stays as it is.
        size: Odd integer, or pair of them (height, width).
        layers: Name or list of names of layers, as in `multiception_layers`. The default is all.
        verbose: Whether to print what was dropped.

    Raises:
        ValueError: If `size` is none, `layers` names others, or none of the layers has a branch
            of this size.

    Example:
        >>> model = km.scale_analysis.without_kernel_size(model, 5)
        Left out 5x5 in 6 layers: stage1_block1_conv1, ...
    """
    found = multiception_layers(model)
    layers = [layers] if isinstance(layers, str) else layers
    size = _require_size(size, found, layers)
    copy = rebuild(model, {})
    changed = {
        name: layer
        for name, layer in multiception_layers(copy).items()
        if (layers is None or name in layers) and size in layer.kernel_sizes
    }
    for layer in changed.values():
        gamma = ops.convert_to_numpy(layer.depthwise_bn.gamma)
        kept = [branch_size != size for branch_size in layer.kernel_sizes]
        layer.depthwise_bn.gamma.assign(gamma * np.repeat(kept, len(gamma) // len(kept)))
    if verbose:
        print(f"Left out {size_name(size)} in {len(changed)} layers: {', '.join(changed)}")
    return copy


def _require_size(size: Any, found: dict, layers: list[str] | None) -> tuple[int, int]:
    """Return `size` as a pair, if one of the chosen layers has a branch of it."""
    try:
        (size,) = standardize_kernel_sizes([size])
    except ValueError:
        raise ValueError(
            f"`size` must be an odd positive integer or a pair of them. Received: size={size!r}"
        ) from None
    unknown = [name for name in layers or () if name not in found]
    if unknown:
        raise ValueError(
            "`layers` must name MulticeptionConv2D layers of the model. "
            f"Received: {', '.join(map(repr, unknown))}"
        )
    chosen = found if layers is None else layers
    sizes = sorted({size for name in chosen for size in found[name].kernel_sizes})
    if size not in sizes:
        raise ValueError(
            "`size` must be the size of a branch in the chosen layers: "
            f"{', '.join(map(size_name, sizes)) or 'there are no such layers'}. "
            f"Received: size={size}, layers={layers}"
        )
    return size
