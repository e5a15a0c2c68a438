"""Asks a server over TF Serving's gRPC API; needs tensorflow-serving-api and TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_multiception  # noqa: F401 # isort: skip (then TensorFlow loads quietly)
import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.clients.endpoint import Endpoint, ServerError, Signatures

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # whoever calls decides
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.lb_policy_name", "round_robin"),  # over all addresses that a name has
]
# What gRPC itself says where it has no connection; all else it passes on from the server.
_UNREACHED = ("connections to all backends failing", "errors resolving")


class GrpcClient:
    """Sends single requests over one channel, as `RestClient` does."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        target = f"dns:///{endpoint.url.partition('://')[2].rstrip('/')}"
        self._channel = (
            grpc.secure_channel(target, _credentials(endpoint), options=_OPTIONS)
            if endpoint.is_secure
            else grpc.insecure_channel(target, options=_OPTIONS)
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._input_names: dict[str, str] = {}

    def predict(self, images: Sequence[bytes] | np.ndarray, signature_name: str) -> object:
        """Sends encoded images or pixels; returns a dictionary of outputs for each, or `None`."""
        deadline = time.monotonic() + self._endpoint.timeout
        request = predict_pb2.PredictRequest(model_spec=self._spec(signature_name))
        name = self._input_name(signature_name, deadline)
        tensor = (
            tf.make_tensor_proto(list(images), tf.string)
            if isinstance(images, Sequence)
            else tf.make_tensor_proto(images)
        )
        request.inputs[name].CopyFrom(tensor)
        response = self._call(self._predictions.Predict, request, deadline)
        arrays = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
        sizes = {array.shape[:1] for array in arrays.values()}
        if len(sizes) != 1 or sizes == {()}:
            return None
        columns = [_values(array) for array in arrays.values()]
        return [dict(zip(arrays, row, strict=True)) for row in zip(*columns, strict=True)]

    def states(self) -> dict[int, str]:
        """Asks for the state of the model's versions."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec(""))
        answer = self._call(self._models.GetModelStatus, request)
        state = get_model_status_pb2.ModelVersionStatus.State
        return {found.version: state.Name(found.state) for found in answer.model_version_status}

    def signatures(self, deadline: float | None = None) -> Signatures:
        """Asks for the inputs of the model's signatures."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(""), metadata_field=["signature_def"]
        )
        answer = self._call(self._predictions.GetModelMetadata, request, deadline)
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        return {
            name: {
                key: (types_pb2.DataType.Name(info.dtype), [d.size for d in info.tensor_shape.dim])
                for key, info in signature.inputs.items()
            }
            for name, signature in found.signature_def.items()
        }

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _spec(self, signature_name: str) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._endpoint.model_name, signature_name=signature_name)
        if self._endpoint.version is not None:
            spec.version.value = self._endpoint.version
        if self._endpoint.label is not None:
            spec.version_label = self._endpoint.label
        return spec

    def _input_name(self, signature_name: str, deadline: float) -> str:
        if signature_name not in self._input_names:
            inputs = self.signatures(deadline).get(signature_name)
            if not inputs:
                return ""  # the server will say so
            self._input_names[signature_name] = next(iter(inputs))
        return self._input_names[signature_name]

    def _call(self, method: Callable, request: Message, deadline: float | None = None) -> Any:
        seconds = deadline - time.monotonic() if deadline else self._endpoint.timeout
        try:
            return method(request, timeout=max(0.0, seconds))
        except grpc.RpcError as error:
            raise self._to_client_error(error) from error

    def _to_client_error(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._endpoint.timeout_error()
        if code == grpc.StatusCode.UNAVAILABLE and details.startswith(_UNREACHED):
            reason = details.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
            return ConnectionError(f"Cannot reach the server at {self._endpoint.url}: {reason}.")
        return ServerError(f"The server answered: {details or code.name}", code.value[0])


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials:
    certificate = endpoint.client_certificate
    paths = (endpoint.ca_certificate, endpoint.client_key or certificate, certificate)
    return grpc.ssl_channel_credentials(*(path and Path(path).read_bytes() for path in paths))


def _values(array: np.ndarray) -> list:
    if array.dtype.kind == "O":
        return [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
    return array.tolist()
