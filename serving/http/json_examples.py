"""Classify and regress in JSON: tf.Example features in, labels with scores or values out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving.http.json_tensor import invalid, is_base64, to_bytes
from serving.http.json_text import number_array

_FLOAT32_MAX = float(np.finfo(np.float32).max)
# Kind of feature: its field, and what makes its values of JSON's.
_LISTS: dict[str, tuple[str, Callable]] = {
    "bytes": ("bytes_list", to_bytes),
    "float": ("float_list", float),
    "int64": ("int64_list", int),
}


def read_examples(request: dict) -> input_pb2.Input:
    """Turns the examples of a classify or regress request into a message.

    Args:
        request: The request, with `examples` (a list of objects) and perhaps `context`.

    Returns:
        The message.

    Raises:
        ServingError: INVALID_ARGUMENT, if they have no form as `tf.Example` messages.
    """
    if "examples" not in request:
        raise invalid("The key 'examples' is expected and was not found.", list(request))
    examples = request["examples"]
    if not isinstance(examples, list) or not examples:
        raise invalid("'examples' must be a list that is not empty.", examples)
    read = [_read_example(example) for example in examples]
    message = input_pb2.Input()
    if "context" in request:
        message.example_list_with_context.context.CopyFrom(_read_example(request["context"]))
        message.example_list_with_context.examples.extend(read)
    else:
        message.example_list.examples.extend(read)
    return message


def write_classes(result: classification_pb2.ClassificationResult) -> dict:
    """Turns the result of a classification into the body of a response.

    Args:
        result: The result.

    Returns:
        A dictionary for `json_text.dumps`: for each example its pairs of label and score.
    """
    return {
        "results": [
            [[one.label, _number(one.score)] for one in classified.classes]
            for classified in result.classifications
        ]
    }


def write_values(result: regression_pb2.RegressionResult) -> dict:
    """Turns the result of a regression into the body of a response.

    Args:
        result: The result.

    Returns:
        A dictionary for `json_text.dumps`: a number for each example.
    """
    return {"results": [_number(regression.value) for regression in result.regressions]}


def _number(value: float):
    return number_array(np.array(value, np.float32))


def _read_example(features) -> example_pb2.Example:
    if not isinstance(features, dict):
        raise invalid("An example must be a JSON object.", features)
    example = example_pb2.Example()
    for name, content in features.items():
        try:
            feature = example.features.feature[name]
        except ValueError as error:  # a lone surrogate
            raise invalid("A feature's name must be text.", name) from error
        _fill(feature, name, content if isinstance(content, list) else [content])
    return example


def _fill(feature: feature_pb2.Feature, name: str, items: list) -> None:
    kinds = {_kind(name, item) for item in items}
    if len(kinds) > 1:
        raise invalid(f"Feature `{name}` must hold values of one type.", items)
    for kind in kinds:
        field, convert = _LISTS[kind]
        try:
            getattr(feature, field).value.extend(map(convert, items))
        except ValueError as error:  # an integer too large, bad base64, a lone surrogate
            raise invalid(f"Feature `{name}` must hold {kind} values.", items) from error


def _kind(name: str, item) -> str:
    if isinstance(item, str) or is_base64(item):
        return "bytes"
    if isinstance(item, bool | int):
        return "int64"
    if isinstance(item, float):
        if math.isfinite(item) and abs(item) > _FLOAT32_MAX:
            raise invalid(f"Feature `{name}` must hold float32 values.", item)
        return "float"
    raise invalid(f"Feature `{name}` has an element of an unexpected JSON type.", item)
