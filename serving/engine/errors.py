"""What cannot be served, with a gRPC status by name, and TensorFlow's errors told as such."""

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
_MOST_QUOTED = 200  # characters of an error that ends in a file's bytes


class ServingError(Exception):
    """A request, or a model, that cannot be served.

    Args:
        code: A gRPC status name such as `"INVALID_ARGUMENT"` or `"NOT_FOUND"`.
        message: One sentence for the person who sent the request.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def from_exception(error: Exception) -> ServingError:
    """Tells any exception, TensorFlow's above all, as a `ServingError`.

    Args:
        error: The exception.

    Returns:
        An error with TensorFlow's own status and the first sentence that says what went wrong,
        without the graph's node names and stack traces around it.
    """
    message = _message(error)
    text = _GRAPH_NOISE.sub("", message).strip().partition("\n")[0]
    return ServingError(_code(error), text or message.strip() or type(error).__name__)


def _message(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):  # what TensorFlow says quotes the request's bytes
        return error.object.decode(errors="replace")[:_MOST_QUOTED]
    return str(error.message if isinstance(error, tf.errors.OpError) else error)


def _code(error: Exception) -> str:
    if isinstance(error, tf.errors.OpError):
        return error_codes_pb2.Code.Name(error.error_code)
    if isinstance(error, UnicodeDecodeError):
        return "INVALID_ARGUMENT"
    return "NOT_FOUND" if isinstance(error, FileNotFoundError) else "UNKNOWN"
