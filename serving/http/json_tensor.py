"""JSON to arrays and back, by the rules of TF Serving's REST API."""

from __future__ import annotations

import base64
import reprlib
import string
from collections.abc import Mapping
from itertools import chain

import numpy as np

from serving.engine.errors import ServingError
from serving.engine.signature import TensorSpec
from serving.http.json_text import number_array

_MAX_RANK = 32
_WHITESPACE = string.whitespace.encode()
_JSON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
}  # by NumPy kind


def read_inputs(request: Mapping, specs: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Turns the inputs of a predict request into arrays.

    Args:
        request: The request, with either `instances` (a list of rows) or `inputs` (columns).
        specs: What the signature takes, by name.

    Returns:
        An array for each input, by name.

    Raises:
        ServingError: INVALID_ARGUMENT, if the values do not fit the specs.
    """
    if ("instances" in request) == ("inputs" in request):
        raise invalid(
            "The request body must have either the key 'instances' or the key 'inputs'.",
            list(request),
        )
    columns = (
        _columns_from_rows(request["instances"], specs)
        if "instances" in request
        else _columns_by_name(request["inputs"], specs)
    )
    return {name: _to_array(specs[name], value) for name, value in columns.items()}


def write_outputs(outputs: Mapping[str, np.ndarray], by_row: bool) -> dict:
    """Turns the arrays that a model answered into the body of a predict response.

    Args:
        outputs: An array for each output, by name.
        by_row: Whether the request came in rows.

    Returns:
        A dictionary for `json_text.dumps`: `predictions`, a list of rows, or `outputs`, by name; a
        single output goes without its name.

    Raises:
        ServingError: If JSON has no form for an output, or the outputs make no rows.
    """
    if by_row:
        return {"predictions": _to_rows(outputs)}
    values = {name: _to_json(name, array) for name, array in outputs.items()}
    return {"outputs": values if len(values) > 1 else next(iter(values.values()), {})}


def _columns_from_rows(instances, specs: Mapping[str, TensorSpec]) -> dict:
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list that is not empty.", instances)
    if not _is_named(instances[0]):
        return _columns_by_name(instances, specs)
    for row in instances:
        if not _is_named(row) or row.keys() != specs.keys():
            raise invalid(
                f"Each of 'instances' must be an object with the keys {sorted(specs)}.", row
            )
    return {name: [row[name] for row in instances] for name in specs}


def _columns_by_name(inputs, specs: Mapping[str, TensorSpec]) -> dict:
    if not _is_named(inputs) and len(specs) == 1:
        return dict.fromkeys(specs, inputs)
    if not _is_named(inputs) or not inputs.keys() >= specs.keys():
        raise invalid(f"The inputs must be an object with the keys {sorted(specs)}.", inputs)
    return {name: inputs[name] for name in specs}  # TF Serving ignores other keys, too


def _to_rows(outputs: Mapping[str, np.ndarray]) -> list:
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) != 1 or sizes == {()}:
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        raise invalid(
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
    types = set(map(type, flat))
    if not types <= _JSON_TYPES[dtype.kind]:
        raise _unfit(spec, next(v for v in flat if type(v) not in _JSON_TYPES[dtype.kind]))
    wide = _widest(flat)  # much faster than into the dtype at once
    if int in types:
        whole = wide if types == {int} else _widest([v for v in flat if type(v) is int])
        lowest, highest = _exact_range(dtype)
        for extreme in (int(whole.min()), int(whole.max())):
            if not lowest <= extreme <= highest:
                raise _unfit(spec, extreme)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if dtype.kind == "f":
        overflown = np.isinf(array) & ~np.isinf(wide.astype(np.float64))
        if overflown.any():
            raise _unfit(spec, flat[overflown.argmax()])
    return array.reshape(shape)


def _widest(values: list) -> np.ndarray:
    """NumPy makes floats of whole numbers that int64 and uint64 hold only together: not here."""
    array = np.array(values)
    is_rounded = array.dtype.kind == "f" and float not in map(type, values)
    return np.array(values, object) if is_rounded else array


def _flatten(spec: TensorSpec, value) -> tuple[list[int], list]:
    shape: list[int] = []
    flat = [value]
    while list in (types := set(map(type, flat))):
        if len(types) > 1 or len(set(map(len, flat))) > 1 or len(shape) == _MAX_RANK:
            raise invalid(
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
        return to_bytes(item)
    except (ValueError, TypeError) as error:
        raise _unfit(spec, item) from error


def _to_json(name: str, array: np.ndarray):
    """Turns an array into what `json_text.dumps` writes."""
    if array.dtype.kind == "O":
        return _to_text(name, array.tolist())
    if array.dtype.kind not in _JSON_TYPES:
        raise invalid(f"Output `{name}`: JSON has no such type.", str(array.dtype))
    return number_array(array)


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


def _is_named(value) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _unfit(spec: TensorSpec, item) -> ServingError:
    return invalid(f"Input `{spec.name}` must hold {spec.dtype.name} values.", item)


def is_base64(value) -> bool:
    """Tells whether a JSON value is the form of binary data: `{"b64": TEXT}`.

    Args:
        value: Any JSON value.

    Returns:
        Whether it is.
    """
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def to_bytes(item) -> bytes:
    """Turns the JSON form of a string into bytes.

    Args:
        item: Text, or `{"b64": TEXT}`, whose padding may be left out and whose lines may be broken.

    Returns:
        The bytes.

    Raises:
        ValueError: If it is bad base64, or text that UTF-8 has no form for.
        TypeError: If it is neither.
    """
    if is_base64(item):
        text = item["b64"].encode("ascii").translate(None, _WHITESPACE)
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    if isinstance(item, str):
        return item.encode()
    raise TypeError(f"Expected text or base64. Received: {item!r}")


def invalid(message: str, received) -> ServingError:
    """Makes the error of a request that says something that does not fit."""
    return ServingError("INVALID_ARGUMENT", f"{message} Received: {reprlib.repr(received)}")
