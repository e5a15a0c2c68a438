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
    wrappers_pb2,  # noqa: F401  (what the file below depends on)
)
from google.protobuf.message import Message
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

M = TypeVar("M", bound=Message)

_FILE = """
name: "keras_multiception/serving_config.proto" package: "keras_multiception" syntax: "proto3"
dependency: "google/protobuf/wrappers.proto"
message_type {
  name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
}
message_type {
  name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type_name: "PrometheusConfig" }
}
message_type {
  name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL }
  field { name: "path" number: 2 type: TYPE_STRING }
}
"""
_POOL = descriptor_pool.Default()
_PROTO = text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto())
_POOL.AddSerializedFile(_PROTO.SerializeToString())
BatchingParameters, MonitoringConfig = (
    message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"keras_multiception.{name}"))
    for name in ("BatchingParameters", "MonitoringConfig")
)


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
