"""Keras models as LiteRT (TensorFlow Lite) files, in float or with 8 bits."""

import contextlib
import os
from typing import Any

import keras
import numpy as np

from keras_multiception import atomic
from keras_multiception.compression.litert_files import dedupe_buffers, float_operators
from keras_multiception.compression.quantization import is_quantized, require_batches
from keras_multiception.compression.split_large_kernels import large_kernels_split
from keras_multiception.compression.tf_keras_bridge import require_either
from keras_multiception.export.saved_model import require_tensorflow
from keras_multiception.fusion import fuse
from keras_multiception.graphs import graph_of, unique_name
from keras_multiception.startup import quiet

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")


def convert_to_litert(
    model: Any, quantization: str = "none", representative_data: Any = None
) -> bytes:
    """Convert a model for LiteRT, the runtime of phones and small computers.

    - `"none"`: float32, as the model computes.
    - `"float16"`: weights stored in half precision, which halves the file; computed in float32.
    - `"dynamic"`: weights stored with 8 bits; activations are quantized while it runs, where the
      runtime has a kernel for it.
    - `"int8"`: integers throughout. A model of `quantize_model` brings its ranges with it; for any
      other, they are found by running `representative_data` (post-training quantization). Inputs
      and outputs stay float32; the first and last operators convert.

    A model of Keras 3 is fused first, see `km.fuse`. Depthwise convolutions of more than 25 weights
    a channel, as 7x7, become sums of smaller ones: LiteRT has fast CPU kernels for no others.

    Args:
        model: A Functional or built Sequential model of Keras 3 or of `tf_keras`.
        quantization: `"none"`, `"float16"`, `"dynamic"` or `"int8"`.
        representative_data: Some hundred float32 inputs as the model will see them, an array or an
            iterable of batches, without NaN; for `"int8"` without quantization-aware training only.

    Returns:
        Bytes, the content of a `.tflite` file of open batch size. Its one signature has the inputs'
        names of the model; an output is `probabilities` if it is a softmax, else its layer's name.

    Raises:
        ValueError: If an argument is out of its range, or parts of an `"int8"` model would stay in
            floating point; they are named.
        RuntimeError: If Keras runs on another backend than TensorFlow.

    Example:
        >>> content = convert_to_litert(model, "int8", representative_data=images[:200])
        >>> save_litert(content, "int8.tflite")
    """
    _check(model, quantization, representative_data)
    data = representative_data
    if data is not None:
        if len(model.inputs) != 1:
            raise ValueError(
                f"`model` must have one input to be calibrated. Received: {model.inputs}"
            )
        shape = (None, *model.inputs[0].shape[1:])
        data = require_batches("representative_data", data, [shape])
    content = dedupe_buffers(_convert(model, quantization, data))
    if quantization == "int8" and (floats := float_operators(content)):
        raise ValueError(
            "`model` must have layers whose 8-bit forms LiteRT has. "
            f"Received: a model with {', '.join(map(str, floats))}"
        )
    return content


def _check(model: Any, quantization: str, data: Any) -> None:
    require_either(model)
    if isinstance(model, keras.Model):
        require_tensorflow("a LiteRT file")
    half = [x for x in model._flatten_layers() if x.compute_dtype in ("float16", "bfloat16")]
    if half:
        raise ValueError(
            "`model` must compute in float32; `quantization` makes it smaller. Received: "
            f"{half[-1].compute_dtype} in the layer {half[-1].name}"
        )
    is_int8, trained = quantization == "int8", is_quantized(model)
    if quantization not in QUANTIZATIONS or (trained and not is_int8):
        raise ValueError(
            f"`quantization` must be one of {', '.join(QUANTIZATIONS)}, and int8 for a model of "
            f"quantization-aware training. Received: quantization={quantization!r}"
        )
    if (is_int8 and not trained) != (data is not None):
        raise ValueError(
            '`representative_data` must be given for `quantization="int8"` without '
            f"quantization-aware training, and only then. Received: quantization={quantization!r}"
        )


def save_litert(content: bytes, path: str | os.PathLike) -> None:
    """Write the bytes of `convert_to_litert`; the file appears when it is complete."""
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


def _is_softmax(tensor: Any) -> bool:
    history = tensor._keras_history
    layer = getattr(history, "operation", None) or history.layer
    layer = getattr(layer, "layer", layer)  # the wrapper of quantization-aware training
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)
    return type(layer).__name__ == "Softmax" or getattr(activation, "__name__", "") == "softmax"


def _convert(model: Any, quantization: str, data: list | None) -> bytes:
    import tensorflow as tf

    is_keras_3, trained = isinstance(model, keras.Model), is_quantized(model)
    if is_keras_3:  # our layers compute in forms that are fast in training and have no 8-bit ones
        model = fuse(model, verbose=False)
    owner = tf.Module()  # of the variables alone: saving a whole model would trace its layers
    owner.weights = [x.value if is_keras_3 else x for x in model.variables]
    with contextlib.nullcontext() if trained else large_kernels_split(model):
        function = _function(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if data is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            [example[None]] for batch in data for example in np.asarray(batch)
        )
    with quiet():
        return bytes(converter.convert())


def _function(model: Any) -> Any:
    """Return a model's inference as a concrete function with its batch size open."""
    import tensorflow as tf

    graph = graph_of(model) if isinstance(model, keras.Model) else model
    spec = tf.nest.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name.split(":")[0]),
        graph.input,
    )
    taken: set[str] = set()
    names = [unique_name(name.removeprefix("quant_"), taken) for name in graph.output_names]
    if len(names) == 1 and _is_softmax(graph.outputs[0]):
        names = ["probabilities"]

    def answer(x: Any) -> dict[str, Any]:
        y = model(x, training=False)
        return y if isinstance(y, dict) else dict(zip(names, tf.nest.flatten(y), strict=True))

    return tf.function(answer, autograph=False).get_concrete_function(spec)
