"""The server's command line: TensorFlow Serving's own flags, and a few of ours."""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.command_line import MAX_PORT, Parser, boolean, number, whole_number


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(key and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE,KEY=VALUE, not {text!r}")
    return [(key, int(v) if v.lstrip("-").isdecimal() else v) for key, _, v in pairs]


_port, _count, _seconds = whole_number(0, MAX_PORT), whole_number(0), number()

# Flag: its type, its default, what it is.
_FLAGS: dict[str, tuple[Callable, object, str]] = {
    "port": (_port, 8500, "the port to listen on for gRPC; 0 takes a free one"),
    "rest_api_port": (_port, 8501, "the port to listen on for REST; 0 takes a free one"),
    "rest_api_host": (str, "127.0.0.1", "the address to listen on, for gRPC too"),
    "rest_api_num_threads": (whole_number(1), None, "threads that answer REST calls"),
    "rest_api_timeout_in_ms": (whole_number(1), 30_000, "time for a REST call to be answered"),
    "grpc_max_threads": (whole_number(1), None, "threads that answer gRPC calls"),
    "grpc_channel_arguments": (_channel_arguments, [], "gRPC's arguments, KEY=VALUE,..."),
    "model_name": (str, "default", "the model's name in the URL"),
    "model_base_path": (str, None, "the folder of integer-named version folders"),
    "model_config_file": (Path, None, "a ModelServerConfig, in place of name and base path"),
    "model_config_file_poll_wait_seconds": (
        _seconds,
        0.0,
        "seconds between two readings of that file; 0 reads it once",
    ),
    "allow_version_labels_for_unavailable_models": (
        boolean,
        False,
        "let new labels be given to versions that are not loaded",
    ),
    "file_system_poll_wait_seconds": (
        _seconds,
        1.0,
        "seconds between two looks for a new version; 0 looks once",
    ),
    "max_num_load_retries": (_count, 5, "tries again of a version that did not load"),
    "load_retry_interval_micros": (_count, 60_000_000, "microseconds between such tries"),
    "enable_model_warmup": (boolean, True, "replay a version's warm-up requests first"),
    "enable_signature_method_name_check": (
        boolean,
        False,
        "classify and regress only with signatures whose method name says so",
    ),
    "prefer_tflite_model": (
        boolean,
        False,
        "serve a version's model.tflite, where there is one, in place of its SavedModel",
    ),
    "num_tflite_pools": (
        whole_number(1),
        None,
        "pools of LiteRT interpreters; one for each processor",
    ),
    "num_tflite_interpreters_per_pool": (whole_number(1), 1, "interpreters in such a pool"),
    "enable_batching": (boolean, False, "run concurrent calls as one batch"),
    "batching_parameters_file": (Path, None, "BatchingParameters, for --enable_batching"),
    "monitoring_config_file": (Path, None, "a MonitoringConfig: the metrics page's path"),
    "tensorflow_intra_op_parallelism": (_count, 0, "threads in an operation; 0 lets TensorFlow"),
    "tensorflow_inter_op_parallelism": (_count, 0, "operations at once; 0 lets TensorFlow"),
    "access_log": (str, "-", "a file for the access log, - for stderr, '' for none"),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the server's command line into a value for each flag."""
    parser = Parser(
        "serving.server",
        "Serve SavedModels and LiteRT models over TF Serving's REST and gRPC APIs.",
    )
    for name, (kind, default, text) in _FLAGS.items():
        shown = f"{text} (default: %(default)s)" if default not in (None, [], "") else text
        optional = {"nargs": "?", "const": True} if kind is boolean else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=shown, **optional)  # type: ignore[arg-type]
    parser.add_argument(
        "--version",
        action="version",
        version=f"serving.server, on TensorFlow {importlib.metadata.version('tensorflow')}",
    )
    flags = parser.parse_args(arguments)
    if (flags.model_base_path is None) == (flags.model_config_file is None):
        parser.error("one of --model_base_path and --model_config_file is required, not both")
    if flags.batching_parameters_file and not flags.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    return flags
