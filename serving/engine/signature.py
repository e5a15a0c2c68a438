"""What a model's signatures take and give, and whether an array fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.errors import invalid

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, dtype and shape in a signature.

    `None` in the shape is a free dimension; `None` in place of the shape is any rank.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    def check(self, value: np.ndarray) -> np.ndarray:
        """Refuses an array of another dtype or shape; text and bytes become objects."""
        value = np.asarray(value)
        if value.dtype.kind in "SU":
            value = value.astype(object)
        if value.dtype != np.dtype(self.dtype.as_numpy_dtype):
            raise invalid(
                f"Input `{self.name}` must be of dtype {self.dtype.name}. "
                f"Received: dtype={value.dtype}"
            )
        if not self._fits(value.shape):
            raise invalid(
                f"Input `{self.name}` must be of shape {_shape_text(self.shape or ())}. "
                f"Received: shape={_shape_text(value.shape)}"
            )
        return value

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(own in (None, size) for own, size in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """What one signature takes and gives; its method name is `tensorflow/serving/predict`, ..."""

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def from_proto(cls, name: str, definition: meta_graph_pb2.SignatureDef) -> Signature:
        """Reads a `SignatureDef` message."""
        inputs, outputs = _specs(definition.inputs), _specs(definition.outputs)
        return cls(name, definition.method_name, inputs, outputs)

    def check_inputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Refuses a call's inputs if their names, dtypes or shapes differ; orders them."""
        if self.inputs.keys() != inputs.keys():
            raise invalid(
                f"Signature {self.name!r} takes the inputs {sorted(self.inputs)}. "
                f"Received: inputs={sorted(inputs)}"
            )
        return {name: spec.check(inputs[name]) for name, spec in self.inputs.items()}

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


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorSpec]:
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
