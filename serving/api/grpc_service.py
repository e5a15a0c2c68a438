"""TF Serving's gRPC API, with standard health checking and reflection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.engine import messages
from serving.engine.servable import Servable, ServingError, invalid
from serving.lifecycle.models import Models
from serving.telemetry import Call, Telemetry

MAX_MESSAGE_BYTES = 64 * 2**20
_LOGGER = logging.getLogger("serving")
_SERVICES = (
    prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # two servers must not share a port unnoticed
    ("grpc.keepalive_time_ms", 30_000),  # a peer that has gone away unnoticed is let go
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)


@contextmanager
def grpc_server(
    models: Models,
    telemetry: Telemetry,
    address: str,
    *,
    max_threads: int,
    grace_seconds: float,
    options: Sequence[tuple[str, int | str]] = (),
    ssl_config: Any = None,
) -> Iterator[int]:
    """Serves models at `HOST:PORT` in the `with` block; yields the port. Open calls finish."""
    server = grpc.server(
        ThreadPoolExecutor(max_threads, "grpc"), options=[*_OPTIONS, *options], compression=None
    )
    services = Services(models, telemetry)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    for name in ("", *_SERVICES):
        state.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        if ssl_config:
            port = server.add_secure_port(address, _credentials(ssl_config))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Cannot listen on {address} for gRPC: {error}.") from error
    server.start()
    try:
        yield port
    finally:
        state.enter_graceful_shutdown()
        server.stop(grace_seconds).wait()


def _credentials(config: Any) -> grpc.ServerCredentials:
    pair = (config.server_key.encode(), config.server_cert.encode())
    return grpc.ssl_server_credentials(
        [pair], config.custom_ca.encode() or None, config.client_verify
    )


def _answers(api: str) -> Callable[[Callable[[Any, Any, Call], Any]], Callable[..., Any]]:
    """Makes a gRPC method of a function: errors become statuses, and each call is recorded."""

    def decorate(answer: Callable[[Any, Any, Call], Any]) -> Callable[..., Any]:
        def method(self: Services, request: Any, context: grpc.ServicerContext) -> Any:
            call = Call("GRPC", api, "POST", peer=context.peer(), request_bytes=request.ByteSize())
            begun, message = time.perf_counter(), ""
            try:
                response = answer(self, request, call)
                call.response_bytes = response.ByteSize()
                return response
            except ServingError as error:
                call.status, message = error.code, error.message
            except ValueError as error:
                call.status, message = "INVALID_ARGUMENT", str(error)
            except Exception:
                _LOGGER.exception("%s failed", api)
                call.status = "INTERNAL"
                message = "Internal error; the server's log has the reason."
            finally:
                call.seconds = time.perf_counter() - begun
                code = getattr(grpc.StatusCode, call.status)
                call.code = code.value[0]
                self.telemetry.record(call)
            context.abort(code, message.encode("utf-8", "replace").decode())

        return method

    return decorate


def _infers(api: str, infer: Callable[[Servable, Any], Any]) -> Callable[..., Any]:
    """Makes a gRPC method that the version which a request's `model_spec` asks for answers."""
    return _answers(api)(
        lambda self, request, call: infer(self.servable(request.model_spec, call), request)
    )


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """The methods of the services PredictionService and ModelService."""

    def __init__(self, models: Models, telemetry: Telemetry):
        self.models = models
        self.telemetry = telemetry

    def servable(self, spec: model_pb2.ModelSpec, call: Call) -> Servable:
        """Looks up the version that a call asks for."""
        call.model = spec.name
        servable = self.models.servable(spec.name, *_choice(spec))
        call.version = servable.version
        return servable

    Predict = _infers("predict", messages.predict)
    Classify = _infers("classify", messages.classify)
    Regress = _infers("regress", messages.regress)

    @_answers("multi_inference")
    def MultiInference(self, request: inference_pb2.MultiInferenceRequest, call: Call) -> Any:
        """Answers several tasks of one model."""
        if not request.tasks:
            raise invalid("Inference request must have at least one task.")
        if len({task.model_spec.name for task in request.tasks}) > 1:
            raise invalid("All tasks of a MultiInferenceRequest must ask the same model.")
        servable = self.servable(request.tasks[0].model_spec, call)
        return messages.multi_inference(servable, request)

    @_answers("metadata")
    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, call: Call
    ) -> Any:
        """Answers with the signatures of a version."""
        if set(request.metadata_field) != {"signature_def"}:
            raise invalid("The `metadata_field` must be signature_def.")
        servable = self.servable(request.model_spec, call)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    @_answers("status")
    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, call: Call
    ) -> Any:
        """Answers with where a model's versions stand."""
        spec = request.model_spec
        call.model = spec.name
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self.models.status(spec.name, *_choice(spec)):
            added = response.model_version_status.add(version=status.version, state=status.state)
            added.status.error_code = error_codes_pb2.Code.Value(status.error_code)
            added.status.error_message = status.error_message
        return response

    @_answers("reload_config")
    def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, call: Call
    ) -> Any:
        """Answers when a configuration has been taken up."""
        self.models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = error_codes_pb2.OK
        return response


def _choice(spec: model_pb2.ModelSpec) -> tuple[int | None, str | None]:
    """The version and the label that a message asks for; at most one of them."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )
