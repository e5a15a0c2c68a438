"""Weights of the paper's released PyTorch code, brought into our models (PyTorch not needed)."""

import collections.abc
import dataclasses
import re
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import layers

from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

# a name in PyTorch, the variable, and the function from PyTorch's layout to Keras'
Entry: TypeAlias = tuple[str, tuple[Any, collections.abc.Callable[[np.ndarray], Any]]]


@dataclasses.dataclass(frozen=True)
class _Family:
    """Our names of a family's layers -> the modules of the released code."""

    outside: dict[str, str]  # the blocks, and exceptions inside them
    block: str  # the module by `stage`, `index` in it (from 0) and `place` in all (from 1)
    inside: dict[str, str]  # a block, by the names within it


def _conv_bn(ours: str, theirs: str) -> dict[str, str]:
    """The names of a replaceable convolution's layers, of whatever type."""
    return {
        ours: theirs,  # Multiception, and the paper's MixConv
        f"{ours}_conv": f"{theirs}.0",  # standard
        f"{ours}_bn": f"{theirs}.1",
        f"{ours}_depthwise": f"{theirs}.depthwise",  # depthwise separable
        f"{ours}_pointwise": f"{theirs}.pointwise",
        f"{ours}_pointwise_bn": f"{theirs}.bn",
    }


_RESNET = _Family(
    outside={"stem_conv": "conv1", "stem_bn": "bn1", "predictions": "fc"},
    block="layer{stage}.{index}",
    inside={
        **_conv_bn("conv1", "conv_bn"),
        "conv2": "conv2",
        "bn2": "bn2",
        "se_reduce": "se.fc.0",
        "se_expand": "se.fc.2",
        "shortcut_conv": "downsample.0",
        "shortcut_bn": "downsample.1",
    },
)
_BRANCH = {**_conv_bn("conv1", "1"), "conv2": "3", "bn2": "4"}
_SHAKE_SHAKE = _Family(
    outside={"stem_conv": "c_in", "predictions": "fc_out"},
    block="layer{stage}.{index}",
    inside={
        **{f"branch1_{ours}": f"branch1.{theirs}" for ours, theirs in _BRANCH.items()},
        **{f"branch2_{ours}": f"branch2.{theirs}" for ours, theirs in _BRANCH.items()},
        "shortcut_conv1": "shortcut.conv1",
        "shortcut_conv2": "shortcut.conv2",
        "shortcut_bn": "shortcut.bn",
    },
)
_MOBILENET_V2 = _Family(
    outside={
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        # the first block does not expand: its layers come one place earlier
        **_conv_bn("stage1_block1_conv", "features.1.conv.0"),
        "stage1_block1_bn": "features.1.conv.2",
        "head_conv": "features.18.0",
        "head_bn": "features.18.1",
        "predictions": "classifier.1",
    },
    block="features.{place}.conv",
    inside={
        "expand_conv": "0.0",
        "expand_bn": "0.1",
        **_conv_bn("conv", "1"),
        "bn": "3",
        "depthwise": "1.0",
        "depthwise_bn": "1.1",
        "project_conv": "2",
        "project_bn": "3",
    },
)
# A layer that only the family has; any other model is read as a ResNet.
_TELLTALES = {"stage1_block1_shake": _SHAKE_SHAKE, "head_conv": _MOBILENET_V2}


def load_torch_state_dict(
    model: keras.Model, state: collections.abc.Mapping[str, Any]
) -> keras.Model:
    """Load weights of the paper's released PyTorch code into one of our networks.

    Either every weight is loaded or, with an error that names what does not fit, none.

    Args:
        model: A `keras.Model` made by `km.create_model` or its factories.
        state: Mapping from the names of the released code to arrays in PyTorch's layout (NumPy
            arrays or PyTorch tensors, of any float type), such as a `state_dict()`. The prefixes
            `module.` of `DataParallel` and `_orig_mod.` of `torch.compile` are passed over, and so
            are `num_batches_tracked` and the shortcuts that the released Shake-Shake never uses.

    Returns:
        The model, for chaining.

    Raises:
        ValueError: If an entry is missing, unexpected or of another shape, or the model not ours.

    Example:
        >>> state = torch.load("resnet20_multiception.pth", map_location="cpu")
        >>> km.load_torch_state_dict(km.ResNet20(), state)
    """
    is_mapping = isinstance(state, collections.abc.Mapping)
    if not is_mapping or not all(isinstance(name, str) for name in state):
        raise ValueError(
            "`state` must be a mapping from names to arrays, such as a `state_dict()`. "
            f"Received: {type(state).__name__}"
        )
    targets = dict(_torch_entries(model))
    _require_unwrapped(state, targets)
    state = {_bare(name): value for name, value in state.items()}
    # batch counters, and Shake-Shake's shortcuts of blocks that keep the shape, which it never uses
    shortcut = r"layer[123]\.[0-3]\.shortcut\..*" if "c_in.weight" in targets else "$"
    unused = re.compile(rf".*\.num_batches_tracked|{shortcut}")
    state = {name: x for name, x in state.items() if name in targets or not unused.fullmatch(name)}
    arrays, misshapen = _fitting(state, targets)
    problems = {
        "Missing": [name for name in targets if name not in state],
        "Unexpected": [name for name in state if name not in targets],
        "Of another shape": misshapen,
    }
    if any(problems.values()):
        raise ValueError(
            f"`state` must hold exactly the weights of the model {model.name!r}. Received:"
            + "".join(f" {kind}: {_few(names)}." for kind, names in problems.items() if names)
        )
    for name, (variable, _) in targets.items():
        variable.assign(arrays[name])
    return model


def _require_unwrapped(
    state: collections.abc.Mapping[str, Any], targets: collections.abc.Container[str]
) -> None:
    """Refuse a whole checkpoint, and say which of its entries has the weights."""
    inner = {
        key: value.state_dict() if hasattr(value, "state_dict") else value
        for key, value in state.items()
        if hasattr(value, "state_dict") or isinstance(value, collections.abc.Mapping)
    }
    if inner:
        key = max(inner, key=lambda key: sum(_bare(str(name)) in targets for name in inner[key]))
        call = ".state_dict()" if hasattr(state[key], "state_dict") else ""
        raise ValueError(
            f"`state` must hold the weights of the model alone: pass state[{key!r}]{call}. "
            f"Received: a checkpoint of {_few(list(state))}"
        )


def _bare(name: str) -> str:
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _fitting(
    state: dict[str, Any], targets: dict[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays in Keras' layout, and a description of each that does not fit."""
    arrays, misshapen = {}, []
    for name in [name for name in targets if name in state]:
        variable, to_keras = targets[name]
        try:
            received = _to_numpy(state[name])
        except (TypeError, ValueError):
            misshapen.append(f"{name} (not an array of real numbers)")
            continue
        arrays[name] = to_keras(received)
        if arrays[name] is None or arrays[name].shape != tuple(variable.shape):
            misshapen.append(
                f"{name} (fits {tuple(variable.shape)} in Keras' layout, "
                f"received {received.shape} in PyTorch's)"
            )
    return arrays, misshapen


def _torch_entries(model: keras.Model) -> collections.abc.Iterator[Entry]:
    modules = _modules(model)
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name not in modules:
            raise ValueError(
                "`model` must be a network of km.list_models(). "
                f"Received: model={model.name!r}, whose layer {layer.name!r} has no counterpart"
            )
        yield from _layer_entries(layer, modules[layer.name])


def _modules(model: keras.Model) -> dict[str, str]:
    """Return the modules of the released code by the names of the layers."""
    names = [layer.name for layer in model.layers]
    family = next((_TELLTALES[name] for name in _TELLTALES if name in names), _RESNET)
    modules: dict[str, str] = {}
    places: dict[tuple, int] = {}
    for name in names:
        match = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", name)
        if match:
            stage, block, part = match.groups()
            place = places.setdefault((stage, block), len(places) + 1)
            if part in family.inside:
                module = family.block.format(stage=stage, index=int(block) - 1, place=place)
                modules[name] = f"{module}.{family.inside[part]}"
    return modules | family.outside


def _layer_entries(layer: Any, module: str) -> collections.abc.Iterator[Entry]:
    """Yield (name in PyTorch, (variable, function from PyTorch's layout to Keras'))."""
    if isinstance(layer, MulticeptionConv2D):
        for index, conv in enumerate(layer.depthwise_convs):
            yield from _layer_entries(conv, f"{module}.seps.{index}")
        yield from _layer_entries(layer.depthwise_bn, f"{module}.bn1")
        yield from _layer_entries(layer.pointwise_conv, f"{module}.pointwise")
        yield from _layer_entries(layer.pointwise_bn, f"{module}.bn2")
    elif isinstance(layer, MixConv2D):
        for index, conv in enumerate(layer.convs):
            yield from _layer_entries(conv, f"{module}.{index}")
    elif isinstance(layer, layers.BatchNormalization):
        weights = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
        names = "weight", "bias", "running_mean", "running_var"
        for name, weight in zip(names, weights, strict=True):
            yield f"{module}.{name}", (weight, _transpose(0))
    else:
        axes: tuple[int, ...] = (1, 0)  # of a dense layer: (out, in) -> (in, out)
        if isinstance(layer, layers.DepthwiseConv2D):
            axes = (2, 3, 0, 1)  # (channels, 1, height, width) -> (height, width, channels, 1)
        elif isinstance(layer, layers.Conv2D):
            axes = (2, 3, 1, 0)  # (out, in, height, width) -> (height, width, in, out)
        yield f"{module}.weight", (layer.kernel, _transpose(*axes))
        if layer.use_bias:
            yield f"{module}.bias", (layer.bias, _transpose(0))


def _transpose(*axes: int) -> collections.abc.Callable[[np.ndarray], Any]:
    return lambda array: array.transpose(axes) if array.ndim == len(axes) else None


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # NumPy takes no bfloat16 of PyTorch's
        value = value.detach().cpu()
        value = value if value.is_complex() else value.float()
    array = np.asarray(value)
    if np.iscomplexobj(array):
        raise TypeError("complex numbers")
    return array.astype("float32")
