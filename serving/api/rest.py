"""TF Serving's REST API: status, metadata, predict, classify and regress.

The specification is TensorFlow Serving's public REST guide:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import re
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, request_response

from serving.api import json_codec
from serving.engine.servable import Servable, ServingError, invalid
from serving.lifecycle.models import Models
from serving.lifecycle.versions import VersionStatus
from serving.telemetry import Call, Telemetry

METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_BODY_BYTES = 64 * 2**20
_LOGGER = logging.getLogger("serving")
_CLOSE = {"Connection": "close"}  # the rest of a refused body is not read
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST_PATH = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<api>classify|regress|predict)", re.I
)
_GET_PATH = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<api>metadata))?", re.I)
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


class RestApi:
    """TF Serving's REST calls, answered in the executor's threads; the timeout is each step's."""

    def __init__(
        self, models: Models, telemetry: Telemetry, executor: Executor, timeout_seconds: float
    ):
        self._models = models
        self._telemetry = telemetry
        self._executor = executor
        self._timeout_seconds = timeout_seconds

    def app(
        self,
        metrics_path: str | None = METRICS_PATH,
        routes: Sequence[BaseRoute] = (),
        cors: bool = False,
    ) -> Starlette:
        """Makes the application; with `cors`, pages of other servers may call it."""
        metrics = [Route(metrics_path, self._metrics)] if metrics_path else []
        middleware = [Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)]
        if cors:
            everything = {f"allow_{name}": ["*"] for name in ("origins", "methods", "headers")}
            middleware.insert(0, Middleware(CORSMiddleware, **everything))
        rest = request_response(self._respond)
        app = Starlette(routes=[*routes, *metrics, Mount("", rest)], middleware=middleware)
        app.router.default = rest  # a `Mount` takes no path with a line break
        return app

    async def _metrics(self, _: Request) -> Response:
        return Response(self._telemetry.page(), media_type="text/plain; version=0.0.4")

    async def _respond(self, request: Request) -> Response:
        """Answers a call, errors too, and records what came of it."""
        begun = time.perf_counter()
        path = request.scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1")
        peer = request.client.host if request.client else ""
        call = Call("REST", method=request.method, path=path, peer=peer)
        try:
            response = _json_response(await self._answer(request, call))
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
        self._telemetry.record(call)
        return response

    async def _answer(self, request: Request, call: Call) -> bytes:
        if not re.match(r"/v1(/|$)", call.path, re.I):
            raise HTTPException(404, f"There is nothing at {call.path}")
        form = {"POST": _POST_PATH, "GET": _GET_PATH}.get(request.method)
        found = form.fullmatch(call.path) if form else None
        if not found:
            raise invalid(f"Malformed request: {call.method} {call.path}")
        call.model = urllib.parse.unquote(found["name"] or "")
        label = urllib.parse.unquote(found["label"]) if found["label"] else None
        call.api = (found["api"] or "status").lower()
        version = _read_version(found["version"])

        def find() -> Servable:
            servable = self._models.servable(call.model, version, label)
            call.version = servable.version
            return servable

        if request.method == "GET":
            if call.api == "status":
                statuses = self._models.status(call.model, version, label)
                return json_codec.dumps({"model_version_status": list(map(_status, statuses))})
            return json_codec.dumps(_metadata(call.model, find()))
        sent = await read_body(request, self._timeout_seconds)

        def answer() -> bytes:
            encoding = request.headers.get("content-encoding", "")
            body = decompress(sent) if "gzip" in encoding.lower() else sent
            call.request_bytes = len(body)
            return json_codec.dumps(_ANSWERS[call.api](find, *json_codec.read_request(body)))

        answering = asyncio.get_running_loop().run_in_executor(self._executor, answer)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await answering
        except TimeoutError as error:
            message = f"The model did not answer within {self._timeout_seconds:g} seconds."
            raise ServingError("DEADLINE_EXCEEDED", message) from error


async def read_body(request: Request, timeout_seconds: float) -> bytes:
    """Reads a request's body: HTTP's 413 if it is, or is said to be, too large, 408 if too late."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            if int(request.headers.get("content-length", 0)) <= MAX_BODY_BYTES:
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        break
                else:
                    return bytes(body)
    except TimeoutError as error:
        message = f"The request body did not come within {timeout_seconds:g} seconds."
        raise HTTPException(408, message, _CLOSE) from error
    raise _too_large()


def decompress(body: bytes) -> bytes:
    """Decompresses a gzip body; may take long, and should not hold up the event loop."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            text = file.read(MAX_BODY_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise HTTPException(400, f"The request body is not valid gzip: {error}") from error
    if len(text) > MAX_BODY_BYTES:
        raise _too_large()
    return text


def _predict(find: Callable[[], Servable], request: dict, signature_name: str) -> dict:
    servable = find()  # as in TF Serving, after the body is known to be JSON
    arrays = json_codec.read_inputs(request, servable.signature(signature_name).inputs)
    outputs = servable.predict(signature_name, arrays)
    return json_codec.write_outputs(outputs, by_row="instances" in request)


def _classify(find: Callable[[], Servable], request: dict, signature_name: str) -> dict:
    examples = json_codec.read_examples(request)
    return json_codec.write_classes(*find().classify(signature_name, examples))


def _regress(find: Callable[[], Servable], request: dict, signature_name: str) -> dict:
    examples = json_codec.read_examples(request)
    return {"results": json_codec.number_array(find().regress(signature_name, examples))}


_ANSWERS = {"predict": _predict, "classify": _classify, "regress": _regress}


def _read_version(text: str | None) -> int | None:
    if text and (len(text) > 19 or int(text) >= 2**63):
        raise invalid(f"Failed to convert version: {text[:40]} to numeric.")
    return int(text) if text else None


def _status(status: VersionStatus) -> dict:
    return {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.error_code, "error_message": status.error_message},
    }


def _metadata(name: str, servable: Servable) -> dict:
    signatures = {
        name: MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in servable.signature_defs.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(servable.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _too_large() -> HTTPException:
    return HTTPException(
        413, f"The request body must be of at most {MAX_BODY_BYTES} bytes.", _CLOSE
    )


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json_response(json_codec.dumps({"error": message}), status, headers)


def _json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(body, status, headers, media_type="application/json")
