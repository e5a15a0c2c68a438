"""TF Serving's REST API over the serving core: model status, metadata and predict.

The specification is TensorFlow Serving's public REST guide:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import json
import re
import reprlib
from collections.abc import Mapping
from itertools import chain

import numpy as np
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.servable import ServedModel, ServingError, TensorSpec

MAX_BODY_BYTES = 64 * 2**20
_MAX_RANK = 32
_JSON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
}  # by NumPy kind
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
        raise _invalid("The request body must be a JSON object.", request)
    signature_name = request.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise _invalid("'signature_name' must be a string.", signature_name)
    if ("instances" in request) == ("inputs" in request):
        raise _invalid(
            "The request body must have either the key 'instances' or the key 'inputs'.",
            list(request),
        )
    servable = model.servable(version)
    specs = servable.signature(signature_name).inputs
    by_row = "instances" in request
    columns = (
        _columns_from_rows(request["instances"], specs)
        if by_row
        else _columns(request["inputs"], specs)
    )
    arrays = {name: _to_array(specs[name], value) for name, value in columns.items()}
    outputs = servable.predict(signature_name, arrays)
    if not by_row:
        values = {name: _to_json(name, array) for name, array in outputs.items()}
        return {"outputs": values if len(values) > 1 else next(iter(values.values()), {})}
    return {"predictions": _rows(outputs)}


def _columns_from_rows(instances, specs: Mapping[str, TensorSpec]) -> dict:
    if not isinstance(instances, list) or not instances:
        raise _invalid("'instances' must be a list that is not empty.", instances)
    if not _is_named(instances[0]):
        return _columns(instances, specs)
    for row in instances:
        if not _is_named(row) or row.keys() != specs.keys():
            raise _invalid(
                f"Each of 'instances' must be an object with the keys {sorted(specs)}.", row
            )
    return {name: [row[name] for row in instances] for name in specs}


def _columns(inputs, specs: Mapping[str, TensorSpec]) -> dict:
    if not _is_named(inputs) and len(specs) == 1:
        return dict.fromkeys(specs, inputs)
    if not _is_named(inputs) or inputs.keys() != specs.keys():
        raise _invalid(f"The inputs must be an object with the keys {sorted(specs)}.", inputs)
    return inputs


def _rows(outputs: Mapping[str, np.ndarray]) -> list:
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) != 1 or sizes == {()}:
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        raise _invalid(
            "The row format needs outputs of one batch size; use the columnar format ('inputs').",
            shapes,
        )
    columns = [_to_json(name, array) for name, array in outputs.items()]
    if len(columns) == 1:
        return columns[0]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _to_array(spec: TensorSpec, value) -> np.ndarray:
    """Turns nested JSON lists into an array, and refuses what the array could not hold exactly."""
    shape, flat = _flatten(spec, value)
    if spec.dtype.name == "string":
        return np.array([_to_bytes(spec, item) for item in flat], object).reshape(shape)
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    if dtype.kind not in _JSON_TYPES:
        raise ServingError("UNIMPLEMENTED", f"Input `{spec.name}`: JSON has no {spec.dtype.name}.")
    if not set(map(type, flat)) <= _JSON_TYPES[dtype.kind]:
        raise _unfit(spec, next(v for v in flat if type(v) not in _JSON_TYPES[dtype.kind]))
    if whole := [number for number in flat if type(number) is int]:
        lowest, highest = _exact_range(dtype)
        for extreme in (min(whole), max(whole)):
            if not lowest <= extreme <= highest:
                raise _unfit(spec, extreme)
    if dtype.kind != "f":
        return np.array(flat, dtype).reshape(shape)
    wide = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    overflown = np.isinf(array) & ~np.isinf(wide)
    if overflown.any():
        raise _unfit(spec, flat[overflown.argmax()])
    return array.reshape(shape)


def _flatten(spec: TensorSpec, value) -> tuple[list[int], list]:
    shape: list[int] = []
    flat = [value]
    while list in (types := set(map(type, flat))):
        if len(types) > 1 or len(set(map(len, flat))) > 1 or len(shape) == _MAX_RANK:
            raise _invalid(
                f"Input `{spec.name}` must be nested evenly, at most {_MAX_RANK} lists deep.", value
            )
        shape.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    return shape, flat


def _exact_range(dtype: np.dtype) -> tuple[int, int]:
    """The whole numbers among which a dtype holds each one exactly."""
    if dtype.kind == "f":
        highest = 2 ** (np.finfo(dtype).nmant + 1) - 1
        return -highest, highest
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _to_bytes(spec: TensorSpec, item) -> bytes:
    try:
        if _is_base64(item):
            return base64.b64decode(item["b64"] + "=" * (-len(item["b64"]) % 4), validate=True)
        if isinstance(item, str):
            return item.encode()
    except ValueError:
        pass
    raise _unfit(spec, item)


def _to_json(name: str, array: np.ndarray):
    """Turns an array into what `json` writes: float32 0.1 as 0.1, not 0.10000000149011612."""
    if array.dtype.kind == "O":
        return _to_text(name, array.tolist())
    if array.dtype.kind not in _JSON_TYPES:
        raise ServingError("UNIMPLEMENTED", f"Output `{name}`: JSON has no {array.dtype}.")
    if array.dtype.kind == "f" and array.dtype != np.float64:
        array = array.astype("U").astype(np.float64)
    return array.tolist()


def _to_text(name: str, value):
    if isinstance(value, list):
        return [_to_text(name, item) for item in value]
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"Output `{name}` holds bytes that are not UTF-8 text; "
            "the model must name such an output with the suffix '_bytes'.",
        ) from error


def _is_base64(value) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_named(value) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _unfit(spec: TensorSpec, item) -> ServingError:
    return _invalid(f"Input `{spec.name}` must hold {spec.dtype.name} values.", item)


def _invalid(message: str, received) -> ServingError:
    return ServingError("INVALID_ARGUMENT", f"{message} Received: {reprlib.repr(received)}")


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
