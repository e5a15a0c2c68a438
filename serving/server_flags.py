"""The flags of the server: TensorFlow Serving's own, and a few of ours."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from serving.command_line import MAX_PORT, Parser, boolean, number, whole_number


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(key and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE,KEY=VALUE, not {text!r}")
    return [(key, int(v) if v.lstrip("-").isdecimal() else v) for key, _, v in pairs]


_count, _some, _port = whole_number(), whole_number(1), whole_number(0, MAX_PORT)
_seconds = number()

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
    "ssl_config_file": ("",),
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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the server's command line into a value for each flag."""
    parser = Parser(
        "serving.server",
        "Serve SavedModels and LiteRT models over TF Serving's REST and gRPC APIs.",
    )
    for name, (kind, default, text) in _FLAGS.items():
        shown = f"{text} (default: %(default)s)" if default not in (None, [], "") else text
        optional: dict[str, Any] = {"nargs": "?", "const": True} if kind is boolean else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=shown, **optional)
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
    _warn_of_ignored(parser, flags)
    return flags


def _warn_of_ignored(parser: Parser, flags: argparse.Namespace) -> None:
    for name, values in _ONLY_DEFAULT.items():
        if (value := getattr(flags, name)) is not None and value.lower() not in values:
            parser.error(f"argument --{name}: is not supported here, with the value {value!r}")
    given = [name for name in (*_ONLY_DEFAULT, *_IGNORED) if getattr(flags, name) is not None]
    if given:
        names = ", ".join(f"--{name}" for name in given)
        print(f"{parser.prog}: warning: ignored, without a meaning here: {names}", file=sys.stderr)
