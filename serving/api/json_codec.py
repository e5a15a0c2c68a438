"""JSON to arrays and back, by the rules of TF Serving's REST API.

NaN and Infinity are numbers, and float32 is written in its shortest form.
"""

from __future__ import annotations

import base64
import json
import re
import reprlib
import string
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson
import tensorflow as tf
from tensorflow.core.example import example_pb2, feature_pb2

from serving.engine.messages import serialize_examples
from serving.engine.servable import ServingError, decode_text, invalid

_MAX_RANK = 32
_MAX_DEPTH = 100  # deeper than any tensor: values below are not read
_WHITESPACE = string.whitespace.encode()
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_TEXT_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
# By NumPy kind.
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_FEATURE_KINDS = {str: "bytes", dict: "bytes", bool: "int64", int: "int64", float: "float"}


def loads(body: bytes) -> Any:
    """Reads JSON, which may be nested ever so deep."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)  # slower; knows NaN and Infinity
        except RecursionError:
            return loads(_without_depth(body))
        except ValueError as error:
            raise invalid(f"JSON Parse error: {error}") from error


def dumps(content: Any) -> bytes:
    """Writes JSON; a lone surrogate, which UTF-8 has no form for, is an escape."""
    try:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        text = json.dumps(content, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")


def number_array(array: np.ndarray) -> Any:
    """Prepares numbers for `dumps`: 0.1 in float32 as 0.1, not as 0.10000000149011612."""
    if array.dtype.kind != "f" or (array.dtype != np.float16 and np.isfinite(array).all()):
        return np.ascontiguousarray(array) if array.ndim else array[()]
    shortest = array.astype("U").astype(np.float64)
    return _with_tokens(shortest.tolist())


def read_request(body: bytes) -> tuple[dict, str]:
    """Reads a request: its JSON object, and the name of the signature in it."""
    request = loads(body)
    if not isinstance(request, dict):
        raise _invalid("The request body must be a JSON object.", request)
    signature_name = request.get("signature_name", "")
    if not isinstance(signature_name, str):
        raise _invalid("'signature_name' must be text.", signature_name)
    return request, signature_name


def read_inputs(request: Mapping, specs: Mapping[str, tf.TensorSpec]) -> dict[str, np.ndarray]:
    """Turns `instances` (a list of rows) or `inputs` (columns) into an array for each input."""
    if ("instances" in request) == ("inputs" in request):
        raise _invalid(
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
    """The body of a predict response, by row or by name; a single output goes without its name."""
    if by_row:
        return {"predictions": _to_rows(outputs)}
    values = {name: _to_json(name, array) for name, array in outputs.items()}
    return {"outputs": values if len(values) > 1 else next(iter(values.values()), {})}


def read_examples(request: Mapping) -> np.ndarray:
    """Turns `examples` (a list of objects) and `context` into serialized `tf.Example` messages."""
    if "examples" not in request:
        raise _invalid("The key 'examples' is expected and was not found.", list(request))
    examples = request["examples"]
    if not isinstance(examples, list) or not examples:
        raise _invalid("'examples' must be a list that is not empty.", examples)
    context = _read_example(request["context"]) if "context" in request else None
    return serialize_examples([_read_example(example) for example in examples], context)


def write_classes(labels: np.ndarray, scores: np.ndarray) -> dict:
    """The body of a classify response: for each example its pairs of label and score."""
    rows = zip(labels.tolist(), number_array(scores), strict=True)
    return {"results": [[list(pair) for pair in zip(*row, strict=True)] for row in rows]}


def _without_depth(body: bytes) -> bytes:
    """Puts null in the place of what is nested too deep for a parser."""
    kept, depth, start = [], 0, 0
    for token in _TEXT_OR_BRACKET.finditer(body):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == _MAX_DEPTH:
                kept.append(body[start : token.start()])
                start = len(body)
        elif token[0] in (b"]", b"}"):
            if depth == _MAX_DEPTH:
                kept.append(b"null")
                start = token.end()
            depth -= 1
    return b"".join([*kept, body[start:]])


def _with_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_tokens(item) for item in value]
    token = _NOT_FINITE.get(str(value))
    return value if token is None else orjson.Fragment(token)


def _columns_from_rows(instances: Any, specs: Mapping[str, tf.TensorSpec]) -> dict:
    if not isinstance(instances, list) or not instances:
        raise _invalid("'instances' must be a list that is not empty.", instances)
    if not _is_named(instances[0]):
        return _columns_by_name(instances, specs)
    for row in instances:
        if not _is_named(row) or row.keys() != specs.keys():
            raise _invalid(
                f"Each of 'instances' must be an object with the keys {sorted(specs)}.", row
            )
    return {name: [row[name] for row in instances] for name in specs}


def _columns_by_name(inputs: Any, specs: Mapping[str, tf.TensorSpec]) -> dict:
    if not _is_named(inputs) and len(specs) == 1:
        return dict.fromkeys(specs, inputs)
    if not _is_named(inputs) or not inputs.keys() >= specs.keys():
        raise _invalid(f"The inputs must be an object with the keys {sorted(specs)}.", inputs)
    return {name: inputs[name] for name in specs}  # TF Serving ignores other keys, too


def _to_array(spec: tf.TensorSpec, value: Any) -> np.ndarray:
    """Turns nested lists into an array; as in TF Serving, floats are rounded, integers are not."""
    shape, flat = _flatten(spec, value)
    if spec.dtype.name == "string":
        return np.array([_to_bytes(f"Input `{spec.name}`", item) for item in flat], object).reshape(
            shape
        )
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    if dtype.kind not in _JSON_TYPES:
        raise ServingError("UNIMPLEMENTED", f"Input `{spec.name}`: JSON has no {spec.dtype.name}.")
    if not set(map(type, flat)) <= _JSON_TYPES[dtype.kind]:
        raise _unfit(spec, next(v for v in flat if type(v) not in _JSON_TYPES[dtype.kind]))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        for extreme in (min(flat, default=0), max(flat, default=0)):
            if not limits.min <= extreme <= limits.max:
                raise _unfit(spec, extreme)
    # Into the dtype at once is much slower.
    wide = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}[dtype.kind]
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, wide).astype(dtype).reshape(shape)
    except OverflowError as error:  # an integer beyond float64
        raise _unfit(spec, max(flat, key=abs)) from error


def _flatten(spec: tf.TensorSpec, value: Any) -> tuple[list[int], list]:
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


def _to_rows(outputs: Mapping[str, np.ndarray]) -> list:
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


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind == "O":
        return _to_text(name, array.tolist())
    if array.dtype.kind not in _JSON_TYPES:
        raise _invalid(f"Output `{name}`: JSON has no such type.", str(array.dtype))
    return number_array(array)


def _to_text(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_to_text(name, item) for item in value]
    if name.endswith("_bytes"):
        return {"b64": base64.b64encode(value).decode()}
    return decode_text(name, value)


def _read_example(features: Any) -> example_pb2.Example:
    if not isinstance(features, dict):
        raise _invalid("An example must be a JSON object.", features)
    example = example_pb2.Example()
    for name, content in features.items():
        try:
            feature = example.features.feature[name]
        except ValueError as error:  # a lone surrogate
            raise _invalid("A feature's name must be text.", name) from error
        _fill(feature, name, content if isinstance(content, list) else [content])
    return example


def _fill(feature: feature_pb2.Feature, name: str, items: list) -> None:
    kinds = {_FEATURE_KINDS.get(type(item)) for item in items}
    if len(kinds) > 1 or None in kinds:
        raise _invalid(f"Feature `{name}` must hold values of one type.", items)
    if kinds == {"bytes"}:
        feature.bytes_list.value.extend(_to_bytes(f"Feature `{name}`", item) for item in items)
    elif kinds == {"float"}:
        feature.float_list.value.extend(items)
    elif kinds:
        try:
            feature.int64_list.value.extend(map(int, items))
        except ValueError as error:
            raise _invalid(f"Feature `{name}` must hold int64 values.", items) from error


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    """Whether a JSON value is the form of binary data: `{"b64": TEXT}`."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _to_bytes(what: str, item: Any) -> bytes:
    """Text as UTF-8, or base64, whose padding may be left out and whose lines may be broken."""
    if _is_base64(item):
        try:
            text = item["b64"].encode("ascii").translate(None, _WHITESPACE)
            return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
        except ValueError as error:
            raise _invalid(f"{what} must hold valid base64 in 'b64'.", item) from error
    try:
        return item.encode()
    except (AttributeError, UnicodeEncodeError) as error:  # no text, or a lone surrogate
        raise _invalid(f"{what} must hold string values.", item) from error


def _unfit(spec: tf.TensorSpec, item: Any) -> ServingError:
    return _invalid(f"Input `{spec.name}` must hold {spec.dtype.name} values.", item)


def _invalid(message: str, received: Any) -> ServingError:
    return invalid(f"{message} Received: {reprlib.repr(received)}")
