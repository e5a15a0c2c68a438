"""Serves SavedModels over TF Serving's REST and gRPC APIs, in this process.

    python -m serving.server --model_name NAME --model_base_path DIR --port P --rest_api_port PORT

The flags are TensorFlow Serving's own. From Python, `running` does the same for the length of a
`with` block.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import quote

from serving.command_line import MAX_PORT, run_command
from serving.server_flags import parse

if TYPE_CHECKING:
    from serving.model_server import ServerOptions

# Unsent data of a peer that has gone away is given up after so long.
_PEER_TIMEOUT_MS = 30_000


@contextmanager
def running(
    model_base_path: str | Path,
    *,
    model_name: str = "default",
    rest_api_port: int = 0,
    rest_api_host: str = "127.0.0.1",
    file_system_poll_wait_seconds: float = 1.0,
) -> Iterator[str]:
    """Serves the latest version under a base path over REST while the `with` block runs.

    The arguments are the server's flags. For several models, gRPC and batching see
    `serving.model_server.model_server`.

    Yields:
        The server's URL, `http://HOST:PORT`: what `serving.client.predict` takes.

    Raises:
        ValueError: If there is no version that loads, or an argument cannot be used.
        OSError: If the port is in use, or the address is not this machine's.

    Example:
        >>> with running("models/digits", model_name="digits") as url:
        ...     [answer] = serving.client.predict(["seven.png"], url, model_name="digits")
    """
    with listen(rest_api_host, rest_api_port) as listener:
        # TensorFlow takes seconds to import: only once the port is ours.
        from serving.config_files import single_model
        from serving.lifecycle.loading import Loading
        from serving.model_server import ServerOptions, model_server

        config = single_model(model_name, model_base_path)
        options = ServerOptions(rest_api_host, loading=Loading(file_system_poll_wait_seconds))
        with model_server(config, listener, options) as server:
            yield server.url


class ServerProcess(NamedTuple):
    """Where a server that runs in another process is."""

    url: str
    grpc_address: str
    process_id: int


@contextmanager
def running_server(flags: Sequence[str]) -> Iterator[ServerProcess]:
    """Runs `python -m serving.server` on free ports while the `with` block runs."""
    command = [sys.executable, "-m", "serving.server", "--port=0", "--rest_api_port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [next(iter(process.stdout or ()), "").strip() for _ in range(2)]
            if " at http" not in lines[0]:
                raise RuntimeError("The server did not start: see the message above.")
            url, address = (line.split(" at ")[-1] for line in lines)
            yield ServerProcess(url.split("/v1/")[0], address, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket that REST listens on; port 0 takes a free one."""
    if not 0 <= port <= MAX_PORT:
        raise ValueError(
            f"`rest_api_port` must be from 0 to {MAX_PORT}. Received: rest_api_port={port}"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is already in use.") from error
        raise OSError(f"Cannot listen on port {port} of {host}: {error.strerror}.") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer is two packets
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_TIMEOUT_MS)
    return listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, then lets open requests finish; returns an exit code."""
    flags = parse(arguments)
    _on_stop_signals(_exit_at_once)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return run_command("serving.server", lambda: _serve(flags))


def _serve(flags: argparse.Namespace) -> NoReturn:
    with listen(flags.rest_api_host, flags.rest_api_port) as listener:
        import tensorflow as tf

        from serving.config_files import ModelServerConfig, read_config, single_model
        from serving.lifecycle.models import following
        from serving.model_server import model_server

        threads, both = tf.config.threading, flags.tensorflow_session_parallelism
        if within := flags.tensorflow_intra_op_parallelism or both:
            threads.set_intra_op_parallelism_threads(within)
        if at_once := flags.tensorflow_inter_op_parallelism or both:
            threads.set_inter_op_parallelism_threads(at_once)
        if flags.access_log:
            _write_access_log(flags.access_log)
        file = flags.model_config_file
        config = (
            read_config(file, ModelServerConfig)
            if file
            else single_model(flags.model_name, flags.model_base_path)
        )
        poll_wait_seconds = flags.model_config_file_poll_wait_seconds
        with (
            model_server(config, listener, _options(flags)) as server,
            following(server.models, file, poll_wait_seconds),
        ):
            _on_stop_signals(_stop)
            for model in server.models:
                version = model.servable().version
                url = f"{server.url}/v1/models/{quote(model.name, safe='')}"
                print(f"Serving {model.name} version {version} at {url}")
            print(f"Serving gRPC at {server.grpc_address}", flush=True)
            # A signal may interrupt this wait but, in Python 3.11, not a `Thread.join`: the thread
            # would then pass for finished, and its open requests would be dropped.
            server.stopped.wait()
            raise OSError("The web server stopped by itself.")


def _options(flags: argparse.Namespace) -> ServerOptions:
    from serving.api.rest import METRICS_PATH
    from serving.config_files import MonitoringConfig, read_config
    from serving.engine.batching import Batching, read_batching
    from serving.lifecycle.loading import Loading
    from serving.model_server import ServerOptions

    batching = None
    metrics_path: str | None = METRICS_PATH
    if flags.enable_batching:
        file = flags.batching_parameters_file
        batching = read_batching(file) if file else Batching()
    if flags.monitoring_config_file:
        prometheus = read_config(flags.monitoring_config_file, MonitoringConfig).prometheus_config
        metrics_path = (prometheus.path or METRICS_PATH) if prometheus.enable else None

    def options(kind: type, **more: object) -> dict[str, Any]:
        return more | {name: v for name, v in vars(flags).items() if name in kind.__annotations__}

    loading = Loading(**options(Loading, batching=batching))
    more = {"host": flags.rest_api_host, "loading": loading, "metrics_path": metrics_path}
    return ServerOptions(**options(ServerOptions, **more))


def _write_access_log(file: str) -> None:
    from serving.telemetry import ACCESS_LOG

    handler = logging.StreamHandler() if file == "-" else logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ACCESS_LOG.addHandler(handler)
    ACCESS_LOG.setLevel(logging.INFO)


def _on_stop_signals(handler: Callable[..., NoReturn]) -> None:
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)


def _exit_at_once(*_: object) -> NoReturn:
    """Ends a server that does not serve yet: an exception could be lost in a package's callback."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
