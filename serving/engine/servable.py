"""The serving core: one SavedModel, loaded, its requests checked and answered. No transport.

Transports (REST, gRPC) turn their requests into NumPy arrays, call `Servable.predict` and turn
`ServingError`, which carries a gRPC status code by name, into their own kind of error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.engine.batching import Batching, batched, can_batch
from serving.engine.errors import ServingError, from_exception
from serving.engine.image_limit import refuse_image_bombs
from serving.engine.signature import DEFAULT_SIGNATURE, Signature, find_signature
from serving.version_folder import verify_manifest

# The text of TensorFlow's errors may hold the bytes of a request, which are no Unicode.
_FAILURES = (tf.errors.OpError, UnicodeDecodeError)


class Servable:
    """One version of a model: a SavedModel folder, loaded and ready to be called.

    Args:
        path: The folder that holds `saved_model.pb`.
        version: Its number, for those who ask.
        batching: How to gather concurrent calls into one; `None` runs each by itself.
        checks_method_names: Whether signatures may classify and regress only if their method name
            says so; what TensorFlow 2 saves says `predict` throughout.

    Raises:
        ServingError: If the folder holds no SavedModel that loads.
    """

    def __init__(
        self,
        path: str | Path,
        version: int = 0,
        batching: Batching | None = None,
        checks_method_names: bool = False,
    ):
        path = Path(path)
        self.version = version
        self.checks_method_names = checks_method_names
        self.path = path
        if not (path / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"There is no saved_model.pb in {path}.")
        try:
            verify_manifest(path)
            self._model = tf.saved_model.load(str(path), tags=["serve"])
            saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        except Exception as error:  # a damaged file may raise anything
            raise from_exception(error) from error
        # The `SignatureDef` messages, by name: what a transport's metadata call reports.
        self.signature_defs = {
            name: definition
            for graph in saved.meta_graphs
            if "serve" in graph.meta_info_def.tags
            for name, definition in graph.signature_def.items()
        }
        self._signatures = {
            name: Signature.of(name, self.signature_defs[name]) for name in self._model.signatures
        }
        self._batched = {}
        if batching is not None:
            self._max_batch_size = batching.max_batch_size
            self._batched = {
                name: batched(self._model.signatures[name], signature, batching)
                for name, signature in self._signatures.items()
                if can_batch(signature)
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
        return find_signature(self._signatures, name)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature_name: The signature's name; `""` is the default one, as in TF Serving.
            inputs: An array for each input, by name.
            output_filter: Names of the outputs to return; none returns all.

        Returns:
            An array for each output, by name; strings as arrays of `bytes` objects.

        Raises:
            ServingError: INVALID_ARGUMENT, if the signature is unknown or the inputs or the filter
                do not fit it; otherwise the status of the TensorFlow operation that failed.
        """
        signature = self.signature(signature_name)
        wanted = signature.wanted_outputs(output_filter)
        tensors = signature.convert(inputs)
        for name, spec in signature.inputs.items():
            if spec.dtype == tf.string:
                refuse_image_bombs(np.asarray(inputs[name]).flat)
        try:
            # A tensor's own shape is slow to ask for.
            rows = max((len(value) for value in inputs.values() if np.ndim(value)), default=0)
            outputs = self._call(signature, tensors, rows)
            return {name: _to_array(outputs[name]) for name in wanted}
        except _FAILURES as error:
            raise from_exception(error) from error

    def _call(
        self, signature: Signature, tensors: Mapping[str, tf.Tensor], rows: int
    ) -> Mapping[str, tf.Tensor]:
        if signature.name in self._batched and rows:
            if rows > self._max_batch_size:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"Task size {rows} is larger than maximum input batch size "
                    f"{self._max_batch_size}",
                )
            try:
                outputs = self._batched[signature.name](list(tensors.values()))
                return dict(zip(signature.outputs, outputs, strict=True))
            except tf.errors.UnavailableError:
                raise
            except _FAILURES:
                pass  # one request's broken image fails its whole batch: now each by itself
        return self._model.signatures[signature.name](**tensors)


def _to_array(tensor: tf.Tensor) -> np.ndarray:
    """NumPy's own strings end at their last byte that is not NUL: a single one stays an object."""
    return np.asarray(tensor.numpy(), object if tensor.dtype == tf.string else None)
