"""TF Serving's gRPC API, with standard health checking and reflection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

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
from serving.engine.errors import ServingError, invalid
from serving.engine.servable import Servable
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
) -> Iterator[int]:
    """Serves models at `HOST:PORT` while the `with` block runs; yields the port.

    Port 0 takes a free one. At the end, open calls have `grace_seconds` to finish. `options` are
    gRPC channel arguments, over our own. Raises an `OSError` if it cannot listen there.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_threads, "grpc"), options=[*_OPTIONS, *options], compression=None
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models, telemetry), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(models, telemetry), server
    )
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    for name in ("", *_SERVICES):
        state.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Cannot listen on {address} for gRPC: {error}.") from error
    server.start()
    try:
        yield port
    finally:
        state.enter_graceful_shutdown()
        server.stop(grace_seconds).wait()


class _Calls:
    """Answers calls, turns errors into gRPC statuses and records what came of it."""

    def __init__(self, models: Models, telemetry: Telemetry):
        self._models = models
        self._telemetry = telemetry

    def _record(
        self,
        api: str,
        answer: Callable[[Any, Call], Any],
        request: Any,
        context: grpc.ServicerContext,
    ) -> Any:
        call = Call("GRPC", api, "POST", peer=context.peer(), request_bytes=request.ByteSize())
        begun = time.perf_counter()
        try:
            response = answer(request, call)
            call.response_bytes = response.ByteSize()
            return response
        except ServingError as error:
            call.status = error.code
            _abort(context, error.code, error.message)
        except ValueError as error:
            call.status = "INVALID_ARGUMENT"
            _abort(context, call.status, str(error))
        except Exception:
            _LOGGER.exception("%s failed", api)
            call.status = "INTERNAL"
            _abort(context, call.status, "Internal error; the server's log has the reason.")
        finally:
            call.seconds = time.perf_counter() - begun
            call.code = getattr(grpc.StatusCode, call.status).value[0]
            self._telemetry.record(call)

    def _servable(self, spec: model_pb2.ModelSpec, call: Call) -> Servable:
        call.model = spec.name
        servable = self._models.servable(spec.name, *_choice(spec))
        call.version = servable.version
        return servable


def _inference(api: str, infer: Callable[[Servable, Any], Any]) -> Callable[..., Any]:
    """Makes a method that answers a call by the version that its `model_spec` asks for."""

    def method(self: _Calls, request: Any, context: grpc.ServicerContext) -> Any:
        def answer(request: Any, call: Call) -> Any:
            return infer(self._servable(_spec(request), call), request)

        return self._record(api, answer, request, context)

    return method


class PredictionService(_Calls, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    Predict = _inference("predict", messages.predict)
    Classify = _inference("classify", messages.classify)
    Regress = _inference("regress", messages.regress)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a `MultiInferenceRequest`."""

        def answer(request: inference_pb2.MultiInferenceRequest, call: Call) -> Any:
            _check_tasks(request)
            servable = self._servable(request.tasks[0].model_spec, call)
            return messages.multi_inference(servable, request)

        return self._record("multi_inference", answer, request, context)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a `GetModelMetadataRequest`."""
        return self._record("metadata", self._metadata, request, context)

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, call: Call
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        servable = self._servable(spec, call)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(_Calls, model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a `GetModelStatusRequest`."""
        return self._record("status", self._status, request, context)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a `ReloadConfigRequest`, when the configuration has been taken up."""
        return self._record("reload_config", self._reload, request, context)

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest, call: Call
    ) -> get_model_status_pb2.GetModelStatusResponse:
        spec = _spec(request)
        call.model = spec.name
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._models.status(spec.name, *_choice(spec)):
            added = response.model_version_status.add(version=status.version, state=status.state)
            added.status.error_code = error_codes_pb2.Code.Value(status.error_code)
            added.status.error_message = status.error_message
        return response

    def _reload(
        self, request: model_management_pb2.ReloadConfigRequest, call: Call
    ) -> model_management_pb2.ReloadConfigResponse:
        self._models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = error_codes_pb2.OK
        return response


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _choice(spec: model_pb2.ModelSpec) -> tuple[int | None, str | None]:
    """The version and the label that a message asks for; at most one of them."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _check_tasks(request: inference_pb2.MultiInferenceRequest) -> None:
    if not request.tasks:
        raise invalid("Inference request must have at least one task.")
    names = {task.model_spec.name for task in request.tasks}
    if "" in names:
        raise invalid("Found ModelSpec with an empty model name.")
    if len(names) > 1:
        raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")


def _abort(context: grpc.ServicerContext, code: str, message: str) -> NoReturn:
    context.abort(getattr(grpc.StatusCode, code), message.encode("utf-8", "replace").decode())
    raise AssertionError("`abort` always raises")
