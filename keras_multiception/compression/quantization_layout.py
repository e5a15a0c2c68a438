"""Networks of `tf_keras` in other layers that compute the same and can be quantized.

Only what follows a convolution or an addition of two can be told from its 8-bit form; so the rest
is written in terms of these.
"""

import collections
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_multiception.compression.split_large_kernels import Pairs, Part, divide, is_large

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
MERGES = ("Add", "Average", "Multiply")


def rewrite_for_quantization(model: Any) -> tuple[Any, set[str]]:
    """Rebuild a Functional `tf_keras.Model` so that each of its operations has an 8-bit form.

    - A batch norm that does not follow a convolution or dense layer gets a 1x1 depthwise
      convolution with ones before it, which it can be folded into.
    - `Rescaling` with an offset becomes a 1x1 depthwise convolution.
    - `Average` becomes `Add` and `Rescaling`.
    - `Add` and `Multiply` of more than two inputs become several of two.
    - Depthwise convolutions that LiteRT is slow with become sums of smaller ones.

    Each layer must be called once. The names of the 1x1 depthwise convolutions are returned, too.
    """
    import tf_keras

    config = copy.deepcopy(model.get_config())
    entries, weights, parts = [], {}, {}
    for entry in config["layers"]:
        layer = model.get_layer(entry["name"])
        kind = entry["class_name"]
        if kind == "BatchNormalization" and not follows_convolution(model, layer):
            name = f"{layer.name}_unit"
            unit = _depthwise(name, entry["inbound_nodes"], False)
            weights[name] = [np.ones((1, 1, layer.input.shape[-1], 1))]
            entry["inbound_nodes"] = _calls(name)
            entries += [unit, entry]
        elif kind == "Rescaling" and np.any(layer.offset):
            entries.append(_depthwise(layer.name, entry["inbound_nodes"], True))
            channels = layer.input.shape[-1]
            scale, offset = (np.broadcast_to(x, channels) for x in (layer.scale, layer.offset))
            weights[layer.name] = [scale.reshape(1, 1, -1, 1), offset]
        elif kind in MERGES:
            entries += _merges(entry)
        elif (division := _division(layer)) is not None:
            entries += _part_entries(layer, entry["inbound_nodes"], *division)
            parts.update(_part_weights(layer, division[1]))
        else:
            entries.append(entry)
    config["layers"] = entries
    rewritten = tf_keras.Model.from_config(config)
    for layer in rewritten.layers:
        if layer.name in weights | parts:
            layer.set_weights((weights | parts)[layer.name])
        elif layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return rewritten, set(weights)


def follows_convolution(model: Any, norm: Any) -> bool:
    """Tell whether a batch norm can be folded into the layer before it."""
    layer = norm.input._keras_history.layer
    return (
        type(layer).__name__ in (*CONVOLUTIONS, "Dense")
        and layer.activation.__name__ == "linear"
        and _division(layer) is None
        and _count_readers(model)[layer.name] == 1
    )


def _count_readers(model: Any) -> collections.Counter[str]:
    """Count who reads the output of each layer: other layers, or the end of the model."""
    import tensorflow as tf

    counts: collections.Counter[str] = collections.Counter()
    read = [tf.nest.flatten(layer.input) for layer in model.layers if not is_input(layer)]
    for tensors in (*read, model.outputs):
        counts.update({x._keras_history.layer.name for x in tensors})
    return counts


def is_input(layer: Any) -> bool:
    """Tell whether a layer is an input of its model."""
    return type(layer).__name__ == "InputLayer"


def _division(layer: Any) -> tuple[Pairs, list[Part]] | None:
    """Return what `divide` does, and `None` where parts could not be trained as the whole."""
    if not is_large(layer) or layer.depthwise_constraint is not None:
        return None
    if layer.activation.__name__ not in ("linear", "relu"):
        return None
    return divide(layer, tuple(layer.input.shape[1:3]))


def _part_entries(
    layer: Any, inbound_nodes: list, padding: Pairs, parts: Sequence[Part]
) -> list[dict]:
    """Return the entries of a large depthwise convolution as a sum of smaller ones."""
    from tf_keras import layers

    name, total = layer.name, _total(layer)
    entries = [_entry(layers.ZeroPadding2D(padding, name=f"{name}_padded"), inbound_nodes)]
    names = _part_names(layer, parts)
    for part_name, part in zip(names, parts, strict=True):
        crop = layers.Cropping2D(part.crop, name=f"{part_name}_input")
        config = {
            **layer.get_config(),
            "name": part_name,
            "kernel_size": part.kernel_size,
            "padding": "valid",
            "activation": "linear",
            "use_bias": layer.use_bias and part_name == names[0],
        }
        convolution = type(layer).from_config(config)
        entries.append(_entry(crop, _calls(f"{name}_padded")))
        entries.append(_entry(convolution, _calls(crop.name)))
    if len(parts) > 1:
        calls = [_calls(part_name)[0][0] for part_name in names]
        entries += _merges({"name": total, "class_name": "Add", "inbound_nodes": [calls]})
    if total != name:
        entries.append(_entry(layers.ReLU(name=name), _calls(total)))
    return entries


def _part_weights(layer: Any, parts: Sequence[Part]) -> dict[str, list[np.ndarray]]:
    """Return the weights of the parts by their names; the first has the bias."""
    kernel, *bias = layer.get_weights()
    names = _part_names(layer, parts)
    weights = {
        name: [kernel[part.rows, part.columns]] for name, part in zip(names, parts, strict=True)
    }
    weights[names[0]] += bias
    return weights


def _part_names(layer: Any, parts: Sequence[Part]) -> list[str]:
    if len(parts) == 1:
        return [_total(layer)]
    return [f"{layer.name}_part_{index}" for index in range(len(parts))]


def _total(layer: Any) -> str:
    """Return the name of what all parts add up to."""
    return layer.name if layer.activation.__name__ == "linear" else f"{layer.name}_sum"


def _depthwise(name: str, inbound_nodes: list, use_bias: bool) -> dict:
    """Return the entry of a frozen 1x1 depthwise convolution in a model's config."""
    from tf_keras import layers

    layer = layers.DepthwiseConv2D(1, use_bias=use_bias, trainable=False, name=name)
    return _entry(layer, inbound_nodes)


def _entry(layer: Any, inbound_nodes: list) -> dict:
    import tf_keras

    entry = {"name": layer.name, "inbound_nodes": inbound_nodes}
    return tf_keras.layers.serialize(layer) | entry


def _calls(*names: str) -> list:
    return [[[name, 0, 0, {}] for name in names]]


def _merges(entry: dict) -> list[dict]:
    """Return the entries of a merge as merges of two, and the division of an average."""
    from tf_keras import layers

    name, ((first, *others),) = entry["name"], entry["inbound_nodes"]
    is_mean = entry["class_name"] == "Average"
    kind = layers.Add if is_mean else getattr(layers, entry["class_name"])
    entries: list = []
    for index, other in enumerate(others, start=1):
        is_last = index == len(others) and not is_mean
        layer = kind(name=name if is_last else f"{name}_{index}")
        entries.append(_entry(layer, [[first, other]]))
        (first,) = _calls(layer.name)[0]
    if is_mean:
        entries.append(_entry(layers.Rescaling(1 / (1 + len(others)), name=name), [[first]]))
    return entries
