"""Models served over REST and gRPC in this process, for the length of a `with` block."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.http.http_protocol import LimitedHttpProtocol
from serving.http.rest import METRICS_PATH, RestApi, create_app
from serving.lifecycle.loading import DEFAULT_LOADING, Loading
from serving.lifecycle.models import Models
from serving.page.page import page_routes
from serving.rpc.grpc_server import grpc_server
from serving.telemetry import Telemetry

_GRACE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 30
_MAX_THREADS = 256


@dataclass(frozen=True)
class ServerOptions:
    """How to serve, in the words of TF Serving's flags.

    Args:
        host: The address that the REST port is listened on, for gRPC too.
        port: gRPC's port; 0 takes a free one, `None` serves no gRPC.
        loading: How versions are found and loaded.
        allow_version_labels_for_unavailable_models: Whether new labels may be given to versions
            that are not loaded.
        rest_api_num_threads: Threads that answer REST calls; `None` for enough to fill a batch.
        grpc_max_threads: The same for gRPC.
        rest_api_timeout_in_ms: Milliseconds for a REST call to be answered.
        grpc_channel_arguments: gRPC's own arguments.
        metrics_path: Where the metrics page is, from the slash on; `None` for none.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    loading: Loading = DEFAULT_LOADING
    allow_version_labels_for_unavailable_models: bool = False
    rest_api_num_threads: int | None = None
    grpc_max_threads: int | None = None
    rest_api_timeout_in_ms: int = 30_000
    grpc_channel_arguments: Sequence[tuple[str, int | str]] = ()
    metrics_path: str | None = METRICS_PATH


DEFAULT_OPTIONS = ServerOptions()


@dataclass(frozen=True)
class ModelServer:
    """A server that runs.

    Args:
        url: REST's URL, `http://HOST:PORT`.
        grpc_address: gRPC's `HOST:PORT`; `None` without gRPC.
        models: The models.
        stopped: Set when the web server has stopped.
    """

    url: str
    grpc_address: str | None
    models: Models
    stopped: threading.Event


@contextmanager
def model_server(
    config: ModelServerConfig, listener: socket.socket, options: ServerOptions = DEFAULT_OPTIONS
) -> Iterator[ModelServer]:
    """Serves models while the `with` block runs; at its end open calls finish.

    Args:
        config: The models.
        listener: The socket that REST listens on.
        options: How to serve.

    Yields:
        The server, once its models are loaded.

    Raises:
        ValueError: If the configuration cannot be served, or an option cannot be used.
        ServingError: If a label's version is not loaded.
        OSError: If gRPC's port is in use.
    """
    telemetry = Telemetry()
    enough = _enough_threads(options.loading)
    host = f"[{options.host}]" if ":" in options.host else options.host
    models = Models(config, options.loading, options.allow_version_labels_for_unavailable_models)
    executor = ThreadPoolExecutor(options.rest_api_num_threads or enough, "rest")
    api = RestApi(models, telemetry, executor, options.rest_api_timeout_in_ms / 1000)
    app = create_app(api, options.metrics_path, page_routes(models, options.metrics_path))
    with models, ExitStack() as stopping:
        stopping.callback(executor.shutdown, wait=False)  # after REST's last call
        rest, stopped = stopping.enter_context(_rest_server(app, listener))
        url = f"http://{host}:{listener.getsockname()[1]}"
        try:
            if options.port is None:
                yield ModelServer(url, None, models, stopped)
                return
            with grpc_server(
                models,
                telemetry,
                f"{host}:{options.port}",
                max_threads=options.grpc_max_threads or enough,
                grace_seconds=_GRACE_SECONDS,
                options=options.grpc_channel_arguments,
            ) as port:
                try:
                    yield ModelServer(url, f"{host}:{port}", models, stopped)
                finally:
                    rest.should_exit = True  # both let their open calls finish at once
        finally:
            rest.should_exit = True


def _enough_threads(loading: Loading) -> int:
    """A batch forms of calls that wait in threads: TF Serving's guide asks for twice its size."""
    waiting = 2 * loading.batching.max_batch_size if loading.batching else 0
    return min(_MAX_THREADS, max(waiting, 4 * (os.cpu_count() or 1)))


@contextmanager
def _rest_server(
    app: Starlette, listener: socket.socket
) -> Iterator[tuple[uvicorn.Server, threading.Event]]:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedHttpProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
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
