"""ONNX files in 8 bits, by NNCF."""

import contextlib
import io
import os
import pathlib
import tempfile
from typing import Any

import keras

from keras_multiception import atomic
from keras_multiception.compression.quantization import require_batches
from keras_multiception.export import export_onnx
from keras_multiception.inference import import_extra
from keras_multiception.preprocessing import Dataset


def quantize_onnx(
    model: keras.Model | str | os.PathLike,
    images: Any,
    path: str | os.PathLike,
    dataset: str | Dataset | None = None,
) -> None:
    """Write a network as an ONNX file that computes with 8-bit integers (NNCF).

    Weights have a scale for each channel; the ranges of activations are found by running `images`
    (post-training quantization). ONNX Runtime and OpenVINO run the file, which is less than half as
    large as the float32 one. OpenVINO is two to three times as fast with it on large batches; ONNX
    Runtime does not gain. Open it in OpenVINO with `openvino.convert_model`: `Core.read_model` (of
    2026.4) reads it otherwise, and the network then errs.

    Args:
        model: A model for `km.export_onnx`, or the path of a float32 ONNX file with one input.
        images: Some hundred training images as the network takes them, float32: an array, or an
            iterable of batches. With `dataset` or a file made so, pixels 0 to 255.
        path: The file to write; its folder may be missing.
        dataset: As for `km.export_onnx`: whose preprocessing to put into the file of a model.

    Raises:
        ValueError: If an argument is out of its range, or ONNX cannot express the model.
        RuntimeError: If `model` is a model and Keras does not run on TensorFlow.
        ImportError: If NNCF is missing: `pip install keras-multiception[nncf]`.

    Example:
        >>> quantize_onnx(model, images[:300], "model_int8.onnx")

    Reference:
        NNCF, https://github.com/openvinotoolkit/nncf
    """
    nncf, onnx = import_extra("nncf", "nncf"), import_extra("onnx", "nncf")
    content = _read(model, dataset)
    constants = {x.name for x in content.graph.initializer}
    inputs = [x for x in content.graph.input if x.name not in constants]
    if len(inputs) != 1:
        raise ValueError(f"`model` must have one input. Received: {len(inputs)} inputs")
    dimensions = inputs[0].type.tensor_type.shape.dim
    shape = (None, *(x.dim_value or None for x in dimensions[1:]))
    samples = [x[None] for batch in require_batches("images", images, [shape]) for x in batch]
    calibration = nncf.Dataset(samples, lambda image: {inputs[0].name: image})
    # NNCF would quantize the inputs of depthwise convolutions by channel, for OpenVINO alone
    per_tensor = nncf.quantization.advanced_parameters.QuantizationParameters(per_channel=False)
    parameters = nncf.AdvancedQuantizationParameters(activations_quantization_params=per_tensor)
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantized = nncf.quantize(
            content, calibration, subset_size=len(samples), advanced_parameters=parameters
        )
    with atomic.replacing(path) as temporary:
        onnx.save(quantized, temporary)


def _read(model: Any, dataset: str | Dataset | None) -> Any:
    import onnx

    if isinstance(model, keras.Model):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.onnx")
            export_onnx(model, path, dataset, form="separate")  # sums of 8 bits err more
            return onnx.load(path)
    if dataset is not None or not os.path.isfile(model):
        raise ValueError(
            "`model` must be a `keras.Model`, or without `dataset` the path of an ONNX file. "
            f"Received: model={model!r}, dataset={dataset!r}"
        )
    return onnx.load(model)
