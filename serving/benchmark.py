"""Measures a server under load, and the same model called in process in the same run.

    python -m serving.benchmark --model_base_path DIR --clients 1 8 64 --plot load.png

The server is another process, and so are the clients. Closed loop: each client sends its next
request when it has the answer to the last. Open loop (`--rate`): requests are sent on time, however
late the answers are. One image a request; "in process" is batches of `--max_batch_size` images.
Each figure is the median of several rounds, in which REST, gRPC and the numbers of clients take
turns, with its range.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np

from serving.benchmark_results import (
    machine,
    machine_text,
    measured_once,
    summary,
    table,
    write_json,
    write_whole,
)
from serving.load import closed_loop, grpc_sender, open_loop, rest_sender, running_server

_TITLE = {"uint8": "one uint8 image a request", "float32": "one float32 image a request"}


def _deaf() -> None:
    """Leaves Ctrl-C, which the terminal sends to every process, to the one that was started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _load(
    api: str, sender: tuple, clients: int, seconds: float, rate: float | None
) -> tuple[np.ndarray, float]:
    """Runs in a process of its own, so that the clients' work is not the server's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    send = rest_sender(*sender) if api == "REST" else grpc_sender(*sender)
    for _ in range(3):
        send()
    if rate:
        return open_loop(send, clients, seconds, rate)
    return closed_loop(send, clients, seconds)


def in_process(servable, signature_name: str, images: np.ndarray, seconds: float) -> float:
    """Calls a model in this process with whole batches.

    Args:
        servable: The model.
        signature_name: The signature that takes images.
        images: A batch of images.
        seconds: For how long.

    Returns:
        Images per second.
    """
    (name,) = servable.signature(signature_name).inputs
    servable.predict(signature_name, {name: images})
    begun, batches = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        servable.predict(signature_name, {name: images})
        batches += 1
    return batches * len(images) / (time.perf_counter() - begun)


def measure(
    loads: Sequence[tuple[str, int]],
    run_load: Callable[[str, int], tuple[np.ndarray, float]],
    run_in_process: Callable[[], float],
    rounds: int,
) -> list[dict]:
    """Measures in rounds: each load once, between two measurements in process.

    Args:
        loads: Pairs of an API and a number of clients.
        run_load: Runs such a load; returns what `closed_loop` does.
        run_in_process: Returns the images per second in process.
        rounds: How many rounds.

    Returns:
        A row for each load, as `benchmark_results.summary` makes it.
    """
    found: dict[tuple[str, int], list[dict[str, float]]] = {load: [] for load in loads}
    for _ in range(rounds):
        before = run_in_process()
        for load in loads:
            took, seconds = run_load(*load)
            after = run_in_process()
            found[load].append(measured_once(took, seconds, (before + after) / 2))
            before = after
    return [summary(api, clients, figures) for (api, clients), figures in found.items()]


@contextlib.contextmanager
def _served(flags: argparse.Namespace) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        batching = Path(folder) / "batching.config"
        batching.write_text(
            f"max_batch_size {{ value: {flags.max_batch_size} }}\n"
            f"batch_timeout_micros {{ value: {flags.batch_timeout_micros} }}\n"
            f"num_batch_threads {{ value: {flags.num_batch_threads} }}\n"
            "max_enqueued_batches { value: 100 }\n"
        )
        server_flags = [
            f"--model_base_path={flags.model_base_path}",
            "--access_log=",
            "--enable_model_warmup=false",  # its batches may be too large
            "--enable_batching",
            f"--batching_parameters_file={batching}",
        ]
        with running_server(server_flags) as (url, address, _):
            yield url, address


def _run(flags: argparse.Namespace) -> tuple[list[dict], str]:
    """Measures what the flags say; returns the rows and what was sent, in words."""
    from serving.engine.servable import Servable
    from serving.lifecycle.version_folders import find_versions

    versions = find_versions(Path(flags.model_base_path))
    if not versions:
        raise ValueError(f"no version in {flags.model_base_path}")
    servable = Servable(versions[max(versions)])
    specs = list(servable.signature(flags.signature_name).inputs.values())
    if len(specs) != 1 or specs[0].dtype.name not in _TITLE:
        raise ValueError(f"--signature_name {flags.signature_name} does not take a batch of pixels")
    [spec] = specs
    shape = [size or 32 for size in (spec.shape or ())[1:]]
    dtype = spec.dtype.as_numpy_dtype
    batch = np.random.default_rng(0).integers(0, 256, (flags.max_batch_size, *shape)).astype(dtype)
    common = ("default", flags.signature_name, batch[0])
    with _served(flags) as (url, address), ProcessPoolExecutor(1, initializer=_deaf) as pool:
        senders = {"REST": (url, *common), "gRPC": (address, *common, spec.name)}

        def run_load(api: str, clients: int) -> tuple[np.ndarray, float]:
            load = (api, senders[api], clients, flags.seconds, flags.rate)
            return pool.submit(_load, *load).result()

        rows = measure(
            [(api, clients) for clients in flags.clients for api in senders],
            run_load,
            lambda: in_process(servable, flags.signature_name, batch, flags.seconds / 2),
            flags.rounds,
        )
    size = "x".join(map(str, shape))
    return rows, f"{_TITLE[spec.dtype.name]}, {size}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m serving.benchmark", description=__doc__)
    add = parser.add_argument
    add("--model_base_path", required=True, help="the folder of version folders")
    add("--signature_name", default="serving_uint8", help="takes a batch of images")
    add("--clients", type=int, nargs="+", default=[64], metavar="N", help="requests at once")
    add("--seconds", type=float, default=10.0, help="seconds for each load in a round")
    add("--rounds", type=int, default=3, help="how often each figure is measured")
    add("--rate", type=float, help="requests per second of an open loop")
    add("--max_batch_size", type=int, default=64, help="the server's")
    add("--batch_timeout_micros", type=int, default=2000, help="the server's")
    add("--num_batch_threads", type=int, default=2, help="the server's")
    add("--json", type=Path, help="a file for the figures")
    add("--plot", type=Path, metavar="FILE.png", help="a file for a plot; needs matplotlib")
    flags = parser.parse_args(arguments)
    flags.clients = sorted(set(flags.clients))
    for name in ("seconds", "rounds", "rate", "max_batch_size"):
        value = getattr(flags, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"argument --{name}: must be positive, not {value}")
    if not Path(flags.model_base_path).is_dir():
        parser.error(f"argument --model_base_path: there is no folder {flags.model_base_path}")
    if flags.clients[0] < 1:
        parser.error(f"argument --clients: must be positive, not {flags.clients[0]}")
    for name in ("json", "plot"):
        path = getattr(flags, name)
        if path and not path.absolute().parent.is_dir():
            parser.error(f"argument --{name}: there is no folder {path.parent}")
        if path and path.is_dir():
            parser.error(f"argument --{name}: must be a file, not the folder {path}")
    if flags.plot and flags.plot.suffix.lower() != ".png":
        parser.error(f"argument --plot: must end in .png, not {flags.plot}")
    if flags.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("argument --plot: needs matplotlib; `pip install matplotlib` installs it")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code: 0, 2 for what cannot be measured or written, 130 if it was interrupted.
    """
    flags = _parse(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from serving.engine.errors import ServingError

    try:
        facts = machine()
        rows, sent = _run(flags)
        _report(flags, facts, rows, sent)
    except (ValueError, RuntimeError, OSError, ServingError) as error:
        print(f"serving.benchmark: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _report(flags: argparse.Namespace, facts: dict, rows: list[dict], sent: str) -> None:
    loop = f"open loop, {flags.rate:g} requests/s" if flags.rate else "closed loop"
    how = f"{sent}; {loop}, {flags.seconds:g} s; median of {flags.rounds} (range)"
    print(f"{machine_text(facts)}\n{how}\n{table(rows)}")
    if flags.json:
        paths = ("model_base_path", "json", "plot")  # they tell of this machine alone
        settings = {key: value for key, value in vars(flags).items() if key not in paths}
        write_json(flags.json, {"machine": facts, "flags": settings, "rows": rows})
    if flags.plot:
        from serving.benchmark_figure import draw

        write_whole(flags.plot, lambda file: draw(rows, how, machine_text(facts), file))


if __name__ == "__main__":
    sys.exit(main())
