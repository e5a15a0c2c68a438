"""Quantization-aware training: networks that learn with the rounding of their 8-bit form."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.pruning import mean_gradient
from keras_multiception.compression.quantization_layout import (
    MERGES,
    follows_convolution,
    is_input,
    rewrite_for_quantization,
)
from keras_multiception.compression.tf_keras_bridge import to_tf_keras
from keras_multiception.compression.tf_keras_models import (
    import_tfmot,
    is_quantized,
    require_batches,
)

PRESERVABLE = ("sparsity", "clusters")
# Those whose 8-bit form LiteRT has and the toolkit knows, by their names in tf_keras.
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "tanh")
RANGE_ENDS = ("_min", "_max")
STEP = 0.001  # by how much of the difference the toolkit moves a range with each batch


def quantize_model(model: Any, preserve: tuple[str, ...] | list[str] = ()) -> Any:
    """Rebuild a network for quantization-aware training with the toolkit's 8-bit scheme.

    Weights and activations are rounded as in the 8-bit form, with gradients that ignore it. The
    new model is to be compiled and trained with `tf_keras`, for an epoch or a few with a small
    learning rate: the ranges of its activations start at -6..6 and are learned from its inputs.
    `convert_to_litert(model, "int8")` makes a file of it.

    Different from the toolkit's own `quantize_model`: ranges of depthwise kernels are per channel,
    which batch norms can be folded into without a loss; weights before a separate ReLU and before
    concatenations are quantized as others are; `Multiply`, `Average`, `Rescaling` and batch norms
    that do not follow a convolution are supported.

    Args:
        model: A model of Keras 3 that `to_tf_keras` takes, or a Functional model of `tf_keras`,
            without the wrappers of pruning or clustering, that returns a tensor or a list; it
            stays as it is.
        preserve: What training is to keep of the kernels of convolutions and dense layers:
            `"sparsity"`, their zeros; `"clusters"`, that they have few different values, depthwise
            ones excepted.

    Returns:
        An uncompiled Functional `tf_keras.Model`, its layers in wrappers.

    Raises:
        ValueError: If `preserve` or `model` is none of these, or layers cannot be quantized; all
            of them are named.

    Example:
        >>> qat_model = quantize_model(model)
        >>> qat_model.compile(tf_keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
        >>> qat_model.fit(images, labels)
        >>> content = convert_to_litert(qat_model, "int8")

    Reference:
        Jacob et al.: Quantization and Training of Neural Networks (CVPR 2018).
    """
    if not isinstance(preserve, tuple | list) or not all(x in PRESERVABLE for x in preserve):
        raise ValueError(
            f"`preserve` must be a tuple of any of {', '.join(PRESERVABLE)}. Received: {preserve=}"
        )
    if isinstance(model, keras.Model):
        model = to_tf_keras(model)
    _require_functional(model)
    return _quantize(model, tuple(preserve))


def _quantize(model: Any, preserve: tuple[str, ...]) -> Any:
    from keras_multiception.compression.quantization_scheme import make_scheme

    registry = make_scheme(preserve, set()).get_quantize_registry()
    reasons = [
        f"{type(layer).__name__} {layer.name} ({reason})"
        for layer in model.layers
        if (reason := _why_not_quantizable(model, layer, registry)) is not None
    ]
    if is_quantized(model):
        reasons = ["the wrappers of quantization-aware training"]
    if reasons:
        raise ValueError(
            f"`model` must consist of layers that can be quantized. Received: {', '.join(reasons)}"
        )
    rewritten, fixed = rewrite_for_quantization(model)
    toolkit = import_tfmot().quantization.keras
    annotated = toolkit.quantize_annotate_model(rewritten)
    quantized = toolkit.quantize_apply(annotated, make_scheme(preserve, fixed))
    _keep_frozen(quantized)
    _average_cluster_gradients(quantized)
    return quantized


def _keep_frozen(quantized: Any) -> None:
    """Take the kernels of frozen layers, which the toolkit trains, out of what is trained."""
    for wrapper in quantized.layers:
        layer = getattr(wrapper, "layer", None)
        if layer is not None and not layer.trainable:
            wrapper._non_trainable_weights += wrapper._trainable_weights
            wrapper._trainable_weights[:] = []


def _average_cluster_gradients(quantized: Any) -> None:
    """Make each of the few values of a kernel move by the mean gradient of its weights.

    The toolkit takes their sum, and has no option for it here as it has in clustering.
    """
    for layer in quantized.layers:
        for _, _, variables in getattr(layer, "_weight_vars", ()):
            if "clst_impl" in variables:
                variables["clst_impl"].cluster_gradient_aggregation = mean_gradient()


def _require_functional(model: Any) -> None:
    import tf_keras

    if (
        not isinstance(model, tf_keras.Model)
        or isinstance(model, tf_keras.Sequential)
        or not model._is_graph_network
        or isinstance(model.output, dict)
    ):
        raise ValueError(
            "`model` must be a model of Keras 3 or a Functional one of tf_keras, and return a "
            f"tensor or a list. Received: model={model!r}"
        )


def _why_not_quantizable(model: Any, layer: Any, registry: Any) -> str | None:
    import tf_keras

    kind = type(layer).__name__
    if isinstance(layer, tf_keras.Model):
        return "nested"
    if len(layer._inbound_nodes) > 1:
        return "called more than once"
    if layer.compute_dtype != "float32" or layer.dtype != "float32":
        return layer.dtype_policy.name if kind != "InputLayer" else layer.dtype
    if is_input(layer) or kind in MERGES:
        return None
    is_image = len(layer.output.shape) == 4
    if kind == "BatchNormalization":
        last = layer.axis in ([len(layer.output.shape) - 1], -1)
        if not last or not (is_image or follows_convolution(model, layer)):
            return "not after a convolution or dense layer"
        return None
    if kind == "Rescaling":
        return None if is_image else "not of images"
    if kind != "SeparableConv2D" and not registry.supports(layer):
        return "not supported"
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if activation == "swish":
        return None if kind == "Activation" else "activation swish, not as a layer of its own"
    return None if activation in ACTIVATIONS else f"activation {activation}"


def calibrate_ranges(model: Any, batches: Iterable) -> None:
    """Set the ranges of a model of `quantize_model` to what its activations take.

    The toolkit starts every range at -6..6 and moves it by a thousandth of the difference with each
    step: a short training ends before they are right. Here each batch sets them anew, those of
    earlier layers better than the batch before; the mean over the second half of them stays.

    Args:
        model: A `tf_keras.Model` of `quantize_model`, which is changed in place.
        batches: Iterable of inputs, float32, of the model's shape; some twenty are enough.

    Raises:
        ValueError: If `model` has no ranges to set, there are fewer than two batches, or one of
            them does not fit the model or has NaN or infinite values. The model is then unchanged.

    Example:
        >>> aware = quantize_model(model)
        >>> calibrate_ranges(aware, np.split(images[:640], 20))
    """
    averaged, extreme = _ranges(model)
    if not averaged:
        raise ValueError(f"`model` must be one of `quantize_model`. Received: model={model!r}")
    shapes = [tuple(x.shape) for x in model.inputs]
    batches = require_batches("batches", batches, shapes, model.input_names)
    if len(batches) < 2:
        raise ValueError(f"`batches` must be at least two. Received: {len(batches)} batches")
    before = [(variable, variable.numpy()) for variable in model.variables]
    try:
        _set_ranges(model, averaged, extreme, batches)
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise


def _set_ranges(model: Any, averaged: list, extreme: list, batches: list) -> None:
    before = [(x, x.numpy()) for x in model.variables if not _own_name(x).endswith(RANGE_ENDS)]
    for variable in extreme:
        variable.assign(np.zeros_like(variable.numpy()))
    found = []
    for batch in batches:
        old = [variable.numpy() for variable in averaged]
        model(batch, training=True)
        new = [variable.numpy() for variable in averaged]
        found.append([a + (b - a) / STEP for a, b in zip(old, new, strict=True)])
        for variable, value in (*zip(averaged, found[-1], strict=True), *before):
            variable.assign(value)
    for variable, *values in zip(averaged, *found[len(found) // 2 :], strict=True):
        variable.assign(np.mean(values, axis=0))


def _ranges(model: Any) -> tuple[list, list]:
    """Return the variables of ranges: moving averages, and the extremes of the inputs."""
    averaged: list = []
    extreme: list = []
    for layer in getattr(model, "layers", ()):
        for variable in layer.non_trainable_variables:
            name = _own_name(variable)
            if not name.endswith(RANGE_ENDS) or "kernel" in name:
                continue  # kernels' ranges are always theirs
            of_input = type(layer).__name__ == "QuantizeLayer"
            (extreme if of_input else averaged).append(variable)
    return averaged, extreme


def _own_name(variable: Any) -> str:
    return variable.name.split(":")[0].rsplit("/", 1)[-1]
