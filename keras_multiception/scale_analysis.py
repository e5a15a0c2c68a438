"""What the kernel sizes of a trained network do: their shares and their worth.

Example:
    >>> model = km.ResNet20(weights="cifar10")
    >>> shares = km.scale_analysis.weight_shares(model)  # a list of `ScaleShares`
    >>> stages = km.scale_analysis.stage_shares(shares)
    >>> {km.scale_analysis.size_name(size): f"{x:.0%}" for size, x in stages["stage1"].items()}
    {'3x3': '63%', '5x5': '20%', '7x7': '17%'}
    >>> without = km.scale_analysis.without_kernel_size(model, 7)  # to evaluate beside the model
    Left out 7x7 in 3 layers: ...

    Of what images make of it:

    >>> shares = km.scale_analysis.energy_shares(model, x)
    >>> list(km.scale_analysis.multiception_layers(model))[:1]
    ['stage1_block1_conv1']
"""

import dataclasses
import operator
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multiception.graphs import (
    call_in_inference,
    first_argument,
    graph_of,
    rebuild,
    require_graph,
    walk,
)
from keras_multiception.layers.arguments import standardize_kernel_sizes
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

__all__ = [
    "ScaleShares",
    "energy_shares",
    "multiception_layers",
    "size_name",
    "stage_shares",
    "weight_shares",
    "without_kernel_size",
]


@dataclasses.dataclass(frozen=True)
class ScaleShares:
    """How much each branch of one `MulticeptionConv2D` counts.

    Where nothing at all gets through, as after an input channel that is always 0, the shares are
    NaN; everywhere else they sum to 1.

    Attributes:
        layer: Name of the layer, after the name of the model that holds it, if any, and a slash.
        kernel_sizes: Tuple of (height, width) pairs, the kernel size of each branch.
        branches: Array of shape (branches,), the share of each branch in the layer.
        channels: Array of shape (branches, input channels), its share in each input channel.
    """

    layer: str
    kernel_sizes: tuple
    branches: np.ndarray
    channels: np.ndarray

    @property
    def stage(self) -> str:
        """The stage that the layer's name begins with, such as `stage1`, else `other`."""
        match = re.match(r"stem|stage\d+", self.layer.rpartition("/")[2])
        return match[0] if match else "other"

    @property
    def sizes(self) -> dict[tuple[int, int], float]:
        """From each kernel size to its share; branches of equal size are one."""
        shares = dict.fromkeys(self.kernel_sizes, 0.0)
        for size, share in zip(self.kernel_sizes, self.branches.tolist(), strict=True):
            shares[size] += share
        return shares


def multiception_layers(model: keras.Model) -> dict[str, MulticeptionConv2D]:
    """Find the `MulticeptionConv2D` layers of a model, and of those nested in it.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`.

    Returns:
        A dictionary from names, as in `km.cost`, to layers, in the order of the network.

    Raises:
        ValueError: If the model has no graph or no such layer.
    """
    names: dict[MulticeptionConv2D, str] = {}  # a layer that is shared counts once
    if graph_of(model) is not None:
        for name, layer in _named_layers(model):
            names.setdefault(layer, name)
    if not names:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one that has "
            f"MulticeptionConv2D layers. Received: model={model!r}"
        )
    return {name: layer for layer, name in names.items()}


def _named_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        name = prefix + layer.name
        if isinstance(layer, MulticeptionConv2D):
            yield name, layer
        elif graph_of(layer) is not None:
            yield from _named_layers(layer, f"{name}/")


def weight_shares(model: keras.Model) -> list[ScaleShares]:
    """Share out each layer by the weights with which it reads its branches.

    The standard deviation that channel `c` of branch `b` alone gives the layer's output, through
    the first batch norm and the row `W[b, c]` of the pointwise kernel, is by the moving variance

        strength[b, c] = |gamma[b, c]| * sqrt(variance[b, c] / (variance[b, c] + epsilon))
                         * norm(W[b, c])

    A share is the strength of a branch, summed over its channels, by the sum of all.

    Returns a list with a `ScaleShares` for each layer of `multiception_layers`.
    """
    found = []
    for name, layer in multiception_layers(model).items():
        kernel = _effective_kernel(layer)
        variance = ops.convert_to_numpy(layer.depthwise_bn.moving_variance).astype("float32")
        strengths = np.sqrt(variance).reshape(kernel.shape[:2]) * np.linalg.norm(kernel, axis=2)
        found.append(_shares(name, layer, strengths.sum(axis=1), strengths))
    return found


def energy_shares(model: keras.Model, images: Any) -> list[ScaleShares]:
    """Share out each layer by what its branches do on a batch of images.

    The energy of a branch is the variance, over images and positions, of what it adds to the
    outputs of the pointwise convolution, summed over these; the energy of one input channel in
    one branch is the same of this channel alone. Covariances of branches are left out. Energies go
    with the square of the strengths of `weight_shares`.

    Args:
        model: A trained model that has `MulticeptionConv2D` layers.
        images: Array of shape (batch, height, width, channels), preprocessed.

    Returns:
        A list with a `ScaleShares` for each layer of `multiception_layers`.
    """
    layers = multiception_layers(model)
    energies: dict = dict.fromkeys(layers.values(), (0.0, 0.0))

    def call(path: tuple, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation in energies:  # once for each call
            now = _energies(operation, first_argument(args, kwargs))
            energies[operation] = tuple(map(operator.add, energies[operation], now))
        return call_in_inference(path, operation, *args, **kwargs)

    walk(require_graph(model), ops.convert_to_tensor(images), call)
    return [_shares(name, layer, *energies[layer]) for name, layer in layers.items()]


def stage_shares(shares: list[ScaleShares]) -> dict[str, dict[tuple[int, int], float]]:
    """Average shares over the layers of each stage.

    Returns:
        A dictionary from stages to dictionaries from kernel sizes to the mean share. A layer
        without a size counts as 0 for it.
    """
    stages: dict[str, list] = {}
    for entry in shares:
        stages.setdefault(entry.stage, []).append(entry.sizes)
    return {
        stage: {
            size: sum(entry.get(size, 0.0) for entry in entries) / len(entries)
            for size in sorted({size for entry in entries for size in entry})
        }
        for stage, entries in stages.items()
    }


def without_kernel_size(
    model: keras.Model,
    size: int | tuple[int, int],
    layers: str | list[str] | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Return an uncompiled copy of a network in which one kernel size is left out.

    Each channel of the branches of this size is replaced by its mean over the training data,
    which batch norm puts at `beta`: `gamma` is set to 0. A layer that has no other size becomes a
    constant. The copy is to evaluate, not to train further.

    Args:
        model: A trained model that has `MulticeptionConv2D` layers; it stays as it is.
        size: Odd integer, or pair of them (height, width).
        layers: Name or list of names of layers, as in `multiception_layers`. The default is all.
        verbose: Whether to print what was dropped.

    Raises:
        ValueError: If `layers` names others, or none of the layers has a branch of this size.
    """
    found = multiception_layers(model)
    chosen = [layers] if isinstance(layers, str) else list(found if layers is None else layers)
    if unknown := [name for name in chosen if name not in found]:
        raise ValueError(
            "`layers` must name MulticeptionConv2D layers of the model. "
            f"Received: {', '.join(map(repr, unknown))}"
        )
    (size,) = standardize_kernel_sizes([size])
    changed = [x for x in found if x in chosen and size in found[x].kernel_sizes]
    if not changed:
        raise ValueError(
            "`size` must be that of a branch in the chosen layers. "
            f"Received: size={size}, layers={layers}"
        )
    copy = rebuild(model, {})
    for layer in map(multiception_layers(copy).__getitem__, changed):
        gamma = ops.convert_to_numpy(layer.depthwise_bn.gamma)
        kept = [branch_size != size for branch_size in layer.kernel_sizes]
        layer.depthwise_bn.gamma.assign(gamma * np.repeat(kept, len(gamma) // len(kept)))
    if verbose:
        print(f"Left out {size_name(size)} in {len(changed)} layers: {', '.join(changed)}")
    return copy


def size_name(size: tuple[int, ...]) -> str:
    """Return a kernel size in the form `3x3`."""
    return "x".join(map(str, size))


def _energies(layer: MulticeptionConv2D, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy of each branch, and of each channel of each branch."""
    kernel = _effective_kernel(layer)
    # what batch norm subtracts and adds has no part in a variance
    branches = [
        conv(x)[:, :: layer.strides[0], :: layer.strides[1]] for conv in layer.depthwise_convs
    ]
    seen = ops.reshape(ops.cast(ops.stack(branches, axis=3), "float32"), (-1, *kernel.shape[:2]))
    added = ops.einsum("nbc,bcf->nbf", seen, kernel)
    added, seen = (ops.convert_to_numpy(ops.var(x, axis=0)) for x in (added, seen))
    return added.sum(axis=1), seen * np.square(kernel).sum(axis=2)


def _effective_kernel(layer: MulticeptionConv2D) -> np.ndarray:
    """Return the pointwise kernel times what the batch norm before it multiplies with.

    Its shape is (branches, input channels, filters).
    """
    weights = layer.depthwise_bn.gamma, layer.depthwise_bn.moving_variance
    gamma, variance, kernel = (
        ops.convert_to_numpy(weight).astype("float32")
        for weight in (*weights, layer.pointwise_conv.kernel)
    )
    kernel = kernel * (gamma / np.sqrt(variance + layer.epsilon))[:, None]
    return kernel.reshape(len(layer.kernel_sizes), -1, layer.filters)


def _shares(name: str, layer: MulticeptionConv2D, branches: Any, channels: Any) -> ScaleShares:
    branches, channels = np.asarray(branches, "float64"), np.asarray(channels, "float64")
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as documented
        return ScaleShares(
            name, layer.kernel_sizes, branches / branches.sum(), channels / channels.sum(axis=0)
        )
