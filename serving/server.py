"""Serves a SavedModel over TF Serving's REST API, in this process.

    python -m serving.server --model_name NAME --model_base_path DIR --rest_api_port PORT

The flags are TensorFlow Serving's own. From Python, `running` does the same for the length of a
`with` block.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import uvicorn

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from serving.versions import ServedModel

_GRACE_SECONDS = 30
_MAX_PORT = 65535


@contextmanager
def running(
    model_base_path: str | Path,
    *,
    model_name: str = "default",
    rest_api_port: int = 0,
    rest_api_host: str = "127.0.0.1",
    file_system_poll_wait_seconds: float = 1.0,
) -> Iterator[str]:
    """Serves the latest version under a base path while the `with` block runs.

    Args:
        model_base_path: The folder that holds one SavedModel folder per version.
        model_name: The model's name in the URL.
        rest_api_port: The port to listen on; 0 takes a free one.
        rest_api_host: The address to listen on.
        file_system_poll_wait_seconds: Seconds between two looks for a new version; 0 looks once.

    Yields:
        The server's URL, `http://HOST:PORT`: what `serving.client.predict` takes. The model is at
        `/v1/models/NAME` under it.

    Raises:
        ValueError: If the base path is missing, holds no version or a latest one that does not
            load, or if the name or a number is not one that can be used.
        OSError: If the port is in use, or the address is not this machine's.

    Example:
        >>> with running("models/digits", model_name="digits") as url:
        ...     [answer] = serving.client.predict(["seven.png"], url, model_name="digits")
    """
    with _serving(
        model_name, model_base_path, rest_api_port, rest_api_host, file_system_poll_wait_seconds
    ) as (url, _, _):
        yield url


@contextmanager
def _serving(
    name: str, base_path: str | Path, port: int, host: str, poll_wait_seconds: float
) -> Iterator[tuple[str, ServedModel, threading.Event]]:
    with _listen(host, port) as listener:
        # TensorFlow takes seconds to import: only once the port is ours.
        from serving.rest import create_app
        from serving.versions import ServedModel

        with (
            ServedModel(name, base_path, poll_wait_seconds) as model,
            _answering(create_app({name: model}), listener) as stopped,
        ):
            address = f"[{host}]" if ":" in host else host
            yield f"http://{address}:{listener.getsockname()[1]}", model, stopped


@contextmanager
def _answering(app: Starlette, listener: socket.socket) -> Iterator[threading.Event]:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
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
        yield stopped
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _MAX_PORT:
        raise ValueError(
            f"`rest_api_port` must be from 0 to {_MAX_PORT}. Received: rest_api_port={port}"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is already in use.") from error
        raise OSError(f"Cannot listen on port {port} of {host}: {error.strerror}.") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be from 0 to {_MAX_PORT}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m serving.server",
        description="Serve the latest version of a SavedModel over TF Serving's REST API.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model_name", default="default", help="the model's name in the URL (default: %(default)s)"
    )
    parser.add_argument(
        "--model_base_path", required=True, help="the folder of integer-named version folders"
    )
    parser.add_argument(
        "--rest_api_port",
        type=_port,
        default=8501,
        help="the port to listen on; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--rest_api_host",
        default="127.0.0.1",
        help="the address to listen on (default: %(default)s)",
    )
    parser.add_argument(
        "--file_system_poll_wait_seconds",
        type=_seconds,
        default=1.0,
        help="seconds between two looks for a new version; 0 looks once (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _stop(*_) -> NoReturn:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line: serves until SIGTERM or SIGINT, and then lets open requests finish.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code of a server that failed. One that was asked to stop exits with 0.
    """
    flags = _parse(arguments)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _serving(
            flags.model_name,
            flags.model_base_path,
            flags.rest_api_port,
            flags.rest_api_host,
            flags.file_system_poll_wait_seconds,
        ) as (url, model, stopped):
            version = model.servable().version
            print(
                f"Serving {model.name} version {version} at {url}/v1/models/{model.name}",
                flush=True,
            )
            # A signal may interrupt this wait but, in Python 3.11, not a `Thread.join`: the thread
            # would then pass for finished, and its open requests would be dropped.
            stopped.wait()
            raise OSError("The web server stopped by itself.")
    except (ValueError, OSError) as error:
        print(f"serving.server: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
