"""The seam under REST, gRPC and warm-up: arrays in, arrays out, for predict, classify, regress.

A transport turns its request into NumPy arrays, calls a `Servable`, and turns the arrays, or a
`ServingError`, into its own kind of answer.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.errors import ServingError, invalid
from serving.engine.signature import DEFAULT_SIGNATURE, Signature

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
MAX_IMAGE_PIXELS = 2**26
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG")  # how JPEG and PNG start, which an exported graph decodes


class Servable(ABC):
    """One version of a model, loaded.

    With `checks_method_names`, signatures classify and regress only if their method name says so;
    what TensorFlow 2 saves says `predict` throughout.
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
            name: Signature.from_proto(name, signature_defs[name]) for name in callable_names
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
        """Labels (text) and scores (float32) of serialized `tf.Example` messages.

        Both are [examples, classes]; what the signature does not give is `""` or 0.
        """
        outputs = self._infer(signature_name, CLASSIFY, examples, ("classes", "scores"))
        for name, kind, words in (("classes", "O", "strings"), ("scores", "f", "floats")):
            array = outputs.get(name)
            if array is not None and (
                array.ndim != 2 or len(array) != len(examples) or array.dtype.kind != kind
            ):
                raise invalid(
                    f"Expected `{name}` of shape [batch_size num_classes] and {words}. "
                    f"Received: {list(array.shape)} of {array.dtype}"
                )
        shapes = {array.shape for array in outputs.values()}
        if len(shapes) != 1:
            raise invalid(f"`classes` and `scores` differ: {shapes}")
        (shape,) = shapes
        try:
            labels = [label.decode() for label in outputs.get("classes", np.empty(0)).flat]
        except UnicodeDecodeError as error:
            raise ServingError(
                "FAILED_PRECONDITION", "`classes` holds bytes that are not UTF-8 text."
            ) from error
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
