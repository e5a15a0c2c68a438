"""TF Serving's configuration files, in protobuf's text format.

`ModelServerConfig` is part of tensorflow-serving-api. `BatchingParameters` and `MonitoringConfig`
are not: their fields are listed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

M = TypeVar("M", bound=Message)

_INT64, _STRING = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
# Message: its fields, each with the name of a message type or of a scalar type of protobuf.
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "max_enqueued_batches": _INT64,
        "num_batch_threads": _INT64,
        "thread_pool_name": _STRING,
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": ".keras_multiception.PrometheusConfig"},
}


def read_config(path: str | Path, message: type[M]) -> M:
    """Reads a file; raises a `ValueError` if it cannot be read or is no such message."""
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), message())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = getattr(error, "strerror", None) or str(error).replace("\n", " ")
        raise ValueError(
            f"`{path}` must be a {message.DESCRIPTOR.name} in protobuf's text format. "
            f"Received: {reason}"
        ) from error


def single_model(name: str, base_path: str | Path) -> ModelServerConfig:
    """Makes the configuration of a server of one model."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform="tensorflow"
    )
    return config


def _message_types() -> dict[str, type[Message]]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_multiception/serving_config.proto",
        package="keras_multiception",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(fields.items(), 1):
            label, _, scalar = kind.rpartition(" ")
            own = added.field.add(name=name, number=number)
            own.label = field.LABEL_REPEATED if label else field.LABEL_OPTIONAL
            if scalar.startswith("."):
                own.type, own.type_name = field.TYPE_MESSAGE, scalar
            else:
                own.type = field.Type.Value(f"TYPE_{scalar.upper()}")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in _MESSAGES
    }


_TYPES = _message_types()
BatchingParameters = _TYPES["BatchingParameters"]
MonitoringConfig = _TYPES["MonitoringConfig"]
