"""`TensorProto` messages to arrays and back."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.engine.errors import ServingError

# A message of a few bytes may claim any shape, which its one value then fills.
MAX_TENSOR_BYTES = 2**28
_STRING_BYTES = 24  # what a string takes in a tensor besides its own bytes
_VALUE_FIELDS = {
    tf.bool: "bool_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.uint16: "int_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.string: "string_val",
}


def read_tensor(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Turns a message into an array.

    Args:
        name: The tensor's name, for the error.
        proto: The message.

    Returns:
        The array; strings as `bytes` objects.

    Raises:
        ServingError: INVALID_ARGUMENT, if the message is damaged or too large.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        dtype = tf.as_dtype(proto.dtype)
        count = int(np.prod(shape, dtype=object))
        size = count * max(1, dtype.size or _STRING_BYTES)
        if dtype == tf.string and proto.string_val:
            padding = max(0, count - len(proto.string_val)) * len(proto.string_val[-1])
            size += sum(map(len, proto.string_val)) + padding
        if proto.tensor_shape.unknown_rank or any(length < 0 for length in shape):
            raise ValueError("its shape is not known")
        if size > MAX_TENSOR_BYTES:
            raise ValueError(f"it takes {size} bytes, more than {MAX_TENSOR_BYTES}")
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise ServingError(
            "INVALID_ARGUMENT", f"Input `{name}` is not a valid TensorProto: {error}"
        ) from error


def write_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Turns an array into a message, with its values in the field of its type as TF Serving does.

    Args:
        array: The array; strings as `bytes` objects.

    Returns:
        The message.
    """
    dtype = tf.string if array.dtype.kind == "O" else tf.as_dtype(array.dtype)
    if dtype not in _VALUE_FIELDS:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    getattr(proto, _VALUE_FIELDS[dtype]).extend(array.ravel().tolist())
    return proto
