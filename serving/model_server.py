"""Models served over REST and gRPC in this process, for the length of a `with` block."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.api.grpc_service import grpc_server
from serving.api.rest import METRICS_PATH, RestApi
from serving.lifecycle.models import Models
from serving.lifecycle.versions import Loading
from serving.page import page_routes
from serving.telemetry import Telemetry

MAX_HEAD_BYTES = 64 * 2**10  # of a request's first line and headers
_GRACE_SECONDS = 30
_MAX_THREADS = 256


@dataclass(frozen=True)
class ServerOptions:
    """How to serve, in the words of TF Serving's flags."""

    host: str = "127.0.0.1"  # that the REST port is listened on, for gRPC too
    port: int | None = None  # gRPC's: 0 takes a free one, `None` serves no gRPC
    loading: Loading = field(default_factory=Loading)
    allow_version_labels_for_unavailable_models: bool = False
    rest_api_num_threads: int | None = None  # `None` for enough to fill a batch
    grpc_max_threads: int | None = None
    rest_api_timeout_in_ms: int = 30_000
    rest_api_keep_alive_seconds: int = 75  # load balancers hold idle connections for 60
    rest_api_enable_cors_support: bool = False
    grpc_channel_arguments: Sequence[tuple[str, int | str]] = ()
    ssl_config: Any = None  # an `SSLConfig` for gRPC
    metrics_path: str | None = METRICS_PATH  # from the slash on; `None` for no metrics


@dataclass(frozen=True)
class ModelServer:
    """A server that runs."""

    url: str  # REST's, `http://HOST:PORT`
    grpc_address: str | None
    models: Models
    stopped: threading.Event  # set when the web server has stopped


@contextmanager
def model_server(
    config: ModelServerConfig, listener: socket.socket, options: ServerOptions
) -> Iterator[ModelServer]:
    """Serves models in the `with` block, REST on `listener`; at its end open calls finish."""
    telemetry = Telemetry()
    # A batch forms of calls that wait in threads: TF Serving's guide asks for twice its size.
    batching = options.loading.batching
    waiting = 2 * batching.max_batch_size if batching else 0
    enough = min(_MAX_THREADS, max(waiting, 4 * (os.cpu_count() or 1)))
    host = f"[{options.host}]" if ":" in options.host else options.host
    models = Models(config, options.loading, options.allow_version_labels_for_unavailable_models)
    executor = ThreadPoolExecutor(options.rest_api_num_threads or enough, "rest")
    api = RestApi(models, telemetry, executor, options.rest_api_timeout_in_ms / 1000)
    app = api.app(
        options.metrics_path,
        page_routes(models, options.metrics_path),
        options.rest_api_enable_cors_support,
    )
    with models, ExitStack() as stopping:
        stopping.callback(executor.shutdown, wait=False)  # after REST's last call
        keep_alive = options.rest_api_keep_alive_seconds
        rest, stopped = stopping.enter_context(_rest_server(app, listener, keep_alive))
        url, grpc_address = f"http://{host}:{listener.getsockname()[1]}", None
        if options.port is not None:
            running_grpc = grpc_server(
                models,
                telemetry,
                f"{host}:{options.port}",
                max_threads=options.grpc_max_threads or enough,
                grace_seconds=_GRACE_SECONDS,
                options=options.grpc_channel_arguments,
                ssl_config=options.ssl_config,
            )
            grpc_address = f"{host}:{stopping.enter_context(running_grpc)}"
        # First of all, so that both let their open calls finish at once.
        stopping.callback(setattr, rest, "should_exit", True)
        yield ModelServer(url, grpc_address, models, stopped)


@contextmanager
def _rest_server(
    app: Starlette, listener: socket.socket, keep_alive_seconds: int
) -> Iterator[tuple[uvicorn.Server, threading.Event]]:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",  # httptools drops the body of a POST that offers an upgrade
            ws="none",
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            lifespan="off",
            log_level="error",  # without a line for each bad request or offer to upgrade
            access_log=False,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    stopped = threading.Event()

    def serve() -> None:
        try:
            server.run([listener])
        finally:
            stopped.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        while not server.started and not stopped.is_set():
            time.sleep(0.01)
        if not server.started:
            raise OSError("The web server did not start.")
        yield server, stopped
    finally:
        server.should_exit = True
        thread.join()
