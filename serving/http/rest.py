"""TF Serving's REST API over the serving core: status, metadata, predict, classify and regress.

The specification is TensorFlow Serving's public REST guide:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serving.engine.errors import ServingError
from serving.http.json_text import dumps
from serving.http.request_body import read_body, unzipped
from serving.http.rest_inference import ANSWERS
from serving.lifecycle.models import Models
from serving.lifecycle.versions import ServedModel
from serving.telemetry import Call, Telemetry

METRICS_PATH = "/monitoring/prometheus/metrics"
_LOGGER = logging.getLogger("serving")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<api>classify|regress|predict)", re.I
)
_ASK = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<api>metadata))?", re.I)
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
_GRPC_STATUS = {404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED", 499: "CANCELLED", 500: "INTERNAL"}


@dataclass(frozen=True)
class RestApi:
    """What the REST API answers with.

    Args:
        models: The models.
        telemetry: Where calls are recorded.
        executor: The threads that models run in.
        timeout_seconds: Seconds for the body to come, and again for the model to answer.
    """

    models: Models
    telemetry: Telemetry
    executor: Executor
    timeout_seconds: float = 30.0


def create_app(
    api: RestApi, metrics_path: str | None = METRICS_PATH, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """Makes the ASGI application that answers TF Serving's REST calls.

    Args:
        api: What it answers with; the application has it as `app.state.api`.
        metrics_path: Where the metrics page is, from the slash on; `None` for none.
        routes: What is served besides.

    Returns:
        The application, for any ASGI server.

    Raises:
        ValueError: If the metrics page's path does not begin with a slash.
    """
    if metrics_path and not metrics_path.startswith("/"):
        raise ValueError(
            "`metrics_path`, the `path` of a MonitoringConfig, must begin with '/'. "
            f"Received: metrics_path={metrics_path!r}"
        )
    metrics = [Route(metrics_path, _metrics)] if metrics_path else []
    app = Starlette(
        routes=[*routes, *metrics, Route("/{path:path}", _recorded, methods=_METHODS)],
        middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)],
        exception_handlers={
            HTTPException: lambda _, error: _error(error.status_code, error.detail, error.headers),
            Exception: lambda *_: _error(500, "Internal error; the server's log has the reason."),
        },
    )
    app.router.redirect_slashes = False
    app.state.api = api
    return app


async def _metrics(request: Request) -> Response:
    page = request.app.state.api.telemetry.page()
    return Response(page, media_type="text/plain; version=0.0.4")


async def _recorded(request: Request) -> Response:
    api: RestApi = request.app.state.api
    begun = time.perf_counter()
    path = request.scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1")
    peer = request.client.host if request.client else ""
    call = Call("REST", method=request.method, path=path, peer=peer)
    try:
        response = await _answer(api, request, call)
    except ServingError as error:
        call.status = error.code
        response = _error(_HTTP_STATUS.get(error.code, 500), error.message)
    except HTTPException as error:
        call.status = _GRPC_STATUS.get(error.status_code, "INVALID_ARGUMENT")
        response = _error(error.status_code, error.detail, error.headers)
    except ClientDisconnect:
        call.status = "CANCELLED"
        response = _error(499, "The client went away.")
    except Exception:
        _LOGGER.exception("%s %s failed", request.method, path)
        call.status = "INTERNAL"
        response = _error(500, "Internal error; the server's log has the reason.")
    call.code, call.response_bytes = response.status_code, len(response.body)
    call.seconds = time.perf_counter() - begun
    api.telemetry.record(call)
    return response


async def _answer(api: RestApi, request: Request, call: Call) -> Response:
    if not re.match(r"/v1(/|$)", call.path, re.I):
        raise HTTPException(404, f"There is nothing at {call.path}")
    form = {"POST": _CALL, "GET": _ASK}.get(request.method)
    found = form.fullmatch(call.path) if form else None
    if not found:
        raise ServingError("INVALID_ARGUMENT", f"Malformed request: {call.method} {call.path}")
    name, label = (urllib.parse.unquote(found[key] or "") for key in ("name", "label"))
    version = _version(found["version"])
    call.api = (found["api"] or "status").lower()
    if form is _ASK:
        if not name:
            raise ServingError("INVALID_ARGUMENT", "Missing model name in request.")
        find = api.models.get if call.api == "metadata" else api.models.get_for_status
        model = find(name)
        call.model = name
        ask = _metadata if call.api == "metadata" else _status
        return _json(ask(model, version, label or None))
    model = api.models.get(name)
    call.model = name
    model.servable(version, label or None)  # before a body is read in vain
    sent = await read_body(request, api.timeout_seconds)
    call.request_bytes = len(sent)

    def answer() -> bytes:
        body = unzipped(request, sent)
        call.request_bytes = len(body)
        servable = model.servable(version, label or None)
        call.version = servable.version
        return dumps(ANSWERS[call.api](servable, body))

    answering = asyncio.get_running_loop().run_in_executor(api.executor, answer)
    try:
        async with asyncio.timeout(api.timeout_seconds):
            return _body(await answering)
    except TimeoutError as error:
        message = f"The model did not answer within {api.timeout_seconds:g} seconds."
        raise ServingError("DEADLINE_EXCEEDED", message) from error


def _version(text: str | None) -> int | None:
    if text and (len(text) > 19 or int(text) >= 2**63):
        message = f"Failed to convert version: {text[:40]} to numeric."
        raise ServingError("INVALID_ARGUMENT", message)
    return int(text) if text else None


def _status(model: ServedModel, version: int | None, label: str | None) -> dict:
    if label is not None:
        version = model.labeled(label)
    return {
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


def _metadata(model: ServedModel, version: int | None, label: str | None) -> dict:
    servable = model.servable(version, label)
    signatures = {
        name: MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in servable.signature_defs.items()
    }
    return {
        "model_spec": {
            "name": model.name,
            "signature_name": "",
            "version": str(servable.version),
        },
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


def _json(content, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return _body(dumps(content), status, headers)


def _body(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
