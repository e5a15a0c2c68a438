"""Measures a server under load, in turns with the same model called in process.

    python -m serving.benchmark --model_base_path DIR --clients 1 8 64 --json load.json
    python -m serving.benchmark --render load.json --plot load.png

One image per request; the server is another process, and so are the clients. Closed loop: a client
sends its next request when it has the answer to the last one. Open loop (`--rate`): requests are
sent on schedule, however late the answers are. "In process" means batches of `--max_batch_size` by
TensorFlow, whatever the server's `--engine` is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from serving.command_line import Parser, number, run_command, whole_number
from serving.server import ENGINES, running_server
from serving.version_folder import ONNX_FILE

if TYPE_CHECKING:
    from serving.engine.servable import Servable

_MODULE = "serving.benchmark"
PERCENTILES = (50, 90, 99)
# Colors that color-blind readers and print keep apart.
_COLORS = {"REST": "#0072b2", "gRPC": "#d55e00"}
_BATCHING = ("max_batch_size", "batch_timeout_micros", "num_batch_threads")
_PACKAGES = ("grpcio", "uvicorn")


def send_load(
    send: Callable[[], object], clients: int, seconds: float, rate: float | None = None
) -> tuple[np.ndarray, float]:
    """Lets `clients` send at once: one request after the other, or `rate` requests per second.

    Returns the seconds from when each was sent, or due, to its answer, and until the last one.
    """
    started = time.perf_counter()

    def closed_loop(_: int) -> list[float]:
        took = []
        while (begun := time.perf_counter()) < started + seconds:
            send()
            took.append(time.perf_counter() - begun)
        return took

    def on_schedule(due: float) -> list[float]:
        time.sleep(max(0.0, started + due - time.perf_counter()))
        send()
        return [time.perf_counter() - started - due]

    with ThreadPoolExecutor(clients) as pool:
        if rate:
            took = pool.map(on_schedule, np.arange(0, seconds, 1 / rate))
        else:
            took = pool.map(closed_loop, range(clients))
        return np.concatenate(list(took)), max(seconds, time.perf_counter() - started)


def rest_sender(url: str, signature_name: str, image: np.ndarray) -> Callable[[], bytes]:
    """Makes a function that sends an image to the model `default` over REST."""
    import orjson
    import urllib3

    request = {"signature_name": signature_name, "instances": image[None]}
    body = orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
    pool = urllib3.PoolManager(maxsize=1024)

    def send() -> bytes:
        path = f"{url}/v1/models/default:predict"
        response = pool.request("POST", path, body=body, timeout=60, retries=False)
        if response.status != 200:
            raise RuntimeError(f"The server answered {response.status}: {response.data[:200]!r}")
        return response.data

    return send


def grpc_sender(
    address: str, signature_name: str, image: np.ndarray, input_name: str
) -> Callable[[], Any]:
    """Makes a function that sends an image to the model `default` over gRPC."""
    import keras_multiception  # noqa: F401 # isort: skip (then TensorFlow loads quietly)
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(inputs={input_name: tf.make_tensor_proto(image[None])})
    request.model_spec.name, request.model_spec.signature_name = "default", signature_name
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

    def send() -> Any:
        try:
            return stub.Predict(request, timeout=60)
        except grpc.RpcError as error:  # it cannot be pickled
            answer = f"{error.code().name}: {error.details()}"
            raise RuntimeError(f"The server answered {answer}") from None

    return send


def in_process(
    servable: Servable, signature_name: str, images: np.ndarray, seconds: float
) -> float:
    """Calls a model with a whole batch again and again; returns images per second."""
    from keras_multiception.machine import seconds_per_call

    (name,) = servable.signature(signature_name).inputs
    call = partial(servable.predict, signature_name, {name: images})
    call()
    return len(images) / seconds_per_call(call, seconds)


def measure(
    loads: Sequence[tuple[str, int]],
    run_load: Callable[[str, int], tuple[np.ndarray, float]],
    run_in_process: Callable[[], float],
    rounds: int,
) -> list[dict]:
    """Runs each load, an API and a number of clients, once a round, between two in process.

    Returns a row for each: of each figure the `median`, `min`, `max` and the values of all
    `rounds`. `ratio` is throughput relative to in process.
    """
    found: dict[tuple[str, int], list[dict[str, float]]] = {load: [] for load in loads}
    for _ in range(rounds):
        before = run_in_process()
        for load in loads:
            took, seconds = run_load(*load)
            after = run_in_process()
            throughput, alone = len(took) / seconds, (before + after) / 2
            figures = {"images/s": throughput}
            figures |= {f"p{p} ms": float(np.percentile(took, p) * 1000) for p in PERCENTILES}
            figures |= {"in process images/s": alone, "ratio": throughput / alone}
            found[load].append(figures)
            before = after
    return [_row(api, clients, figures) for (api, clients), figures in found.items()]


def _row(api: str, clients: int, rounds: Sequence[dict[str, float]]) -> dict:
    row: dict = {"api": api, "clients": clients, "n": len(rounds)}
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        extremes = {"min": min(values), "max": max(values)}
        row[name] = {"median": median(values), **extremes, "rounds": values}
    return row


def to_markdown(results: dict) -> str:
    """Returns recorded results as text: how they were measured, and a table."""
    header = [name for name in results["rows"][0] if name != "n"]
    cells = [[_cell(row[name]) for name in header] for row in results["rows"]]
    table = tabulate(cells, header, "pipe", disable_numparse=True, stralign="right")
    return f"{_settings(results)}\n\n{_machine(results)}\n\n{table}"


def _cell(value: str | int | dict) -> str:
    if not isinstance(value, dict):
        return str(value)
    spread = f" ({value['min']:.4g} to {value['max']:.4g})" if len(value["rounds"]) > 1 else ""
    return f"{value['median']:.4g}{spread}"


def _settings(results: dict) -> str:
    flags = results["flags"]
    loop = f"open loop, {flags['rate']:g} requests/s" if flags["rate"] else "closed loop"
    by = f" by {flags['engine']}" if flags["engine"] != ENGINES[0] else ""
    return (
        f"One image a request to {flags['signature_name']}{by}; {loop}, {flags['seconds']:g} s; "
        f"median of {flags['rounds']} (range)"
    )


def _machine(results: dict) -> str:
    machine = results["machine"]
    hardware = machine["hardware"]
    devices = ", ".join([hardware["cpu"], f"{hardware['cpus']} cores", *hardware["gpus"]])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{devices}, load average {machine['load average before']}; {versions}"


def draw(results: dict, path: Path) -> None:
    """Draws throughput and each API's latencies over the number of clients."""
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(12, 4.8), dpi=150, layout="constrained")
    figure.suptitle(f"{_settings(results)}\n{_machine(results)}", fontsize=8)
    throughput, *latencies = figure.subplots(1, 1 + len(_COLORS))
    alone = [value for row in rows for value in row["in process images/s"]["rounds"]]
    throughput.axhspan(min(alone), max(alone), color="#e4e6e8")
    throughput.axhline(median(alone), color="#5f666d", ls="--", label="in process, whole batches")
    throughput.set_title("Images per second", fontsize=10)
    figures = [row[f"p{p} ms"] for row in rows for p in PERCENTILES]
    limits = min(f["min"] for f in figures) / 1.25, max(f["max"] for f in figures) * 1.25
    for ax, (api, color) in zip(latencies, _COLORS.items(), strict=True):
        found = [row for row in rows if row["api"] == api]
        _draw_lines(throughput, found, "images/s", api, color)
        for p, alpha in zip(PERCENTILES, (1.0, 0.7, 0.4), strict=True):
            _draw_lines(ax, found, f"p{p} ms", f"p{p}", color, alpha)
        ax.set_title(f"{api}: milliseconds to the answer", fontsize=10)
        ax.set(yscale="log", ylim=limits)
    throughput.set_ylim(bottom=0)
    for ax in figure.axes:
        ax.set_xscale("log", base=2)
        ax.set_xlabel("requests at once")
        clients = sorted({row["clients"] for row in rows})
        ax.set_xticks(clients, map(str, clients))
        ax.yaxis.set_major_formatter("{x:,g}")
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=8)
    figure.savefig(path)


def _draw_lines(
    ax: Any, rows: Sequence[dict], name: str, label: str, color: str, alpha: float = 1.0
) -> None:
    clients, values = [row["clients"] for row in rows], [row[name] for row in rows]
    medians, lows, highs = ([v[of] for v in values] for of in ("median", "min", "max"))
    ax.plot(clients, medians, marker="o", color=color, alpha=alpha, label=label)
    ax.vlines(clients, lows, highs, lw=5, color=color, alpha=0.3)


def _load(
    sender: Callable[..., Callable[[], Any]], options: tuple, *load: Any
) -> tuple[np.ndarray, float]:
    """Runs in another process, so that the clients' work is not the server's."""
    send = sender(*options)
    for _ in range(3):
        send()
    return send_load(send, *load)


def _run(flags: argparse.Namespace) -> list[dict]:
    from serving.engine.backends import SavedModelServable
    from serving.lifecycle.versions import find_versions

    name = flags.signature_name
    versions = find_versions(Path(flags.model_base_path))
    if not versions:
        raise ValueError(f"no version in {flags.model_base_path}")
    newest = versions[max(versions)]
    if flags.engine != ENGINES[0] and not (newest / ONNX_FILE).is_file():
        raise ValueError(
            f"--engine {flags.engine} needs {ONNX_FILE} in {newest}: export with --onnx"
        )
    servable = SavedModelServable(newest)
    specs = list(servable.signature(name).inputs.values())
    if len(specs) != 1 or specs[0].dtype.name not in ("uint8", "float32"):
        raise ValueError(f"--signature_name {name} does not take a batch of pixels")
    [spec] = specs
    shape = [flags.max_batch_size, *(size or 32 for size in (spec.shape or ())[1:])]
    batch = np.random.default_rng(0).integers(0, 256, shape).astype(spec.dtype.as_numpy_dtype)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        batching = {key: getattr(flags, key) for key in _BATCHING} | {"max_enqueued_batches": 100}
        file = Path(folder, "batching")
        file.write_text("".join(f"{key} {{ value: {v} }}\n" for key, v in batching.items()))
        server_flags = [
            f"--model_base_path={flags.model_base_path}",
            "--access_log=",
            "--enable_model_warmup=false",  # its batches may be too large
            f"--engine={flags.engine}",
        ]
        if flags.engine == "tensorflow":  # batches bring another engine nothing
            server_flags += ["--enable_batching", f"--batching_parameters_file={file}"]
        url, grpc_address, _ = stack.enter_context(running_server(server_flags))
        spawn = multiprocessing.get_context("spawn")
        ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
        pool = stack.enter_context(ProcessPoolExecutor(1, spawn, *ignore))
        senders: dict[str, tuple[Callable[..., Any], tuple]] = {
            "REST": (rest_sender, (url, name, batch[0])),
            "gRPC": (grpc_sender, (grpc_address, name, batch[0], spec.name)),
        }

        def run_load(api: str, clients: int) -> tuple[np.ndarray, float]:
            sender, options = senders[api]
            load = (clients, flags.seconds, flags.rate)
            return pool.submit(_load, sender, options, *load).result()

        loads = [(api, clients) for clients in flags.clients for api in senders]
        alone = partial(in_process, servable, name, batch, flags.seconds / 2)
        return measure(loads, run_load, alone, flags.rounds)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(_MODULE, "Measure a server under load, in turns with the model in process.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model_base_path", type=Path, help="the folder of version folders")
    source.add_argument("--render", type=Path, metavar="JSON", help="show recorded results again")
    add, count = parser.add_argument, whole_number(1)
    add("--signature_name", default="serving_uint8", help="takes a batch of images")
    add("--clients", type=count, nargs="+", default=[64], metavar="N", help="requests at once")
    add("--seconds", type=number(True), default=10.0, help="seconds for each load in a round")
    add("--rounds", type=count, default=3, help="how often each figure is measured")
    add("--rate", type=number(True), help="requests per second of an open loop")
    text = "the server's; only the first batches"
    add("--engine", choices=ENGINES, default=ENGINES[0], help=text)
    add("--max_batch_size", type=count, default=64, help="the server's")
    add("--batch_timeout_micros", type=whole_number(), default=2000, help="the server's")
    add("--num_batch_threads", type=count, default=2, help="the server's")
    add("--json", type=Path, metavar="FILE", help="a file for the figures")
    add("--plot", type=Path, metavar="FILE", help="a file for a plot")
    flags = parser.parse_args(arguments)
    flags.clients = sorted(set(flags.clients))
    return flags


def _report(flags: argparse.Namespace) -> int:
    from keras_multiception.atomic import replacing, write_json
    from keras_multiception.machine import describe

    if flags.render:
        results = json.loads(flags.render.read_text(encoding="utf-8"))
    else:
        paths = ("model_base_path", "render", "json", "plot")
        settings = {key: value for key, value in vars(flags).items() if key not in paths}
        machine = {"load average before": round(os.getloadavg()[0], 1), **describe(_PACKAGES)}
        results = {"machine": machine, "flags": settings, "rows": _run(flags)}
    print(to_markdown(results))
    if flags.json:
        write_json(flags.json, results)
    if flags.plot:
        with replacing(flags.plot) as temporary:
            draw(results, temporary)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parse(arguments)
    return run_command(_MODULE, lambda: _report(flags))


if __name__ == "__main__":
    sys.exit(main())
