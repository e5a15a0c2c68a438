"""Quantization-aware training: networks that learn with the rounding of their 8-bit form."""

import keras

from keras_multiception.compression.clustering import mean_gradient
from keras_multiception.compression.keras_2 import to_tf_keras
from keras_multiception.compression.litert import is_quantized
from keras_multiception.compression.quantization_layout import (
    MERGES,
    follows_convolution,
    is_input,
    rewrite_for_quantization,
)
from keras_multiception.compression.toolkit import import_tfmot

PRESERVABLE = ("sparsity", "clusters")
# those whose 8-bit form LiteRT has and the toolkit knows, by their names in tf_keras
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "tanh")


def quantize_model(model, preserve=()):
    """Rebuild a network for quantization-aware training with the toolkit's 8-bit scheme.

    Weights and activations are rounded as in the 8-bit form, with gradients that ignore it. The
    new model is to be compiled and trained with `tf_keras`, for an epoch or a few with a small
    learning rate: the ranges of its activations start at -6..6 and are learned from its inputs.
    `convert_to_litert(model, "int8")` makes a file of it.

    Different from the toolkit's own `quantize_model`: ranges of depthwise kernels are per channel,
    which batch norms can be folded into without a loss; weights in front of a separate ReLU and of
    concatenations are quantized as others are; `Multiply`, `Average`, `Rescaling` and batch norms
    that do not follow a convolution are supported.

    Args:
        model: A model of Keras 3 that `to_tf_keras` takes, or a Functional model of `tf_keras`,
            without the wrappers of pruning or clustering, that returns a tensor or a list; it
            stays as it is.
        preserve: Tuple of strings, what training is to keep of the kernels of convolutions and
            dense layers: `"sparsity"`, their zeros; `"clusters"`, that they have few different
            values, depthwise ones excepted.

    Returns:
        An uncompiled Functional `tf_keras.Model`, its layers in wrappers.

    Raises:
        ImportError: If `tf_keras` or `tensorflow-model-optimization` is not installed.
        ValueError: If `preserve` or `model` is none of these, or layers cannot be quantized; all
            of them are named.

    Example:
        >>> qat_model = quantize_model(model)
        >>> qat_model.compile(tf_keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
        >>> qat_model.fit(images, labels)
        >>> content = convert_to_litert(qat_model, "int8")

    Reference:
        Jacob et al.: Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference (CVPR 2018).
    """
    if not isinstance(preserve, tuple | list) or not all(x in PRESERVABLE for x in preserve):
        raise ValueError(
            f"`preserve` must be a tuple of any of {', '.join(PRESERVABLE)}. Received: {preserve=}"
        )
    tfmot = import_tfmot()
    if isinstance(model, keras.Model):
        model = to_tf_keras(model)
    _require_functional(model)
    _require_supported(model, preserve)
    from keras_multiception.compression.quantization_scheme import make_scheme

    rewritten, fixed = rewrite_for_quantization(model)
    annotated = tfmot.quantization.keras.quantize_annotate_model(rewritten)
    quantized = tfmot.quantization.keras.quantize_apply(annotated, make_scheme(preserve, fixed))
    _keep_frozen(quantized)
    _let_values_learn_like_weights(quantized)
    return quantized


def _keep_frozen(quantized):
    """Take the kernels of frozen layers, which the toolkit trains, out of what is trained."""
    for wrapper in quantized.layers:
        layer = getattr(wrapper, "layer", None)
        if layer is not None and not layer.trainable:
            wrapper._non_trainable_weights += wrapper._trainable_weights
            wrapper._trainable_weights[:] = []


def _let_values_learn_like_weights(quantized):
    """Make each of the few values of a kernel move by the mean gradient of its weights.

    The toolkit takes their sum, and has no option for it here as it has in clustering.
    """
    for layer in quantized.layers:
        for _, _, variables in getattr(layer, "_weight_vars", ()):
            if "clst_impl" in variables:
                variables["clst_impl"].cluster_gradient_aggregation = mean_gradient()


def _require_functional(model):
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


def _require_supported(model, preserve):
    from keras_multiception.compression.quantization_scheme import make_scheme

    registry = make_scheme(preserve, ()).get_quantize_registry()
    reasons = [
        f"{type(layer).__name__} {layer.name} ({reason})"
        for layer in model.layers
        if (reason := _obstacle(model, layer, registry)) is not None
    ]
    if is_quantized(model):
        reasons = ["the wrappers of quantization-aware training"]
    if reasons:
        raise ValueError(
            f"`model` must consist of layers that can be quantized. Received: {', '.join(reasons)}"
        )


def _obstacle(model, layer, registry):
    """Return why a layer cannot be quantized, or `None`."""
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
            return "not behind a convolution or dense layer"
        return None
    if kind == "Rescaling":
        return None if is_image else "not of images"
    if kind != "SeparableConv2D" and not registry.supports(layer):
        return "not supported"
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if activation == "swish":
        return None if kind == "Activation" else "activation swish, not as a layer of its own"
    return None if activation in ACTIVATIONS else f"activation {activation}"
