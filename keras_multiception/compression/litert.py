"""Keras models as LiteRT (TensorFlow Lite) files, in float or with 8 bits."""

import contextlib
import os
import tempfile

import keras
import numpy as np

from keras_multiception.compression.litert_operators import float_operators
from keras_multiception.compression.litert_packing import repack
from keras_multiception.compression.litert_signature import output_names
from keras_multiception.compression.wide_kernels import computed_in_parts
from keras_multiception.fusion import fuse
from keras_multiception.graphs.reading import graph_of

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")


def convert_to_litert(model, quantization="none", representative_data=None, integer_io=False):
    """Convert a model for LiteRT, the runtime of phones and small computers.

    - `"none"`: float32, as the model computes.
    - `"float16"`: weights stored in half precision, which halves the file; computed in float32.
    - `"dynamic"`: weights stored with 8 bits; activations are quantized while it runs, where the
      runtime has a kernel for it.
    - `"int8"`: integers throughout. A model of `quantize_model` brings its ranges with it; those of
      any other one are found by running `representative_data` (post-training quantization).

    A model of Keras 3 is fused first, see `km.fuse`: its own layers compute in forms that are fast
    in training but have no 8-bit operators. Depthwise convolutions of more than 25 weights a
    channel, such as 7x7, become sums of smaller ones, in `quantize_model` for its models: LiteRT
    has no fast kernels for larger ones on CPUs.

    Args:
        model: A Functional or built Sequential model of Keras 3 or of `tf_keras`.
        quantization: `"none"`, `"float16"`, `"dynamic"` or `"int8"`.
        representative_data: Some hundred inputs as the model will see them, as an array or an
            iterable of batches; for `"int8"` without quantization-aware training only.
        integer_io: Boolean, whether the inputs and outputs of an `"int8"` model are int8 too. If
            not they are float32, and the first and last operators convert.

    Returns:
        Bytes, the content of a `.tflite` file; its batch size is open. Its one signature,
        `serving_default`, has the inputs' names of the model; the output is `probabilities` if it
        is a softmax, else it has its layer's name.

    Raises:
        ImportError: If TensorFlow, `ai-edge-litert` or, for models of it, `tf_keras` is not
            installed.
        ValueError: If an argument is out of its range, or parts of an `"int8"` model of
            quantization-aware training would stay in floating point; they are named.

    Example:
        >>> content = convert_to_litert(model, "int8", representative_data=images[:200])
        >>> save_litert(content, "model.tflite")

    Reference:
        Jacob et al.: Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference (CVPR 2018).
    """
    import tensorflow as tf

    _require_model(model)
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {', '.join(QUANTIZATIONS)}. Received: {quantization=}"
        )
    if integer_io and quantization != "int8":
        raise ValueError(
            f'`integer_io` needs `quantization="int8"`. Received: {integer_io=}, {quantization=}'
        )
    trained = is_quantized(model)
    if trained and quantization != "int8":
        raise ValueError(
            '`quantization` must be "int8" for a model of quantization-aware training. '
            f"Received: {quantization=}"
        )
    calibrated = quantization == "int8" and not trained
    if calibrated != (representative_data is not None):
        raise ValueError(
            '`representative_data` must be given for `quantization="int8"` without '
            "quantization-aware training, and only then. "
            f"Received: representative_data={type(representative_data).__name__}, {quantization=}"
        )
    half = [x for x in model._flatten_layers() if x.compute_dtype in ("float16", "bfloat16")]
    if half:
        raise ValueError(
            "`model` must compute in float32; `quantization` makes it smaller. Received: "
            f"{half[-1].compute_dtype} in the layer {half[-1].name}"
        )
    is_keras_3 = isinstance(model, keras.Model)
    if is_keras_3:
        model = fuse(model, verbose=False)
    owner = tf.Module()  # of the variables alone: saving a whole model would trace its layers
    owner.weights = [x.value if is_keras_3 else x for x in model.variables]
    with contextlib.nullcontext() if trained else computed_in_parts(model):
        function = _function(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibrated:
        batches = _batches(model, representative_data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            [example[None]] for batch in batches for example in batch
        )
    if integer_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    content = repack(bytes(converter.convert()))
    if quantization == "int8":
        _require_integers(content)
    return content


def save_litert(content, path):
    """Write a LiteRT model; the file appears when it is complete.

    Args:
        content: Bytes, of `convert_to_litert`.
        path: Path of the file, in a folder that exists.

    Raises:
        ValueError: If its folder cannot be written, or a folder is there.

    Example:
        >>> save_litert(convert_to_litert(model), "model.tflite")
    """
    if os.path.isdir(path):
        raise ValueError(f"`path` must be that of a file. Received: the folder {path}")
    try:
        descriptor, partial = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise ValueError(
            f"`path` must be in a folder that can be written ({error.strerror}). "
            f"Received: path={path}"
        ) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def is_quantized(model):
    """Return whether a model has the wrappers of quantization-aware training.

    Args:
        model: A model of Keras 3 or `tf_keras`.

    Returns:
        A boolean.
    """
    return any(
        base.__name__ in ("QuantizeWrapper", "QuantizeLayer")
        for layer in model.layers
        for base in type(layer).__mro__
    )


def _require_model(model):
    if isinstance(model, keras.Model):
        known = graph_of(model) is not None
    else:
        import tf_keras

        is_model = isinstance(model, tf_keras.Model)
        known = is_model and bool(model.built and getattr(model, "inputs", None))
    if not known:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one of Keras 3 or tf_keras. "
            f"Received: model={model!r}"
        )
    if isinstance(model, keras.Model) and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`model` must be one of Keras' TensorFlow backend. "
            f"Received: a model of {keras.backend.backend()}"
        )


def _function(model):
    """Return a model's inference as a concrete function of TensorFlow with its batch size open."""
    import tensorflow as tf

    is_keras_3 = isinstance(model, keras.Model)
    inputs = graph_of(model).input if is_keras_3 else model.input
    spec = tf.nest.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name.split(":")[0]), inputs
    )
    names = output_names(model)

    def answer(x):
        y = model(x, training=False)
        return y if isinstance(y, dict) else dict(zip(names, tf.nest.flatten(y), strict=True))

    return tf.function(answer, autograph=False).get_concrete_function(spec)


def _batches(model, data):
    """Return batches of representative inputs, checked."""
    inputs = graph_of(model).inputs if isinstance(model, keras.Model) else model.inputs
    if len(inputs) != 1:
        raise ValueError(
            f"`model` must have one input to be calibrated. Received: {len(inputs)} inputs"
        )
    expected = tuple(inputs[0].shape)
    try:
        batches = [data] if hasattr(data, "shape") else list(data)
    except TypeError:
        batches = [data]
    for batch in batches:
        shape, dtype = tuple(getattr(batch, "shape", ())), getattr(batch, "dtype", None)
        fits = len(shape) == len(expected) and all(
            own in (None, size) for size, own in zip(shape[1:], expected[1:], strict=True)
        )
        dtype = getattr(dtype, "name", str(dtype))
        if not fits or dtype != "float32":
            raise ValueError(
                f"`representative_data` must be float32 of shape {expected}, or batches of it. "
                f"Received: {type(batch).__name__} of shape {shape} and dtype {dtype}"
            )
    arrays = [np.asarray(batch) for batch in batches]
    if not sum(map(len, arrays)) or not all(np.isfinite(batch).all() for batch in arrays):
        raise ValueError(
            "`representative_data` must have examples, all of them finite. "
            f"Received: {sum(map(len, arrays))} examples"
        )
    return arrays


def _require_integers(content):
    floats = float_operators(content)
    if floats:
        raise ValueError(
            "`model` must have layers whose 8-bit forms LiteRT has. "
            f"Received: a model with {', '.join(map(str, floats))}"
        )
