"""Warm-up requests for an exported model, so that its first users need not wait for TensorFlow.

The server replays them before a version takes requests: each signature with each batch size that
its batching allows, because a first call in a new shape is slow.
"""

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from serving.engine.batching import read_batching
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE

BATCHING_FILE = pathlib.Path(__file__).parents[1] / "batching.config"
SIGNATURES = ("serving_default", "serving_uint8", "serving_bytes", "classify")
LITERT_SIGNATURES = ("serving_default",)
_GREY = 127


def write_warmup(path, image_shape, batching_file=BATCHING_FILE, signatures=SIGNATURES):
    """Write the warm-up file of a SavedModel that `km.export_saved_model` wrote.

    Args:
        path: Path of the SavedModel's folder.
        image_shape: Tuple (height, width, 3) of the images in the requests.
        batching_file: Path of the batching parameters file that says which batch sizes a server
            runs: `allowed_batch_sizes`, or 1 and `max_batch_size` if it allows all.
        signatures: Names of the signatures to call. A server that cannot answer one of the
            requests does not load the version.

    Raises:
        ValueError: If the file cannot be read, or the batch sizes are too many.
    """
    batching = read_batching(batching_file)
    sizes = batching.allowed_batch_sizes or sorted({1, batching.max_batch_size})
    requests = [
        log for size in sizes for name, log in _requests(size, image_shape) if name in signatures
    ]
    if len(requests) > MAX_WARMUP_RECORDS:
        raise ValueError(
            f"`batching_file` must allow at most {MAX_WARMUP_RECORDS // len(signatures)} batch "
            f"sizes, for TF Serving takes {MAX_WARMUP_RECORDS} warm-up requests. Received: {len(sizes)} sizes"
        )
    warmup = pathlib.Path(path) / WARMUP_FILE
    warmup.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(warmup)) as writer:
        for request in requests:
            writer.write(request.SerializeToString())


def _requests(size, image_shape):
    """Make a request for each signature; gray images, for TensorFlow writes those small."""
    png = tf.io.encode_png(np.full(image_shape, _GREY, "uint8")).numpy()
    inputs = {
        "serving_default": ("image", _filled(tf.float32, [size, *image_shape], _GREY)),
        "serving_uint8": ("image", _filled(tf.uint8, [size, *image_shape], _GREY)),
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


def _filled(dtype, shape, value):
    """Make a tensor whose one value stands for all of them."""
    tensor = tf.make_tensor_proto(value, dtype, shape=[1])
    tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return tensor
