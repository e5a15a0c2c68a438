"""JSON as TF Serving has it: NaN and Infinity are numbers, float32 in its shortest form."""

from __future__ import annotations

import json

import numpy as np
import orjson

from serving.engine.errors import ServingError

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def loads(body: bytes):
    """Reads JSON.

    Args:
        body: The text; `NaN`, `Infinity` and `-Infinity` are numbers too.

    Returns:
        The value.

    Raises:
        ServingError: INVALID_ARGUMENT, if it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)  # slower; knows NaN and Infinity
        except (ValueError, RecursionError) as error:
            raise ServingError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error


def dumps(content) -> bytes:
    """Writes JSON.

    Args:
        content: Dictionaries, lists, text and numbers, and what `number_array` returns.

    Returns:
        The text; a lone surrogate, which UTF-8 has no form for, as an escape.
    """
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        text = json.dumps(content, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")


def number_array(array: np.ndarray):
    """Prepares an array for `dumps`.

    Args:
        array: Numbers or booleans.

    Returns:
        Something that `dumps` writes as nested lists: 0.1 in float32 as 0.1, not as
        0.10000000149011612, and what is not finite as `NaN`, `Infinity` or `-Infinity`.
    """
    if array.dtype.kind != "f" or (array.dtype != np.float16 and np.isfinite(array).all()):
        return np.ascontiguousarray(array) if array.ndim else array[()]
    shortest = array.astype("U").astype(np.float64)
    return _with_tokens(shortest.tolist())


def _with_tokens(value):
    if isinstance(value, list):
        return [_with_tokens(item) for item in value]
    token = _NOT_FINITE.get(str(value))
    return value if token is None else orjson.Fragment(token)
