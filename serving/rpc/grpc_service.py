"""TF Serving's gRPC API over the serving core: PredictionService and ModelService."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NoReturn

import grpc
from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.engine import inference
from serving.engine.errors import ServingError
from serving.engine.load import AnyServable
from serving.lifecycle.models import Models
from serving.telemetry import Call, Telemetry

_LOGGER = logging.getLogger("serving")


class _Calls:
    """Answers calls, tells errors as gRPC statuses and records what came of it."""

    def __init__(self, models: Models, telemetry: Telemetry):
        self._models = models
        self._telemetry = telemetry

    def _record(
        self,
        api: str,
        answer: Callable[[Message, Call], Message],
        request: Message,
        context: grpc.ServicerContext,
    ) -> Message:
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

    def _servable(self, spec: model_pb2.ModelSpec, call: Call) -> AnyServable:
        model = self._models.get(spec.name)
        call.model = spec.name
        choice = spec.WhichOneof("version_choice")
        servable = model.servable(
            spec.version.value if choice == "version" else None,
            spec.version_label if choice == "version_label" else None,
        )
        call.version = servable.version
        return servable

    def _infer(
        self,
        api: str,
        infer: Callable[[AnyServable, Message], Message],
        request: Message,
        context: grpc.ServicerContext,
    ) -> Message:
        def answer(request, call):
            return infer(self._servable(_spec(request), call), request)

        return self._record(api, answer, request, context)


class PredictionService(_Calls, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def Predict(self, request, context):
        """Answers a `PredictRequest`."""
        return self._infer("predict", inference.predict, request, context)

    def Classify(self, request, context):
        """Answers a `ClassificationRequest`."""
        return self._infer("classify", inference.classify, request, context)

    def Regress(self, request, context):
        """Answers a `RegressionRequest`."""
        return self._infer("regress", inference.regress, request, context)

    def MultiInference(self, request, context):
        """Answers a `MultiInferenceRequest`."""

        def answer(request, call):
            _check_tasks(request)
            servable = self._servable(request.tasks[0].model_spec, call)
            return inference.multi_inference(servable, request)

        return self._record("multi_inference", answer, request, context)

    def GetModelMetadata(self, request, context):
        """Answers a `GetModelMetadataRequest`."""
        return self._record("metadata", self._metadata, request, context)

    def _metadata(self, request, call):
        spec = _spec(request)
        if not request.metadata_field:
            raise ServingError(
                "INVALID_ARGUMENT",
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise ServingError("INVALID_ARGUMENT", f"Metadata field {field} is not supported")
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

    def GetModelStatus(self, request, context):
        """Answers a `GetModelStatusRequest`."""
        return self._record("status", self._status, request, context)

    def HandleReloadConfigRequest(self, request, context):
        """Answers a `ReloadConfigRequest`, when the configuration has been taken up."""
        return self._record("reload_config", self._reload, request, context)

    def _status(self, request, call):
        spec = _spec(request)
        model = self._models.get_for_status(spec.name)
        call.model = spec.name
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value if choice == "version" else None
        if choice == "version_label":
            version = model.labeled(spec.version_label)
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in model.status(version):
            added = response.model_version_status.add(version=status.version, state=status.state)
            added.status.error_code = error_codes_pb2.Code.Value(status.error_code)
            added.status.error_message = status.error_message
        return response

    def _reload(self, request, call):
        self._models.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = error_codes_pb2.OK
        return response


def _spec(request) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise ServingError("INVALID_ARGUMENT", "Missing ModelSpec")
    return request.model_spec


def _check_tasks(request: inference_pb2.MultiInferenceRequest) -> None:
    if not request.tasks:
        raise ServingError("INVALID_ARGUMENT", "Inference request must have at least one task.")
    names = {task.model_spec.name for task in request.tasks}
    if "" in names:
        raise ServingError("INVALID_ARGUMENT", "Found ModelSpec with an empty model name.")
    if len(names) > 1:
        raise ServingError(
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        )


def _abort(context: grpc.ServicerContext, code: str, message: str) -> NoReturn:
    context.abort(getattr(grpc.StatusCode, code), message.encode("utf-8", "replace").decode())
    raise AssertionError("`abort` always raises")
