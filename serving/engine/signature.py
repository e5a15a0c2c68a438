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
class Signature:
    """What one signature takes and gives; its method name is `tensorflow/serving/predict`, ..."""

    name: str
    method_name: str
    inputs: Mapping[str, tf.TensorSpec]
    outputs: Mapping[str, tf.TensorSpec]

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
