"""The serving core: one SavedModel, loaded, its requests checked and answered. No transport.

Transports (REST, gRPC) turn their requests into NumPy arrays, call `Servable.predict` and turn
`ServingError`, which carries a gRPC status code by name, into their own kind of error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2

DEFAULT_SIGNATURE = "serving_default"
_GRAPH_NOISE = re.compile(
    r"^(Graph execution error:|Detected at node .*|<stack traces unavailable>)$|"
    r"\[\[.*?\]\]|\[Op:.*?\]|^\d+ root error\(s\) found\.$|^\s*\(0\) \w+: ",
    re.MULTILINE,
)


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


@dataclass(frozen=True)
class TensorSpec:
    """What a signature says of one tensor: its dtype, and its shape with `None` for what is free.

    Args:
        name: The tensor's name in the signature.
        dtype: A `tf.DType`.
        shape: Dimensions, `None` where any size fits; `None` in place of all for any rank.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    def convert(self, value: np.ndarray) -> tf.Tensor:
        """Checks an array against this spec.

        Args:
            value: The array; text and bytes in any of NumPy's forms.

        Returns:
            The array as a tensor.

        Raises:
            ServingError: INVALID_ARGUMENT, if the dtype or the shape differs.
        """
        value = np.asarray(value)
        if value.dtype.kind in "SU":
            value = value.astype(object)
        if value.dtype != np.dtype(self.dtype.as_numpy_dtype):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Input `{self.name}` must be of dtype {self.dtype.name}. "
                f"Received: dtype={value.dtype}",
            )
        if self.shape is not None and not tf.TensorShape(self.shape).is_compatible_with(
            value.shape
        ):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Input `{self.name}` must be of shape {_shape_text(self.shape)}. "
                f"Received: shape={_shape_text(value.shape)}",
            )
        return tf.constant(value, self.dtype)


@dataclass(frozen=True)
class Signature:
    """What one of a model's signatures takes and gives.

    Args:
        name: The signature's name.
        inputs: A spec for each input, by name.
        outputs: A spec for each output, by name.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class Servable:
    """One version of a model: a SavedModel folder, loaded and ready to be called.

    Args:
        path: The folder that holds `saved_model.pb`.
        version: Its number, for those who ask.

    Raises:
        ServingError: If the folder holds no SavedModel that loads.
    """

    def __init__(self, path: str | Path, version: int = 0):
        path = Path(path)
        self.version = version
        if not (path / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"There is no saved_model.pb in {path}.")
        try:
            self._model = tf.saved_model.load(str(path), tags=["serve"])
            saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        except Exception as error:  # a damaged file may raise anything
            raise ServingError(_code(error), _first_line(str(error))) from error
        # The `SignatureDef` messages, by name: what a transport's metadata call reports.
        self.signature_defs = {
            name: definition
            for graph in saved.meta_graphs
            if "serve" in graph.meta_info_def.tags
            for name, definition in graph.signature_def.items()
        }
        self._signatures = {
            name: Signature(
                name,
                _specs(self.signature_defs[name].inputs),
                _specs(self.signature_defs[name].outputs),
            )
            for name in self._model.signatures
        }

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Looks a signature up.

        Args:
            name: The signature's name; `""` is the default one, as in TF Serving.

        Returns:
            The signature.

        Raises:
            ServingError: INVALID_ARGUMENT, if the model has no such signature.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Serving signature name: {name!r} not found in signature def; "
                f"the model has {sorted(self._signatures)}.",
            )
        return self._signatures[name]

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature_name: The signature's name; `""` is the default one, as in TF Serving.
            inputs: An array for each input, by name.

        Returns:
            An array for each output, by name; strings as arrays of `bytes` objects.

        Raises:
            ServingError: INVALID_ARGUMENT, if the signature is unknown or the inputs do not fit it;
                otherwise the status of the TensorFlow operation that failed.
        """
        signature = self.signature(signature_name)
        if signature.inputs.keys() != inputs.keys():
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Signature {signature.name!r} takes the inputs {sorted(signature.inputs)}. "
                f"Received: inputs={sorted(inputs)}",
            )
        tensors = {name: signature.inputs[name].convert(inputs[name]) for name in inputs}
        try:
            outputs = self._model.signatures[signature.name](**tensors)
        except tf.errors.OpError as error:
            raise ServingError(_code(error), _first_line(error.message)) from error
        return {name: np.asarray(value.numpy()) for name, value in outputs.items()}


def _specs(infos: Mapping) -> dict[str, TensorSpec]:
    """Reads a map of `TensorInfo` messages."""
    shapes = {name: tf.TensorShape(info.tensor_shape) for name, info in infos.items()}
    return {
        name: TensorSpec(
            name,
            tf.as_dtype(info.dtype),
            None if shapes[name].rank is None else tuple(shapes[name]),
        )
        for name, info in infos.items()
    }


def _shape_text(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _code(error: Exception) -> str:
    if isinstance(error, tf.errors.OpError):
        return error_codes_pb2.Code.Name(error.error_code)
    return "NOT_FOUND" if isinstance(error, FileNotFoundError) else "UNKNOWN"


def _first_line(message: str) -> str:
    """What went wrong, without the graph's node names and stack traces around it."""
    return _GRAPH_NOISE.sub("", message).strip().partition("\n")[0] or message.strip()
