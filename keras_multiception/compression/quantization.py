"""Quantization-aware training: networks that learn with the rounding of their 8-bit form."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.pruning import MEAN_GRADIENT
from keras_multiception.compression.split_large_kernels import Pairs, Part, divide
from keras_multiception.compression.tf_keras_bridge import (
    import_tfmot,
    to_tf_keras,
    with_weights,
)
from keras_multiception.graphs import fits

PRESERVABLE = ("sparsity", "clusters")
MERGES = ("Add", "Average", "Multiply")
REWRITTEN = ("BatchNormalization", "InputLayer", "SeparableConv2D", *MERGES)
# Activations whose 8-bit form LiteRT has and the toolkit knows, by their names in tf_keras.
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "tanh")
STEP = 0.001  # by how much of the difference the toolkit moves a range with each batch


def quantize_model(model: Any, preserve: tuple[str, ...] | list[str] = ()) -> Any:
    """Rebuild a network for quantization-aware training with the toolkit's 8-bit scheme.

    Weights and activations are rounded as in the 8-bit form, with gradients that ignore it.
    Compile and fit the new model with `tf_keras`, for an epoch or a few with a small learning
    rate. `convert_to_litert(model, "int8")` makes a file of it.

    Other than in the toolkit's own `quantize_model`, ranges of depthwise kernels are per channel,
    which batch norms can be folded into without a loss; weights before a separate ReLU and before
    concatenations are quantized; and `Multiply`, `Average`, `Rescaling` and batch norms that do
    not follow a convolution are supported.

    Args:
        model: A model of Keras 3 that `to_tf_keras` takes, or a Functional model of `tf_keras`
            that returns a tensor or a list; it stays as it is.
        preserve: What training is to keep of the kernels of convolutions and dense layers:
            `"sparsity"`, their zeros; `"clusters"`, that they have few different values, depthwise
            ones excepted.

    Returns:
        An uncompiled Functional `tf_keras.Model`, its layers in wrappers.

    Raises:
        ValueError: If an argument is none of these, or layers cannot be quantized; all are named.

    Example:
        >>> qat_model = quantize_model(model)
        >>> qat_model.compile("sgd", "sparse_categorical_crossentropy")
        >>> qat_model.fit(images, labels)
        >>> content = convert_to_litert(qat_model, "int8")

    Reference: Jacob et al.: Quantization and Training of Neural Networks (CVPR 2018).
    """
    if not isinstance(preserve, tuple | list) or not all(x in PRESERVABLE for x in preserve):
        raise ValueError(
            f"`preserve` must be a tuple of any of {', '.join(PRESERVABLE)}. Received: {preserve=}"
        )
    if isinstance(model, keras.Model):
        model = to_tf_keras(model)
    from keras_multiception.compression.quantization_scheme import Scheme

    _require_quantizable(model, Scheme(preserve))
    rewritten, fixed = rewrite_for_quantization(model)
    toolkit = import_tfmot().quantization.keras
    annotated = toolkit.quantize_annotate_model(rewritten)
    quantized = toolkit.quantize_apply(annotated, Scheme(preserve, fixed))
    _correct_wrappers(quantized)
    return quantized


def _correct_wrappers(quantized: Any) -> None:
    """Keep frozen kernels frozen and move clusters by mean gradients: the toolkit has no option."""
    for wrapper in quantized.layers:
        layer = getattr(wrapper, "layer", None)
        if layer is not None and not layer.trainable:
            wrapper._non_trainable_weights += wrapper._trainable_weights
            wrapper._trainable_weights[:] = []
        for _, _, variables in getattr(wrapper, "_weight_vars", ()):
            if "clst_impl" in variables:
                variables["clst_impl"].cluster_gradient_aggregation = MEAN_GRADIENT


def is_quantized(model: Any) -> bool:
    """Tell whether a model has the wrappers of quantization-aware training."""
    wrappers = ("QuantizeWrapper", "QuantizeLayer")
    return any(type(layer).__name__.startswith(wrappers) for layer in model.layers)


def _require_quantizable(model: Any, scheme: Any) -> None:
    import tf_keras

    is_graph = isinstance(model, tf_keras.Model) and model._is_graph_network
    if not is_graph or isinstance(model, tf_keras.Sequential) or isinstance(model.output, dict):
        raise ValueError(
            "`model` must be a model of Keras 3 or a Functional one of tf_keras, and return a "
            f"tensor or a list. Received: model={model!r}"
        )
    reasons = [
        f"{type(layer).__name__} {layer.name} ({reason})"
        for layer in model.layers
        if (reason := _why_not_quantizable(model, layer, scheme)) is not None
    ]
    if reasons:
        raise ValueError(
            f"`model` must consist of layers that can be quantized. Received: {', '.join(reasons)}"
        )


def _why_not_quantizable(model: Any, layer: Any, scheme: Any) -> str | None:
    kind = type(layer).__name__
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if len(layer._inbound_nodes) > 1:
        return "called more than once"
    if layer.compute_dtype != "float32":
        return layer.compute_dtype
    if kind not in REWRITTEN and not scheme.supports(layer):
        return "not supported"
    is_image = len(layer.output.shape) == 4
    if kind == "BatchNormalization":
        is_last = layer.axis in ([len(layer.output.shape) - 1], -1)
        if not is_last or not (is_image or _follows_convolution(model, layer)):
            return "not after a convolution or dense layer"
    if kind == "Rescaling" and not is_image:
        return "not of images"
    if activation in ACTIVATIONS or (activation == "swish" and kind == "Activation"):
        return None
    return f"activation {activation}"


def rewrite_for_quantization(model: Any) -> tuple[Any, set[str]]:
    """Rebuild a Functional `tf_keras.Model` so that each of its operations has an 8-bit form.

    LiteRT has one only for what follows a convolution or an addition of two. So

    - a batch norm that does not follow a convolution or dense layer gets a 1x1 depthwise
      convolution with ones before it, which it can be folded into,
    - `Rescaling` with an offset becomes a 1x1 depthwise convolution,
    - `Average` becomes `Add` and `Rescaling`, and merges of more than two become several of two,
    - depthwise convolutions that LiteRT is slow with become sums of smaller ones.

    The names of the 1x1 depthwise convolutions are returned, too.
    """
    import tensorflow as tf
    import tf_keras

    made: dict[str, Any] = {}  # the outputs by the names of the model's layers
    fixed: set[str] = set()

    def replace(tensors: Any) -> Any:
        return tf.nest.map_structure(lambda x: made[x._keras_history.layer.name], tensors)

    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            made[layer.name] = type(layer).from_config(layer.get_config()).output
        else:
            made[layer.name] = _call_rewritten(model, layer, replace(layer.input), fixed)
    rewritten = tf_keras.Model(replace(model.input), replace(model.output), name=model.name)
    return rewritten, fixed


def _call_rewritten(model: Any, layer: Any, x: Any, fixed: set[str]) -> Any:
    from tf_keras import layers

    def scale(name: str, *weights: np.ndarray) -> Any:
        fixed.add(name)
        unit = layers.DepthwiseConv2D(1, use_bias=len(weights) > 1, trainable=False, name=name)
        return with_weights(unit, weights)(x)

    kind, name = type(layer), layer.name
    if kind.__name__ == "BatchNormalization" and not _follows_convolution(model, layer):
        x = scale(f"{name}_unit", np.ones((1, 1, x.shape[-1], 1)))
    elif kind.__name__ == "Rescaling" and np.any(layer.offset):
        factors, offsets = (np.broadcast_to(v, x.shape[-1]) for v in (layer.scale, layer.offset))
        return scale(name, factors.reshape(1, 1, -1, 1), offsets)
    elif kind.__name__ == "Average":
        return layers.Rescaling(1 / len(x), name=name)(_in_pairs(layers.Add, f"{name}_sum", x))
    elif kind.__name__ in MERGES:
        return _in_pairs(kind, name, x)
    elif (division := _division(layer)) is not None:
        return _call_in_parts(layer, x, *division)
    copy = with_weights(kind.from_config(layer.get_config()), layer.get_weights())
    return copy(x, **layer._inbound_nodes[0].call_kwargs)


def _in_pairs(kind: Any, name: str, xs: Sequence) -> Any:
    y, *others = xs
    for index, x in enumerate(others, start=1):
        y = kind(name=name if index == len(others) else f"{name}_{index}")([y, x])
    return y


def _call_in_parts(layer: Any, x: Any, padding: Pairs, parts: Sequence[Part]) -> Any:
    """Call a large depthwise convolution as a sum of smaller ones; the first has the bias."""
    from tf_keras import layers

    kernel, *bias = layer.get_weights()
    x = layers.ZeroPadding2D(padding, name=f"{layer.name}_padded")(x)
    ys: list = []
    for index, part in enumerate(parts):
        name = f"{layer.name}_part_{index}" if len(parts) > 1 else layer.name
        weights = [kernel[part.rows, part.columns], *(bias if index == 0 else [])]
        changes = {"name": name, "kernel_size": part.kernel_size, "use_bias": len(weights) > 1}
        config = layer.get_config() | changes | {"padding": "valid"}
        cropped = layers.Cropping2D(part.crop, name=f"{name}_input")(x)
        ys.append(with_weights(type(layer).from_config(config), weights)(cropped))
    return _in_pairs(layers.Add, layer.name, ys)


def _division(layer: Any) -> tuple[Pairs, list[Part]] | None:
    if type(layer).__name__ != "DepthwiseConv2D" or layer.activation.__name__ != "linear":
        return None
    return divide(layer, tuple(layer.input.shape[1:3]))


def _follows_convolution(model: Any, norm: Any) -> bool:
    """Tell whether a batch norm can be folded into the layer before it."""
    import tensorflow as tf

    layer = norm.input._keras_history.layer
    read = [x.input for x in model.layers] + [model.outputs]
    readers = [x for x in read if layer in [t._keras_history.layer for t in tf.nest.flatten(x)]]
    return (
        type(layer).__name__ in ("Conv2D", "Dense", "DepthwiseConv2D", "SeparableConv2D")
        and layer.activation.__name__ == "linear"
        and _division(layer) is None
        and len(readers) == 1
    )


def calibrate_ranges(model: Any, batches: Iterable) -> None:
    """Set the ranges of a model of `quantize_model` to what its activations take.

    The toolkit starts every range at -6..6 and moves it by a thousandth of the difference with each
    step: a short training ends before they are right. Here each batch sets them anew, and the mean
    over the second half of the batches stays.

    Args:
        model: A `tf_keras.Model` of `quantize_model`, which is changed in place.
        batches: Inputs, float32 and finite: two batches at least, some twenty are enough.

    Example:
        >>> aware = quantize_model(model)
        >>> calibrate_ranges(aware, np.split(images[:640], 20))
    """
    # Moving averages, and the extremes of the inputs; ranges of kernels are always up to date.
    averaged: list = []
    extreme: list = []
    for layer in getattr(model, "layers", ()):
        for variable in filter(_is_range, layer.non_trainable_variables):
            if "kernel" not in variable.name.rsplit("/", 1)[-1]:
                of_input = type(layer).__name__ == "QuantizeLayer"
                (extreme if of_input else averaged).append(variable)
    if not averaged:
        raise ValueError(f"`model` must be one of `quantize_model`. Received: model={model!r}")
    batches = require_batches("batches", batches, [tuple(x.shape) for x in model.inputs], least=2)
    others = [(x, x.numpy()) for x in model.variables if not _is_range(x)]
    found = []
    for variable in extreme:
        variable.assign(np.zeros_like(variable.numpy()))
    for batch in batches:
        old = [variable.numpy() for variable in averaged]
        model(batch, training=True)
        new = [variable.numpy() for variable in averaged]
        found.append([a + (b - a) / STEP for a, b in zip(old, new, strict=True)])
        for variable, value in (*zip(averaged, found[-1], strict=True), *others):
            variable.assign(value)
    for variable, *values in zip(averaged, *found[len(found) // 2 :], strict=True):
        variable.assign(np.mean(values, axis=0))


def _is_range(variable: Any) -> bool:
    return variable.name.split(":")[0].endswith(("_min", "_max"))


def require_batches(name: str, batches: Any, shapes: Sequence[tuple], least: int = 1) -> list:
    """Return batches of a model's inputs as a list; they must be float32, finite and fit it."""
    is_one = hasattr(batches, "shape") or not isinstance(batches, Iterable)
    batches = [batches] if is_one else list(batches)
    for batch in batches:
        arrays = [np.asarray(x) for x in keras.tree.flatten(batch)]
        if len(arrays) != len(shapes) or not all(
            x.dtype == "float32" and fits(x.shape, shape) and len(x) and np.isfinite(x).all()
            for x, shape in zip(arrays, shapes, strict=True)
        ):
            raise ValueError(
                f"`{name}` must be batches of the model's inputs, float32 and finite, of shape "
                f"{', '.join(map(str, shapes))}. Received: {len(arrays)} arrays, "
                f"{', '.join(f'{x.dtype} of shape {x.shape}' for x in arrays)}"
            )
    if len(batches) < least:
        raise ValueError(
            f"`{name}` must be at least {least} batches. Received: {len(batches)} batches"
        )
    return batches
