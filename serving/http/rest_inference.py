"""Predict, classify and regress as JSON bodies in, JSON values out. No transport."""

from __future__ import annotations

from tensorflow_serving.apis import classification_pb2, model_pb2, regression_pb2

from serving.engine import inference
from serving.engine.load import AnyServable
from serving.http.json_examples import read_examples, write_classes, write_values
from serving.http.json_tensor import invalid, read_inputs, write_outputs
from serving.http.json_text import loads


def predict(servable: AnyServable, body: bytes) -> dict:
    """Answers a predict request.

    Args:
        servable: The version that answers.
        body: The request's body.

    Returns:
        The response's, for `json_text.dumps`.

    Raises:
        ServingError: If the request does not fit, or the graph fails.
    """
    request, signature_name = _read(body)
    arrays = read_inputs(request, servable.signature(signature_name).inputs)
    outputs = servable.predict(signature_name, arrays)
    return write_outputs(outputs, by_row="instances" in request)


def classify(servable: AnyServable, body: bytes) -> dict:
    """Answers a classify request; for its arguments see `predict`."""
    request, signature_name = _read(body)
    message = classification_pb2.ClassificationRequest(
        model_spec=model_pb2.ModelSpec(signature_name=signature_name), input=read_examples(request)
    )
    return write_classes(inference.classify(servable, message).result)


def regress(servable: AnyServable, body: bytes) -> dict:
    """Answers a regress request; for its arguments see `predict`."""
    request, signature_name = _read(body)
    message = regression_pb2.RegressionRequest(
        model_spec=model_pb2.ModelSpec(signature_name=signature_name), input=read_examples(request)
    )
    return write_values(inference.regress(servable, message).result)


ANSWERS = {"predict": predict, "classify": classify, "regress": regress}


def _read(body: bytes) -> tuple[dict, str]:
    request = loads(body)
    if not isinstance(request, dict):
        raise invalid("The request body must be a JSON object.", request)
    signature_name = request.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' must be a string.", signature_name)
    if not signature_name.isprintable():
        raise invalid("'signature_name' must be printable text.", signature_name)
    return request, signature_name
