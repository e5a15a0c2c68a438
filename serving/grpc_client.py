"""Asks a TF Serving-compatible server over gRPC; needs tensorflow-serving-api and TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server_error import ServerError

_OPTIONS = [("grpc.max_receive_message_length", -1)]


def predict_rows(
    images: Sequence[bytes],
    address: str,
    model_name: str,
    version: int | None,
    signature_name: str,
    timeout: float,
) -> list[dict]:
    """Sends encoded images to a server, all in one request.

    Args:
        images: The images.
        address: The server's `HOST:PORT`.
        model_name: The model's name.
        version: The model's version; `None` for the latest.
        signature_name: A signature with one input.
        timeout: Seconds to wait for the server.

    Returns:
        The outputs of each image, by name, as REST's row format has them.

    Raises:
        ConnectionError: If the server cannot be reached.
        TimeoutError: If it does not answer in time.
        ServerError: If it answers with an error.
    """
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError(f"Cannot reach the server at {address} over gRPC.") from error
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model_name, signature_name
        if version is not None:
            request.model_spec.version.value = version
        try:
            name = _input_name(stub, request.model_spec, timeout)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
            response = stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _told(error, address, timeout) from error
    columns = {name: _values(proto) for name, proto in response.outputs.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _input_name(stub, model_spec, timeout: float) -> str:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.CopyFrom(model_spec)
    answer = stub.GetModelMetadata(asked, timeout=timeout)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def.get(model_spec.signature_name)
    # Without such a signature the server will say so.
    return next(iter(signature.inputs), "") if signature else ""


def _values(proto) -> list:
    array = tf.make_ndarray(proto)
    if array.dtype.kind == "O":
        return [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
    return array.tolist()


def _told(error: grpc.RpcError, address: str, timeout: float) -> Exception:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(f"The server at {address} did not answer within {timeout:g} seconds.")
    return ServerError(f"The server answered: {error.details()}", error.code().value[0])
