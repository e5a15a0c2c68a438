"""Warm-up requests of each signature and batch size: a first call in a new shape is slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from serving.engine.batching import read_batching
from serving.version_folder import WARMUP_FILE

BATCHING_FILE = Path(__file__).parents[1] / "batching.config"
SIGNATURES = ("serving_default", "serving_uint8", "serving_bytes", "classify")
_GRAY = 127


def read_batch_sizes(batching_file: str | Path | None) -> Sequence[int]:
    """Reads which batch sizes a server runs: the allowed ones, or 1 and the largest if all are."""
    batching = read_batching(batching_file or BATCHING_FILE)
    return batching.allowed_batch_sizes or sorted({1, batching.max_batch_size})


def write_warmup(
    folder: Path, image_shape: Sequence[int], sizes: Sequence[int], signatures: Sequence[str]
) -> None:
    """Writes the warm-up file of a SavedModel that `km.export_saved_model` wrote."""
    (folder / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for size in sizes:
            for name, request in _requests(size, image_shape):
                if name in signatures:
                    writer.write(request.SerializeToString())


def _requests(
    size: int, image_shape: Sequence[int]
) -> Iterator[tuple[str, prediction_log_pb2.PredictionLog]]:
    """Makes a request for each signature; gray images, for TensorFlow writes those small."""
    png = tf.io.encode_png(np.full(image_shape, _GRAY, "uint8")).numpy()
    inputs = {
        "serving_default": ("image", _filled(tf.float32, [size, *image_shape], _GRAY)),
        "serving_uint8": ("image", _filled(tf.uint8, [size, *image_shape], _GRAY)),
        "serving_bytes": ("image_bytes", _filled(tf.string, [size], png)),
    }
    for signature, (name, tensor) in inputs.items():
        request = predict_pb2.PredictRequest(inputs={name: tensor})
        request.model_spec.signature_name = signature
        log = prediction_log_pb2.PredictLog(request=request)
        yield signature, prediction_log_pb2.PredictionLog(predict_log=log)
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = "classify"
    for _ in range(size):
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(png)
    log = prediction_log_pb2.ClassifyLog(request=request)
    yield "classify", prediction_log_pb2.PredictionLog(classify_log=log)


def _filled(dtype: tf.DType, shape: Sequence[int], value: int | bytes) -> TensorProto:
    """Makes a tensor whose one value stands for all of them."""
    tensor = tf.make_tensor_proto(value, dtype, shape=[1])
    tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return tensor
