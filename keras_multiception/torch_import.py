"""Weights of the paper's released PyTorch code, brought into our models (PyTorch not needed)."""

import re

import numpy as np
from keras import layers

from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

# Our names of a ResNet's layers -> the modules of the released code.
_STEM_AND_TOP = {"stem_conv": "conv1", "stem_bn": "bn1", "predictions": "fc"}
_BLOCK = {
    "conv1": "conv_bn",  # Multiception, and the paper's MixConv
    "conv1_conv": "conv_bn.0",  # standard
    "conv1_bn": "conv_bn.1",
    "conv1_depthwise": "conv_bn.depthwise",  # depthwise separable
    "conv1_pointwise": "conv_bn.pointwise",
    "conv1_pointwise_bn": "conv_bn.bn",
    "conv2": "conv2",
    "bn2": "bn2",
    "shortcut_conv": "downsample.0",
    "shortcut_bn": "downsample.1",
}


def load_torch_state_dict(model, state):
    """Load weights of the paper's released PyTorch code into one of our networks.

    Either every weight is loaded or, with an error that names each entry that does not fit, none.

    Args:
        model: A `keras.Model` made by `km.create_model` or its factories.
        state: Mapping from the names of the released code to arrays in PyTorch's layout (NumPy
            arrays or PyTorch tensors), such as a `state_dict()`. A prefix `module.` before every
            name (of PyTorch's `DataParallel`) and `num_batches_tracked` entries are passed over.

    Returns:
        The model, for chaining.

    Raises:
        ValueError: If the model is not one of ours, or an entry is missing, unexpected or of
            another shape. The model is then unchanged.

    Example:
        >>> state = torch.load("resnet20_multiception.pth", map_location="cpu")
        >>> km.load_torch_state_dict(km.ResNet20(), state)

    Reference:
        The code that Section VI of the paper points to.
    """
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    targets = dict(_torch_entries(model))
    arrays, misshapen = {}, []
    for name, (variable, to_keras) in targets.items():
        if name not in state:
            continue
        try:
            received = _to_numpy(state[name])
        except (TypeError, ValueError):
            misshapen.append(f"{name} (not an array of numbers)")
            continue
        array = to_keras(received)
        if array is None or array.shape != tuple(variable.shape):
            misshapen.append(
                f"{name} (fits {tuple(variable.shape)} in Keras' layout, "
                f"received {received.shape} in PyTorch's)"
            )
        arrays[name] = array
    problems = {
        "Missing": [name for name in targets if name not in state],
        "Unexpected": [name for name in state if name not in targets],
        "Of another shape": misshapen,
    }
    if any(problems.values()):
        raise ValueError(
            f"`state` must hold exactly the weights of the model {model.name!r}. Received:"
            + "".join(f" {kind}: {', '.join(names)}." for kind, names in problems.items() if names)
        )
    for name, (variable, _) in targets.items():
        variable.assign(arrays[name])
    return model


def _torch_entries(model):
    for layer in model.layers:
        if layer.weights:
            yield from _layer_entries(layer, _module_name(layer.name, model))


def _module_name(layer_name, model):
    if layer_name in _STEM_AND_TOP:
        return _STEM_AND_TOP[layer_name]
    match = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", layer_name)
    if match and match[3] in _BLOCK:
        return f"layer{match[1]}.{int(match[2]) - 1}.{_BLOCK[match[3]]}"
    raise ValueError(
        "`model` must be a network of km.list_models(). "
        f"Received: model={model.name!r}, whose layer {layer_name!r} has no counterpart"
    )


def _layer_entries(layer, module):
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
        yield f"{module}.weight", (layer.gamma, _transpose(0))
        yield f"{module}.bias", (layer.beta, _transpose(0))
        yield f"{module}.running_mean", (layer.moving_mean, _transpose(0))
        yield f"{module}.running_var", (layer.moving_variance, _transpose(0))
    else:
        if isinstance(layer, layers.DepthwiseConv2D):
            axes = (2, 3, 0, 1)  # (channels, 1, height, width) -> (height, width, channels, 1)
        elif isinstance(layer, layers.Conv2D):
            axes = (2, 3, 1, 0)  # (out, in, height, width) -> (height, width, in, out)
        else:
            axes = (1, 0)  # a dense layer: (out, in) -> (in, out)
        yield f"{module}.weight", (layer.kernel, _transpose(*axes))
        if layer.use_bias:
            yield f"{module}.bias", (layer.bias, _transpose(0))


def _transpose(*axes):
    return lambda array: array.transpose(axes) if array.ndim == len(axes) else None


def _to_numpy(value):
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, "float32")
