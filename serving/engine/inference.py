"""Predict, classify, regress and multi-inference, from request messages to response messages.

Every way into the server meets here: gRPC sends these messages, REST makes them from JSON, and a
version's warm-up requests are such messages on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.engine.errors import ServingError
from serving.engine.image_limit import refuse_image_bombs
from serving.engine.load import AnyServable
from serving.engine.signature import DEFAULT_SIGNATURE, Signature
from serving.engine.tensor_proto import MAX_TENSOR_BYTES, read_tensor, write_tensor

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def predict(
    servable: AnyServable, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Answers a predict request.

    Args:
        servable: The version that answers.
        request: The request.

    Returns:
        The response.

    Raises:
        ServingError: If the request does not fit the signature, or the graph fails.
    """
    spec = request.model_spec
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signature_defs:
        raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    arrays = {name: read_tensor(name, proto) for name, proto in request.inputs.items()}
    outputs = servable.predict(name, arrays, list(request.output_filter))
    response = predict_pb2.PredictResponse(model_spec=_answered_by(servable, spec))
    response.model_spec.signature_name = name
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(write_tensor(array))
    return response


def classify(
    servable: AnyServable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers a classification request.

    Args:
        servable: The version that answers.
        request: The request.

    Returns:
        The response: a label, a score or both for each class of each example.

    Raises:
        ServingError: If the request does not fit, the signature is not one that classifies, or
            the graph fails.
    """
    signature = _signature(servable, request.model_spec, CLASSIFY)
    examples = _serialized(request.input)
    outputs = servable.predict(signature.name, {"inputs": examples}, _fetched(signature, CLASSIFY))
    return classification_pb2.ClassificationResponse(
        result=_classes(outputs, len(examples)),
        model_spec=_answered_by(servable, request.model_spec),
    )


def regress(
    servable: AnyServable, request: regression_pb2.RegressionRequest
) -> regression_pb2.RegressionResponse:
    """Answers a regression request.

    Args:
        servable: The version that answers.
        request: The request.

    Returns:
        The response: a value for each example.

    Raises:
        ServingError: If the request does not fit, the signature is not one that regresses, or the
            graph fails.
    """
    signature = _signature(servable, request.model_spec, REGRESS)
    examples = _serialized(request.input)
    outputs = servable.predict(signature.name, {"inputs": examples}, _fetched(signature, REGRESS))
    return regression_pb2.RegressionResponse(
        result=_values(outputs, len(examples)),
        model_spec=_answered_by(servable, request.model_spec),
    )


def multi_inference(
    servable: AnyServable, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers several classifications and regressions of the same examples.

    Args:
        servable: The version that answers.
        request: The request; all its tasks are of one model.

    Returns:
        The response: a result for each task.

    Raises:
        ServingError: If a task does not fit, is given twice, or the graph fails.
    """
    examples, seen = _serialized(request.input), set()
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        if task.method_name not in _METHODS:
            raise ServingError(
                "UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}"
            )
        signature = _signature(servable, task.model_spec, task.method_name)
        if signature.name in seen:
            raise ServingError(
                "INVALID_ARGUMENT", f"Duplicate evaluation of signature: {signature.name}"
            )
        seen.add(signature.name)
        fetched = _fetched(signature, task.method_name)
        outputs = servable.predict(signature.name, {"inputs": examples}, fetched)
        field, _, make = _METHODS[task.method_name]
        response.results.add(
            model_spec=_answered_by(servable, task.model_spec),
            **{field: make(outputs, len(examples))},
        )
    return response


def _signature(servable: AnyServable, spec: model_pb2.ModelSpec, method: str) -> Signature:
    signature = servable.signature(spec.signature_name)
    if servable.checks_method_names and signature.method_name != method:
        raise ServingError(
            "INVALID_ARGUMENT",
            f"Expected {_METHODS[method][0].partition('_')[0]} signature method_name to be "
            f"{method}. Was: {signature.method_name}",
        )
    if signature.inputs.keys() != {"inputs"}:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"Signature {signature.name!r} must take one input, `inputs`, of serialized "
            f"tf.Example messages. It takes: {sorted(signature.inputs)}",
        )
    return signature


def _fetched(signature: Signature, method: str) -> list[str]:
    wanted = _METHODS[method][1]
    fetched = [name for name in wanted if name in signature.outputs]
    if not fetched:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"Signature {signature.name!r} must give {' or '.join(map(repr, wanted))}. "
            f"It gives: {sorted(signature.outputs)}",
        )
    return fetched


def _serialized(given: input_pb2.Input) -> np.ndarray:
    """The examples as strings, each with the features of the context added."""
    kind = given.WhichOneof("kind")
    examples = list(getattr(given, kind).examples) if kind else []
    if not examples:
        raise ServingError("INVALID_ARGUMENT", "Input is empty.")
    context = given.example_list_with_context.context
    size = len(examples) * context.ByteSize() + given.ByteSize()
    if size > MAX_TENSOR_BYTES:
        raise ServingError(
            "INVALID_ARGUMENT",
            f"With the context in each, the examples take {size} bytes, "
            f"more than {MAX_TENSOR_BYTES}.",
        )
    for example in examples:
        if kind == "example_list_with_context":
            for name, feature in context.features.feature.items():
                if name not in example.features.feature:
                    example.features.feature[name].CopyFrom(feature)
        for feature in example.features.feature.values():
            refuse_image_bombs(feature.bytes_list.value)
    return np.array([example.SerializeToString() for example in examples], object)


def _classes(
    outputs: Mapping[str, np.ndarray], count: int
) -> classification_pb2.ClassificationResult:
    for name, kind in (("classes", "O"), ("scores", "f")):
        array = outputs.get(name)
        if array is not None and (
            array.ndim != 2 or len(array) != count or array.dtype.kind != kind
        ):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Expected `{name}` of shape [batch_size num_classes] and "
                f"{'strings' if kind == 'O' else 'floats'}. "
                f"Received: {list(array.shape)} of {array.dtype}",
            )
    shapes = {array.shape for array in outputs.values()}
    if len(shapes) != 1:
        raise ServingError("INVALID_ARGUMENT", f"`classes` and `scores` differ: {shapes}")
    (shape,) = shapes
    labels = outputs.get("classes", np.full(shape, b"", object)).tolist()
    scores = outputs.get("scores", np.zeros(shape)).tolist()
    result = classification_pb2.ClassificationResult()
    for row in zip(labels, scores, strict=True):
        classes = result.classifications.add().classes
        for label, score in zip(*row, strict=True):
            try:
                classes.add(label=label, score=score)
            except ValueError as error:
                raise ServingError(
                    "FAILED_PRECONDITION", "`classes` holds bytes that are not UTF-8 text."
                ) from error
    return result


def _values(outputs: Mapping[str, np.ndarray], count: int) -> regression_pb2.RegressionResult:
    values = outputs["outputs"]
    if values.shape not in ((count,), (count, 1)) or values.dtype.kind != "f":
        raise ServingError(
            "INVALID_ARGUMENT",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] and "
            f"floats. Received: {list(values.shape)} of {values.dtype}",
        )
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result


# Method: its field in an `InferenceResult`, the outputs it fetches, and how they make the result.
_METHODS: Mapping[str, tuple[str, tuple[str, ...], Callable]] = {
    CLASSIFY: ("classification_result", ("classes", "scores"), _classes),
    REGRESS: ("regression_result", ("outputs",), _values),
}


def _answered_by(servable: AnyServable, spec: model_pb2.ModelSpec) -> model_pb2.ModelSpec:
    answered = model_pb2.ModelSpec(name=spec.name, signature_name=spec.signature_name)
    answered.version.value = servable.version
    return answered
