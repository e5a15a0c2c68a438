"""TF Serving's configuration files, in protobuf's text format.

`ModelServerConfig` is part of tensorflow-serving-api. `BatchingParameters`, `MonitoringConfig` and
`SSLConfig` are not: their fields are listed here.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any, TypeVar

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
  name: "SSLConfig"
  field { name: "server_key" number: 1 type: TYPE_STRING }
  field { name: "server_cert" number: 2 type: TYPE_STRING }
  field { name: "custom_ca" number: 3 type: TYPE_STRING }
  field { name: "client_verify" number: 4 type: TYPE_BOOL }
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
BatchingParameters, MonitoringConfig, SSLConfig = (
    message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"keras_multiception.{name}"))
    for name in ("BatchingParameters", "MonitoringConfig", "SSLConfig")
)


def read_config(path: str | Path, message: type[M]) -> M:
    """Reads a file; raises a `ValueError` if it cannot be read or is no such message."""
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), message())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ValueError(
            f"`{path}` must hold one {message.DESCRIPTOR.name} in protobuf's text format. "
            f"Received: {error}"
        ) from error


def read_ssl_config(path: str | Path) -> Message:
    """Reads an `SSLConfig` and checks its PEM texts, which gRPC refuses without a reason."""
    config: Any = read_config(path, SSLConfig)
    try:
        if config.client_verify and not config.custom_ca:
            raise ValueError("client_verify without custom_ca")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if config.custom_ca:
            context.load_verify_locations(cadata=config.custom_ca)
        with tempfile.NamedTemporaryFile("w") as file:  # `ssl` reads keys from files only
            file.write(f"{config.server_key}\n{config.server_cert}\n")
            file.flush()
            context.load_cert_chain(file.name, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"`{path}` must hold a server_key and its server_cert, and may hold a custom_ca to "
            f"verify clients with, all as PEM texts. Received: {error}"
        ) from error
    return config


def single_model(name: str, base_path: str | Path) -> ModelServerConfig:
    """Makes the configuration of a server of one model."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform="tensorflow"
    )
    return config
