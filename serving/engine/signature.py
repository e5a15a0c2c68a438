"""What a SavedModel's signatures take and give, and whether an array fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.errors import ServingError

DEFAULT_SIGNATURE = "serving_default"


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
        if not self._fits(value.shape):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Input `{self.name}` must be of shape {_shape_text(self.shape or ())}. "
                f"Received: shape={_shape_text(value.shape)}",
            )
        return tf.constant(value, self.dtype)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(own in (None, size) for own, size in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """What one of a model's signatures takes and gives.

    Args:
        name: The signature's name.
        method_name: What it is for: `tensorflow/serving/predict`, `.../classify`, `.../regress`.
        inputs: A spec for each input, by name.
        outputs: A spec for each output, by name.
    """

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def of(cls, name: str, definition: meta_graph_pb2.SignatureDef) -> Signature:
        """Reads a `SignatureDef` message.

        Args:
            name: The signature's name.
            definition: The message.

        Returns:
            The signature.
        """
        inputs, outputs = _specs(definition.inputs), _specs(definition.outputs)
        return cls(name, definition.method_name, inputs, outputs)

    def convert(self, inputs: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Checks a call's inputs.

        Args:
            inputs: An array for each input, by name.

        Returns:
            The arrays as tensors, in the signature's order.

        Raises:
            ServingError: INVALID_ARGUMENT, if the names, or an array's dtype or shape differ.
        """
        if self.inputs.keys() != inputs.keys():
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Signature {self.name!r} takes the inputs {sorted(self.inputs)}. "
                f"Received: inputs={sorted(inputs)}",
            )
        return {name: spec.convert(inputs[name]) for name, spec in self.inputs.items()}

    def wanted_outputs(self, output_filter: Sequence[str]) -> Sequence[str]:
        """Checks an output filter.

        Args:
            output_filter: Names of the outputs to return; none returns all.

        Returns:
            The names of the outputs to return.

        Raises:
            ServingError: INVALID_ARGUMENT, if there is no such output, or one is named twice.
        """
        for name in output_filter:
            if name not in self.outputs:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"output tensor alias not found in signature: {name} Outputs expected to be in "
                    f"the set {{{','.join(sorted(self.outputs))}}}.",
                )
            if list(output_filter).count(name) > 1:
                raise ServingError("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
        return output_filter or list(self.outputs)


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Looks a signature up.

    Args:
        signatures: A model's signatures.
        name: The signature's name; `""` is the default one, as in TF Serving.

    Returns:
        The signature.

    Raises:
        ServingError: INVALID_ARGUMENT, if the model has no such signature.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise ServingError(
            "INVALID_ARGUMENT",
            f"Serving signature name: {name!r} not found in signature def; "
            f"the model has {sorted(signatures)}.",
        )
    return signatures[name]


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
