"""TF Serving's REST API over the serving core: model status, metadata and predict.

The specification is TensorFlow Serving's public REST guide:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.errors import ServingError
from serving.json_tensor import invalid, read_inputs, write_outputs
from serving.versions import ServedModel

MAX_BODY_BYTES = 64 * 2**20
_HTTP_STATUS = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}  # any other: 500


def create_app(models: Mapping[str, ServedModel]) -> Starlette:
    """Makes the ASGI application that answers TF Serving's REST calls.

    Args:
        models: The models to serve, by name.

    Returns:
        The application, for any ASGI server.
    """
    model = "/v1/models/{name}"
    version = model + "/versions/{version}"
    app = Starlette(
        routes=[
            Route(f"{path}{call}", answer, methods=[method])
            for path in (model, version)
            for call, answer, method in (
                (":predict", _predict, "POST"),
                ("/metadata", _metadata, "GET"),
                ("", _status, "GET"),
            )
        ],
        exception_handlers={
            ServingError: lambda _, error: _error(_HTTP_STATUS.get(error.code, 500), error.message),
            HTTPException: lambda _, error: _error(error.status_code, error.detail, error.headers),
            ClientDisconnect: lambda *_: _error(499, "The client went away."),
            Exception: lambda *_: _error(500, "Internal error; the server's log has the reason."),
        },
    )
    app.router.redirect_slashes = False
    app.state.models = models
    return app


async def _status(request: Request) -> Response:
    model, version = _model_and_version(request)
    return _json(
        {
            "model_version_status": [
                {
                    "version": str(status.version),
                    "state": status.state,
                    "status": {
                        "error_code": status.error_code,
                        "error_message": status.error_message,
                    },
                }
                for status in model.status(version)
            ]
        }
    )


async def _metadata(request: Request) -> Response:
    model, version = _model_and_version(request)
    servable = model.servable(version)
    signatures = {
        name: MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in servable.signature_defs.items()
    }
    return _json(
        {
            "model_spec": {
                "name": model.name,
                "signature_name": "",
                "version": str(servable.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


async def _predict(request: Request) -> Response:
    model, version = _model_and_version(request)
    body = await _read_body(request)

    def answer() -> Response:
        return _json(_answer(model, version, body))

    return await run_in_threadpool(answer)


def _answer(model: ServedModel, version: int | None, body: bytes) -> dict:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServingError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise invalid("The request body must be a JSON object.", request)
    signature_name = request.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' must be a string.", signature_name)
    servable = model.servable(version)
    arrays = read_inputs(request, servable.signature(signature_name).inputs)
    outputs = servable.predict(signature_name, arrays)
    return write_outputs(outputs, by_row="instances" in request)


def _model_and_version(request: Request) -> tuple[ServedModel, int | None]:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name not in request.app.state.models:
        predicting = "Servable not found for request: Latest({})"
        asking = "Could not find any versions of model {}"
        raise ServingError(
            "NOT_FOUND", (predicting if request.method == "POST" else asking).format(name)
        )
    if version is not None and not re.fullmatch(r"[0-9]{1,18}", version):
        raise ServingError("NOT_FOUND", f"Could not find version {version} of model {name}")
    return request.app.state.models[name], None if version is None else int(version)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    if int(request.headers.get("content-length", 0)) <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"The request body must be of at most {MAX_BODY_BYTES} bytes.")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


def _json(content, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=False)
    # A lone surrogate, which UTF-8 cannot encode, becomes its own JSON escape again: \udXXX.
    body = text.encode("utf-8", "backslashreplace")
    return Response(body, status, headers, media_type="application/json")
