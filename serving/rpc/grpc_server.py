"""A gRPC server of TF Serving's services, with standard health checking and reflection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.http.request_body import MAX_BODY_BYTES
from serving.lifecycle.models import Models
from serving.rpc.grpc_service import ModelService, PredictionService
from serving.telemetry import Telemetry

_SERVICES = (
    prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # two servers must not share a port unnoticed
    ("grpc.keepalive_time_ms", 30_000),  # a peer that has gone away unnoticed is let go
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)


@contextmanager
def grpc_server(
    models: Models,
    telemetry: Telemetry,
    address: str,
    *,
    max_threads: int,
    grace_seconds: float,
    options: Sequence[tuple[str, int | str]] = (),
) -> Iterator[int]:
    """Serves models over gRPC while the `with` block runs.

    Args:
        models: The models.
        telemetry: Where calls are recorded.
        address: `HOST:PORT`; port 0 takes a free one.
        max_threads: How many calls are answered at once.
        grace_seconds: Seconds for open calls to finish at the end.
        options: gRPC channel arguments, over our own.

    Yields:
        The port.

    Raises:
        OSError: If it cannot listen there.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_threads, "grpc"), options=[*_OPTIONS, *options], compression=None
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models, telemetry), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(models, telemetry), server
    )
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    for name in ("", *_SERVICES):
        state.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"Cannot listen on {address} for gRPC: {error}.") from error
    server.start()
    try:
        yield port
    finally:
        state.enter_graceful_shutdown()
        server.stop(grace_seconds).wait()
