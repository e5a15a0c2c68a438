"""Errors of requests and models, with a gRPC status by name."""

from __future__ import annotations

import re

import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2

_GRAPH_NOISE = re.compile(
    r"^(Graph execution error:|Detected at node .*|<stack traces unavailable>)$|"
    r"^  File \".*\n?(    .*)?|"
    r"\{\{(function_)?node .*?\}\}\s*|\[\[.*?\]\]|\[Op:.*?\]|"
    r"^\d+ root error\(s\) found\.$|^\s*\(0\) \w+: ",
    re.MULTILINE,
)
_MAX_QUOTED = 200  # characters of an error that ends in a file's bytes


class ServingError(RuntimeError):
    """A request, or a model, that cannot be served: a gRPC status by name, and one sentence."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> ServingError:
    """The error of a request that does not fit."""
    return ServingError("INVALID_ARGUMENT", message)


def from_exception(error: Exception) -> ServingError:
    """Turns any exception into a `ServingError` with TensorFlow's own status.

    Its message is the first sentence that says what went wrong, without node names and traces.
    """
    code, message = "UNKNOWN", str(error)
    if isinstance(error, tf.errors.OpError):
        code, message = error_codes_pb2.Code.Name(error.error_code), str(error.message)
    elif isinstance(error, UnicodeDecodeError):  # TensorFlow's message quotes the request's bytes
        code, message = "INVALID_ARGUMENT", error.object.decode(errors="replace")[:_MAX_QUOTED]
    elif isinstance(error, FileNotFoundError):
        code = "NOT_FOUND"
    text = _GRAPH_NOISE.sub("", message).strip().partition("\n")[0]
    return ServingError(code, text or message.strip() or type(error).__name__)
