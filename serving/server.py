"""Serves SavedModels over TF Serving's REST and gRPC APIs, in this process.

    python -m serving.server --model_name NAME --model_base_path DIR --port P --rest_api_port PORT

The flags are TensorFlow Serving's own. From Python, `running` does the same for the length of a
`with` block.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from serving.command_line import MAX_PORT, Parser, boolean, number, run_command, whole_number

if TYPE_CHECKING:
    from serving.model_server import ServerOptions


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(key and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE,KEY=VALUE, not {text!r}")
    return [(key, int(v) if v.lstrip("-").isdecimal() else v) for key, _, v in pairs]


_count, _some, _port = whole_number(), whole_number(1), whole_number(0, MAX_PORT)
_seconds = number()
ENGINES = ("tensorflow", "onnxruntime", "openvino")

# Flag: its type, its default, what it is.
_FLAGS: dict[str, tuple[Callable[[str], Any], object, str]] = {
    "port": (_port, 8500, "the port to listen on for gRPC; 0 takes a free one"),
    "rest_api_port": (_port, 8501, "the port to listen on for REST; 0 takes a free one"),
    "rest_api_host": (str, "127.0.0.1", "the address to listen on, for gRPC too"),
    "rest_api_num_threads": (_some, None, "threads that answer REST calls"),
    "rest_api_timeout_in_ms": (_some, 30_000, "time for a REST call to be answered"),
    "rest_api_keep_alive_seconds": (_count, 75, "how long idle connections stay open"),
    "rest_api_enable_cors_support": (boolean, False, "let pages of other servers call REST"),
    "grpc_max_threads": (_some, None, "threads that answer gRPC calls"),
    "ssl_config_file": (_file, None, "an SSLConfig: TLS for gRPC; REST stays plain"),
    "grpc_channel_arguments": (_channel_arguments, [], "gRPC's arguments, KEY=VALUE,..."),
    "model_name": (str, "default", "the model's name in the URL"),
    "model_base_path": (str, "", "the folder of integer-named version folders"),
    "model_config_file": (_file, None, "a ModelServerConfig, in place of name and base path"),
    "model_config_file_poll_wait_seconds": (_seconds, 0.0, "between two readings; 0 reads it once"),
    "allow_version_labels_for_unavailable_models": (boolean, False, "for new labels only"),
    "file_system_poll_wait_seconds": (_seconds, 1.0, "between looks for versions; 0 looks once"),
    "max_num_load_retries": (_count, 5, "tries again of a version that did not load"),
    "load_retry_interval_micros": (_count, 60_000_000, "microseconds between such tries"),
    "enable_model_warmup": (boolean, True, "replay a version's warm-up requests first"),
    "num_request_iterations_for_warmup": (_count, 0, "how often; 0 is once"),
    "enable_signature_method_name_check": (boolean, False, "before classify and regress"),
    "prefer_tflite_model": (boolean, False, "serve model.tflite, where there is one"),
    "num_tflite_pools": (_some, None, "pools of LiteRT interpreters; one per processor"),
    "num_tflite_interpreters_per_pool": (_some, 1, "interpreters in such a pool"),
    "engine": (str, "tensorflow", "or onnxruntime or openvino, for versions with model.onnx"),
    "enable_batching": (boolean, False, "run concurrent calls as one batch"),
    "batching_parameters_file": (_file, None, "BatchingParameters, for --enable_batching"),
    "monitoring_config_file": (_file, None, "a MonitoringConfig: the metrics page's path"),
    "tensorflow_session_parallelism": (_count, 0, "sets both of the next two"),
    "tensorflow_intra_op_parallelism": (_count, 0, "threads in an operation; 0 lets TensorFlow"),
    "tensorflow_inter_op_parallelism": (_count, 0, "operations at once; 0 lets TensorFlow"),
    "access_log": (str, "-", "a file for the access log, - for stderr, '' for none"),
}
# TensorFlow Serving's flags without a meaning here are accepted with a warning. These only with the
# values listed: any other would change what is served, or how safely.
_ONLY_DEFAULT = {
    "enable_per_model_batching_parameters": ("false", "0"),
    "grpc_socket_path": ("",),
    "mixed_precision": ("",),
    "platform_config_file": ("",),
    "saved_model_tags": ("", "serve"),
    "tensorflow_session_config_file": ("",),
    "thread_pool_factory_config_file": ("",),
    "use_alts_credentials": ("false", "0"),
}
_IGNORED = (
    "enable_grpc_healthcheck_service",
    "enable_profiler",
    "enable_serialization_as_tensor_content",
    "flush_filesystem_caches",
    "num_load_threads",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "remove_unused_fields_from_bundle_metagraph",
    "skip_initialize_tpu",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
)


@contextmanager
def running(
    model_base_path: str | Path,
    *,
    model_name: str = "default",
    rest_api_port: int = 0,
    rest_api_host: str = "127.0.0.1",
    file_system_poll_wait_seconds: float = 1.0,
) -> Iterator[str]:
    """Serves the latest version under a base path over REST in the `with` block; yields the URL.

    The arguments are the server's flags. For several models, gRPC and batching see
    `serving.model_server.model_server`.

    Example:
        >>> with running("models/digits", model_name="digits") as url:
        ...     [answer] = serving.client.predict(["digit.png"], url, model_name="digits")
    """
    with listen(rest_api_host, rest_api_port) as listener:
        # TensorFlow takes seconds to import: only once the port is ours.
        import keras_multiception  # noqa: F401 # isort: skip (then TensorFlow loads quietly)
        from serving.config_files import single_model
        from serving.lifecycle.versions import Loading
        from serving.model_server import ServerOptions, model_server

        config = single_model(model_name, model_base_path)
        options = ServerOptions(rest_api_host, loading=Loading(file_system_poll_wait_seconds))
        with model_server(config, listener, options) as server:
            yield server.url


@contextmanager
def running_server(flags: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Runs `python -m serving.server` on free ports; yields its URL, gRPC address and process."""
    command = [sys.executable, "-m", "serving.server", "--port=0", "--rest_api_port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [next(iter(process.stdout or ()), "").strip() for _ in range(2)]
            if " at http" not in lines[0]:
                raise RuntimeError("The server did not start: see the message above.")
            url, address = (line.split(" at ")[-1] for line in lines)
            yield url.split("/v1/")[0], address, process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket that REST listens on; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"Cannot listen on port {port} of {host}: {reason}.") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer is two packets
    return listener


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the server's command line into a value for each flag."""
    parser = Parser(
        "serving.server",
        "Serve SavedModels and LiteRT models over TF Serving's REST and gRPC APIs.",
    )
    for name, (kind, default, text) in _FLAGS.items():
        shown = f"{text} (default: %(default)s)" if default not in (None, [], "") else text
        more: dict[str, Any] = {"nargs": "?", "const": True} if kind is boolean else {}
        if name == "engine":
            more = {"choices": ENGINES}
        parser.add_argument(f"--{name}", type=kind, default=default, help=shown, **more)
    for name in (*_ONLY_DEFAULT, *_IGNORED):
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--version",
        action="version",
        version=f"serving.server, on TensorFlow {importlib.metadata.version('tensorflow')}",
    )
    flags = parser.parse_args(arguments)
    if not (flags.model_base_path or flags.model_config_file):
        parser.error("one of --model_base_path and --model_config_file is required")
    if flags.batching_parameters_file and not flags.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    for name, values in _ONLY_DEFAULT.items():
        if (value := getattr(flags, name)) is not None and value.lower() not in values:
            parser.error(f"argument --{name}: is not supported here, with the value {value!r}")
    given = [name for name in (*_ONLY_DEFAULT, *_IGNORED) if getattr(flags, name) is not None]
    if given:
        names = ", ".join(f"--{name}" for name in given)
        print(f"{parser.prog}: warning: ignored, without a meaning here: {names}", file=sys.stderr)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, then lets open requests finish; returns an exit code."""
    flags = parse(arguments)
    # Until it serves: an exception could be lost in a package's callback.
    _on_stop_signals(lambda *_: os._exit(0))
    return run_command("serving.server", lambda: _serve(flags))


def _serve(flags: argparse.Namespace) -> NoReturn:
    logging.basicConfig()  # before TensorFlow, which adds a handler where there is none
    logging.getLogger("serving").setLevel(logging.INFO)
    with listen(flags.rest_api_host, flags.rest_api_port) as listener:
        import keras_multiception  # noqa: F401 # isort: skip (then TensorFlow loads quietly)
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
        config = single_model(flags.model_name, flags.model_base_path)
        if file := flags.model_config_file:
            config = read_config(file, ModelServerConfig)
        with (
            model_server(config, listener, _options(flags)) as server,
            following(server.models, file, flags.model_config_file_poll_wait_seconds),
        ):
            _on_stop_signals(lambda *_: sys.exit(0))
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
    from serving.config_files import MonitoringConfig, read_config, read_ssl_config
    from serving.engine.batching import Batching, read_batching
    from serving.lifecycle.versions import Loading
    from serving.model_server import ServerOptions

    batching = None
    metrics_path: str | None = METRICS_PATH
    if flags.enable_batching:
        file = flags.batching_parameters_file
        batching = read_batching(file) if file else Batching()
    if flags.monitoring_config_file:
        prometheus = read_config(flags.monitoring_config_file, MonitoringConfig).prometheus_config
        path = f"/{prometheus.path.lstrip('/')}" if prometheus.path else METRICS_PATH
        metrics_path = path if prometheus.enable else None

    def options(kind: type, **more: object) -> dict[str, Any]:
        return more | {name: v for name, v in vars(flags).items() if name in kind.__annotations__}

    threads = flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism
    loading = Loading(**options(Loading, batching=batching, engine_threads=threads or None))
    more = {"host": flags.rest_api_host, "loading": loading, "metrics_path": metrics_path}
    if flags.ssl_config_file:
        more["ssl_config"] = read_ssl_config(flags.ssl_config_file)
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


if __name__ == "__main__":
    sys.exit(main())
