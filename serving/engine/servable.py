"""The seam under REST, gRPC and warm-up: arrays in, arrays out, for predict, classify, regress.

A transport turns its request into NumPy arrays, calls a `Servable`, and turns the arrays, or a
`ServingError`, into its own kind of answer.
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2

DEFAULT_SIGNATURE = "serving_default"
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
MAX_IMAGE_PIXELS = 2**26
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")  # how JPEG and PNG start, which an exported graph decodes
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
    """Turns any exception into a `ServingError`: TensorFlow's status and its first sentence."""
    code, message = "UNKNOWN", str(error)
    if isinstance(error, tf.errors.OpError):
        code, message = error_codes_pb2.Code.Name(error.error_code), str(error.message)
    elif isinstance(error, UnicodeDecodeError):  # TensorFlow's message quotes the request's bytes
        message = error.object.partition(b", value: ")[0].decode(errors="replace")[:_MAX_QUOTED]
        code = "INVALID_ARGUMENT"
    elif isinstance(error, FileNotFoundError):
        code = "NOT_FOUND"
    text = _GRAPH_NOISE.sub("", message).strip().partition("\n")[0]
    return ServingError(code, text or message.strip() or type(error).__name__)


@dataclass(frozen=True)
class Signature:
    """What one signature takes and gives; its method name is `tensorflow/serving/predict`, ..."""

    name: str
    method_name: str
    inputs: Mapping[str, tf.TensorSpec]
    outputs: Mapping[str, tf.TensorSpec]

    def check_inputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Refuses a call's inputs if their names, dtypes or shapes differ; orders them."""
        if self.inputs.keys() != inputs.keys():
            raise invalid(
                f"Signature {self.name!r} takes the inputs {sorted(self.inputs)}. "
                f"Received: inputs={sorted(inputs)}"
            )
        return {name: _check(spec, inputs[name]) for name, spec in self.inputs.items()}

    def filter_outputs(self, output_filter: Sequence[str]) -> Sequence[str]:
        """The names of the outputs to return: all of them without a filter."""
        for name in output_filter:
            if name not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name} Outputs expected to be in "
                    f"the set {{{','.join(sorted(self.outputs))}}}."
                )
            if list(output_filter).count(name) > 1:
                raise invalid(f"duplicate output tensor alias: {name}")
        return output_filter or list(self.outputs)


class Servable(ABC):
    """One version of a model, loaded.

    `checks_method_names` refuses to classify and regress by signatures of another method name.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        checks_method_names: bool,
        signature_defs: Mapping[str, meta_graph_pb2.SignatureDef],
        callable_names: Collection[str],
    ):
        self.path = path
        self.version = version
        self.signature_defs = signature_defs
        self._checks_method_names = checks_method_names
        self._signatures = {
            name: Signature(name, found.method_name, _specs(found.inputs), _specs(found.outputs))
            for name, found in signature_defs.items()
            if name in callable_names
        }

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Looks a signature up; `""` is the default one, as in TF Serving."""
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise invalid(
                f"Serving signature name: {name!r} not found in signature def; "
                f"the model has {sorted(self._signatures)}."
            )
        return self._signatures[name]

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Calls a signature; strings come and go as arrays of `bytes` objects."""
        signature = self.signature(signature_name)
        wanted = signature.filter_outputs(output_filter)
        arrays = signature.check_inputs(inputs)
        for array in arrays.values():
            if array.dtype.kind == "O":
                check_image_size(array.flat)
        return self._call(signature, arrays, wanted)

    def classify(self, signature_name: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels (text) and scores of `tf.Example` messages; `""` or 0 where there are none."""
        outputs = self._infer(signature_name, CLASSIFY, examples, ("classes", "scores"))
        shape, *others = {array.shape for array in outputs.values()}
        kinds = {name: array.dtype.kind for name, array in outputs.items()}
        fits = kinds.items() <= {"classes": "O", "scores": "f"}.items()
        if others or len(shape) != 2 or shape[0] != len(examples) or not fits:
            raise invalid(
                "`classes` must be strings, `scores` floats, of shape [batch_size, num_classes]. "
                f"Received: {[(name, a.dtype, a.shape) for name, a in outputs.items()]}"
            )
        labels = [decode_text("classes", v) for v in outputs.get("classes", np.empty(0)).flat]
        texts = np.array(labels, object).reshape(shape) if labels else np.full(shape, "", object)
        return texts, outputs.get("scores", np.zeros(shape)).astype(np.float32)

    def regress(self, signature_name: str, examples: np.ndarray) -> np.ndarray:
        """A float32 value for each serialized `tf.Example` message."""
        values = self._infer(signature_name, REGRESS, examples, ("outputs",))["outputs"]
        if values.shape not in ((len(examples),), (len(examples), 1)) or values.dtype.kind != "f":
            raise invalid(
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] and "
                f"floats. Received: {list(values.shape)} of {values.dtype}"
            )
        return values.ravel().astype(np.float32)

    @abstractmethod
    def _call(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Runs a signature on inputs that fit, in its order; returns the wanted outputs."""

    def _infer(
        self, signature_name: str, method: str, examples: np.ndarray, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        signature = self.signature(signature_name)
        if self._checks_method_names and signature.method_name != method:
            kind = "classification" if method == CLASSIFY else "regression"
            raise invalid(
                f"Expected {kind} signature method_name to be {method}. "
                f"Was: {signature.method_name}"
            )
        if list(signature.inputs) != ["inputs"]:
            raise invalid(
                f"Signature {signature.name!r} must take one input, `inputs`, of serialized "
                f"tf.Example messages. It takes: {sorted(signature.inputs)}"
            )
        wanted = [name for name in outputs if name in signature.outputs]
        if not wanted:
            raise invalid(
                f"Signature {signature.name!r} must give {' or '.join(map(repr, outputs))}. "
                f"It gives: {sorted(signature.outputs)}"
            )
        return self.predict(signature.name, {"inputs": examples}, wanted)


def decode_text(output: str, value: bytes) -> str:
    """Decodes a string of an output, which must be UTF-8 where text is asked for."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"Output `{output}` holds bytes that are not UTF-8 text; "
            "the model must name such an output with the suffix '_bytes'.",
        ) from error


def check_image_size(values: Iterable[bytes | str]) -> None:
    """Refuses JPEG and PNG files that are small to send and huge to decode, by their headers."""
    for value in values:
        if not isinstance(value, bytes) or not value.startswith(_MAGIC):
            continue
        try:
            with Image.open(io.BytesIO(value), formats=["JPEG", "PNG"]) as image:
                width, height = image.size
            received = f"{width} x {height}" if width * height > MAX_IMAGE_PIXELS else ""
        except Image.DecompressionBombError as error:
            received = str(error)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            continue  # TensorFlow will say what is wrong with it
        if received:
            raise invalid(
                f"An image must have at most {MAX_IMAGE_PIXELS} pixels. Received: {received}"
            )


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name)
        for name, info in infos.items()
    }


def _check(spec: tf.TensorSpec, value: np.ndarray) -> np.ndarray:
    """Refuses an array of another dtype or shape; text and bytes become objects."""
    value = np.asarray(value)
    if value.dtype.kind in "SU":
        value = value.astype(object)
    if value.dtype != np.dtype(spec.dtype.as_numpy_dtype):
        raise invalid(
            f"Input `{spec.name}` must be of dtype {spec.dtype.name}. Received: dtype={value.dtype}"
        )
    if not spec.shape.is_compatible_with(value.shape):
        raise invalid(
            f"Input `{spec.name}` must be of shape {_shape_text(spec.shape)}. "
            f"Received: shape={_shape_text(value.shape)}"
        )
    return value


def _shape_text(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
