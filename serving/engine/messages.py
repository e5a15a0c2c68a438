"""TF Serving's request messages, answered: for gRPC, and for the warm-up files of versions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)

from serving.engine.servable import (
    CLASSIFY,
    DEFAULT_SIGNATURE,
    REGRESS,
    Servable,
    ServingError,
    check_image_size,
    invalid,
)
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE

# A message of a few bytes may claim any shape, which its one value then fills.
MAX_TENSOR_BYTES = 2**28
_STRING_BYTES = 24  # what a string takes in a tensor besides its own bytes
_VALUE_FIELDS = {
    tf.bool: "bool_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.uint16: "int_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.string: "string_val",
}


def predict(servable: Servable, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Answers a predict request."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    arrays = {name: read_tensor(name, proto) for name, proto in request.inputs.items()}
    outputs = servable.predict(name, arrays, list(request.output_filter))
    response = predict_pb2.PredictResponse(model_spec=_answered_by(servable, request.model_spec))
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(write_tensor(array))
    return response


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers a classification request."""
    spec = request.model_spec
    result = _classes(servable, spec.signature_name, _read_input(request.input))
    used = _answered_by(servable, spec)
    return classification_pb2.ClassificationResponse(result=result, model_spec=used)


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest
) -> regression_pb2.RegressionResponse:
    """Answers a regression request."""
    spec = request.model_spec
    result = _values(servable, spec.signature_name, _read_input(request.input))
    return regression_pb2.RegressionResponse(result=result, model_spec=_answered_by(servable, spec))


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers several classifications and regressions of the same examples and model."""
    examples, seen = _read_input(request.input), set()
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        if task.method_name not in (CLASSIFY, REGRESS):
            raise ServingError(
                "UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}"
            )
        name = servable.signature(task.model_spec.signature_name).name
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        result = response.results.add(model_spec=_answered_by(servable, task.model_spec))
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classes(servable, name, examples))
        else:
            result.regression_result.CopyFrom(_values(servable, name, examples))
    return response


def serialize_examples(
    examples: Sequence[example_pb2.Example], context: example_pb2.Example | None = None
) -> np.ndarray:
    """Makes an array of strings of examples, to each of which it adds the context's features."""
    if not examples:
        raise invalid("Input is empty.")
    shared = context.features.feature if context else {}
    size = sum(example.ByteSize() for example in examples)
    size += len(examples) * (context.ByteSize() if context else 0)
    if size > MAX_TENSOR_BYTES:
        raise invalid(
            f"With the context in each, the examples take {size} bytes, "
            f"more than {MAX_TENSOR_BYTES}."
        )
    for example in examples:
        for name, feature in shared.items():
            if name not in example.features.feature:
                example.features.feature[name].CopyFrom(feature)
        for feature in example.features.feature.values():
            check_image_size(feature.bytes_list.value)
    return np.array([example.SerializeToString() for example in examples], object)


def read_tensor(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Turns a message into an array; `name` is for the error if it is damaged or too large."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = tf.as_dtype(proto.dtype)
        count = int(np.prod(shape, dtype=object))
        size = count * max(1, dtype.size or _STRING_BYTES)
        if dtype == tf.string and proto.string_val:
            padding = max(0, count - len(proto.string_val)) * len(proto.string_val[-1])
            size += sum(map(len, proto.string_val)) + padding
        if proto.tensor_shape.unknown_rank or any(length < 0 for length in shape):
            raise ValueError("its shape is not known")
        if size > MAX_TENSOR_BYTES:
            raise ValueError(f"it takes {size} bytes, more than {MAX_TENSOR_BYTES}")
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise invalid(f"Input `{name}` is not a valid TensorProto: {error}") from error


def write_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Turns an array into a message, with its values in the field of its type."""
    dtype = tf.string if array.dtype.kind == "O" else tf.as_dtype(array.dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    getattr(proto, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto


def replay_warmup(servable: Servable) -> int:
    """Answers a version's warm-up requests, a TFRecord of `PredictionLog`; returns how many."""
    path = servable.path / WARMUP_FILE
    if not path.is_file():
        return 0
    replayed = 0
    try:
        for record in itertools.islice(tf.data.TFRecordDataset(str(path)), MAX_WARMUP_RECORDS + 1):
            if replayed == MAX_WARMUP_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}"
                )
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            kind = log.WhichOneof("log_type")
            if kind not in _LOGS:
                raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
            _LOGS[kind](servable, getattr(log, kind).request)
            replayed += 1
    except (tf.errors.OpError, DecodeError) as error:
        raise ServingError("DATA_LOSS", f"The warm-up file {path} is damaged.") from error
    return replayed


_LOGS = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def _read_input(given: input_pb2.Input) -> np.ndarray:
    if given.WhichOneof("kind") == "example_list_with_context":
        listed = given.example_list_with_context
        return serialize_examples(listed.examples, listed.context)
    return serialize_examples(given.example_list.examples)


def _classes(
    servable: Servable, signature_name: str, examples: np.ndarray
) -> classification_pb2.ClassificationResult:
    labels, scores = servable.classify(signature_name, examples)
    result = classification_pb2.ClassificationResult()
    for row in zip(labels.tolist(), scores.tolist(), strict=True):
        classes = result.classifications.add().classes
        for label, score in zip(*row, strict=True):
            classes.add(label=label, score=score)
    return result


def _values(
    servable: Servable, signature_name: str, examples: np.ndarray
) -> regression_pb2.RegressionResult:
    result = regression_pb2.RegressionResult()
    for value in servable.regress(signature_name, examples).tolist():
        result.regressions.add(value=value)
    return result


def _answered_by(servable: Servable, spec: model_pb2.ModelSpec) -> model_pb2.ModelSpec:
    name = spec.signature_name or DEFAULT_SIGNATURE
    answered = model_pb2.ModelSpec(name=spec.name, signature_name=name)
    answered.version.value = servable.version
    return answered
