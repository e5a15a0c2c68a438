"""Replays the warm-up requests that a SavedModel brings, so that its first users need not wait."""

from __future__ import annotations

import itertools

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.engine import inference
from serving.engine.errors import ServingError
from serving.engine.load import AnyServable
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE

_METHODS = {
    "predict_log": inference.predict,
    "classify_log": inference.classify,
    "regress_log": inference.regress,
    "multi_inference_log": inference.multi_inference,
}


def replay_warmup(servable: AnyServable) -> int:
    """Answers the requests of a version's warm-up file, a TFRecord of `PredictionLog` messages.

    Args:
        servable: The version.

    Returns:
        How many requests were answered; 0 without such a file.

    Raises:
        ServingError: If the file is damaged, is of more than 1,000 records, or a request fails.
    """
    path = servable.path / WARMUP_FILE
    if not path.is_file():
        return 0
    replayed = 0
    try:
        for record in itertools.islice(tf.data.TFRecordDataset(str(path)), MAX_WARMUP_RECORDS + 1):
            if replayed == MAX_WARMUP_RECORDS:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at "
                    f"{path}",
                )
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            kind = log.WhichOneof("log_type")
            if kind not in _METHODS:
                raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
            _METHODS[kind](servable, getattr(log, kind).request)
            replayed += 1
    except (tf.errors.OpError, DecodeError) as error:
        raise ServingError("DATA_LOSS", f"The warm-up file {path} is damaged.") from error
    return replayed
