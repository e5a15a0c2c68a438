"""What the benchmark measured: figures with their spread, the machine, a table and a file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

PERCENTILES = (50, 90, 99)
_PACKAGES = ("tensorflow", "numpy", "grpcio", "uvicorn")


def measured_once(took: np.ndarray, seconds: float, in_process: float) -> dict[str, float]:
    """Makes the figures of one round.

    Args:
        took: Seconds that each answer took.
        seconds: Seconds until the last answer.
        in_process: Images per second of the same model in process, about the same time.

    Returns:
        The figures by name; `ratio` is that of the server's throughput to the other.
    """
    throughput = len(took) / seconds
    return {
        "images/s": throughput,
        **{f"p{p} ms": float(np.percentile(took, p) * 1000) for p in PERCENTILES},
        "in process images/s": in_process,
        "ratio": throughput / in_process,
    }


def summary(api: str, clients: int, rounds: Sequence[dict[str, float]]) -> dict:
    """Makes a row of the results.

    Args:
        api: "REST" or "gRPC".
        clients: How many requests there were at once.
        rounds: The figures of each round.

    Returns:
        Names, and for each figure `median`, `min`, `max` and the `rounds`' values.
    """
    row: dict = {"api": api, "clients": clients, "n": len(rounds)}
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        low, high = min(values), max(values)
        row[name] = {"median": median(values), "min": low, "max": high, "rounds": values}
    return row


def machine() -> dict:
    """Tells what the figures depend on: processor, cores, GPUs, load and versions."""
    import tensorflow as tf

    gpus = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "gpus": [gpu.get("device_name", "GPU") for gpu in gpus],
        "load average before": round(os.getloadavg()[0], 1),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine_text(facts: dict) -> str:
    """Tells in one line what the figures depend on."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    devices = ", ".join([f"{facts['processor']}, {facts['cores']} cores", *facts["gpus"]])
    return f"{devices}, load average {facts['load average before']}; {versions}"


def table(rows: Sequence[dict]) -> str:
    """Makes a table, each figure as its median and, of several rounds, its range."""
    header = [name for name in rows[0] if name != "n"]
    cells = [header] + [[_cell(row[name]) for name in header] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _cell(value: str | int | dict) -> str:
    if not isinstance(value, dict):
        return str(value)
    text = f"{value['median']:.4g}"
    spread = f" ({value['min']:.4g}-{value['max']:.4g})"
    return text + spread if len(value["rounds"]) > 1 else text


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that it is never seen in part.

    Args:
        path: The file.
        write: Writes it, under the path that it is given.
    """
    temporary = path.with_name(f".partial-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, results: dict) -> None:
    """Writes results as JSON."""
    text = json.dumps(results, default=str, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))
