"""Measures a server under load, and the same model called in process in the same run.

    python -m serving.benchmark --model_base_path DIR --signature_name serving_uint8

The server is another process, and so are the clients. Closed loop: each client sends its next
request when it has the answer to the last. Open loop (`--rate`): requests are sent on time, however
late the answers are. One image a request; "in process" is batches of `--max_batch_size` images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from serving.load import closed_loop, grpc_sender, open_loop, rest_sender, running_server

PERCENTILES = (50, 90, 99)


def _load(kind: str, sender: tuple, clients: int, seconds: float, rate: float | None) -> np.ndarray:
    """Runs in a process of its own, so that the clients' work is not the server's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    send = rest_sender(*sender) if kind == "REST" else grpc_sender(*sender)
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


def _batching_file(folder: str, flags: argparse.Namespace) -> str:
    path = Path(folder) / "batching.config"
    path.write_text(
        f"max_batch_size {{ value: {flags.max_batch_size} }}\n"
        f"batch_timeout_micros {{ value: {flags.batch_timeout_micros} }}\n"
        f"num_batch_threads {{ value: {flags.num_batch_threads} }}\n"
        "max_enqueued_batches { value: 100 }\n"
    )
    return str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.benchmark", description=__doc__)
    parser.add_argument("--model_base_path", required=True, help="the folder of version folders")
    parser.add_argument("--signature_name", default="serving_uint8", help="takes a batch of images")
    parser.add_argument("--clients", type=int, default=64, help="requests at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each figure")
    parser.add_argument("--rate", type=float, help="requests per second of an open loop")
    parser.add_argument("--max_batch_size", type=int, default=64, help="the server's")
    parser.add_argument("--batch_timeout_micros", type=int, default=2000, help="the server's")
    parser.add_argument("--num_batch_threads", type=int, default=2, help="the server's")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    flags = parser.parse_args(arguments)

    from serving.engine.servable import Servable
    from serving.lifecycle.version_folders import find_versions

    versions = find_versions(Path(flags.model_base_path))
    if not versions:
        print(f"{parser.prog}: error: no version in {flags.model_base_path}", file=sys.stderr)
        return 2
    servable = Servable(versions[max(versions)])
    (spec,) = servable.signature(flags.signature_name).inputs.values()
    shape = [size or 32 for size in (spec.shape or ())[1:]]
    dtype = spec.dtype.as_numpy_dtype
    batch = np.random.default_rng(0).integers(0, 256, (flags.max_batch_size, *shape)).astype(dtype)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server_flags = [
            f"--model_base_path={flags.model_base_path}",
            "--access_log=",
            "--enable_batching",
            f"--batching_parameters_file={_batching_file(folder, flags)}",
        ]
        with (
            running_server(server_flags) as (url, address, _),
            ProcessPoolExecutor(1) as pool,
        ):
            common = ("default", flags.signature_name, batch[0])
            for kind, sender in (
                ("REST", (url, *common)),
                ("gRPC", (address, *common, spec.name)),
            ):
                alone = in_process(servable, flags.signature_name, batch, flags.seconds / 2)
                load = (kind, sender, flags.clients, flags.seconds, flags.rate)
                took = pool.submit(_load, *load).result()
                alone += in_process(servable, flags.signature_name, batch, flags.seconds / 2)
                rows.append(_row(kind, took, flags.seconds, alone / 2))
    print(_table(rows))
    if flags.json:
        flags.json.write_text(
            json.dumps({"flags": vars(flags), "rows": rows}, default=str, indent=2)
        )
    return 0


def _row(kind: str, took: np.ndarray, seconds: float, alone: float) -> dict:
    throughput = len(took) / seconds
    return {
        "api": kind,
        "images/s": throughput,
        **{f"p{p} ms": float(np.percentile(took, p) * 1000) for p in PERCENTILES},
        "in process images/s": alone,
        "ratio": throughput / alone,
    }


def _table(rows: Sequence[dict]) -> str:
    cells = [list(rows[0])]
    cells += [[v if isinstance(v, str) else f"{v:.4g}" for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


if __name__ == "__main__":
    sys.exit(main())
