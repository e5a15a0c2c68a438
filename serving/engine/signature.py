"""What a SavedModel's signatures take and give, and whether an array fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
