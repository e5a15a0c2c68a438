"""What measurements share: the machine and the versions they depend on, and the time of calls."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import keras

from keras_multiception.startup import quiet
from keras_multiception.version import __version__

Key = TypeVar("Key", bound=Hashable)
# Instructions that decide how fast a network can be.
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")


def describe(packages: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return `versions` of Python, Keras, its backend and `packages`, and the `hardware`.

    A package that is not installed is left out.
    """
    backend = keras.backend.backend()
    versions = {"python": platform.python_version(), "keras_multiception": __version__}
    for package in dict.fromkeys(("keras", backend, "numpy", *packages)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") if backend == "tensorflow" else None
    cpu, flags = _processor()
    hardware = {
        "backend": backend,
        "machine": platform.machine(),
        "cpu": cpu,
        "cpu_flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "cpus": count_cores(),
        "gpus": gpu_names(),
        "onednn": {"0": "off", "1": "on"}.get(onednn or "", onednn),
    }
    return {"versions": versions, "hardware": hardware}


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_names() -> list[str]:
    """Return the names of the GPUs that the backend of Keras sees."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        return [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def import_tensorflow() -> Any:
    """Return the module `tensorflow`, or `None` where it is not installed.

    On another backend of Keras, the GPUs are hidden from it: it would take all of their memory.
    """
    try:
        with quiet():
            import tensorflow as tf
    except ImportError:
        return None
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
    return tf


def seconds_per_call(call: Callable[[], object], seconds: float = 0.0) -> float:
    """Return the mean time of as many calls as fill `seconds`, of one at least."""
    calls, start, elapsed = 0, time.perf_counter(), 0.0
    while not calls or elapsed < seconds:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
    return elapsed / calls


def time_in_turns(
    calls: Mapping[Key, Callable[[], object]], rounds: int, seconds: float = 0.0
) -> dict[Key, list[float]]:
    """Return `seconds_per_call` of each call in each round; one more round warms up.

    The calls take turns, so that their ratios hold on a busy machine.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            times[key].append(seconds_per_call(call, seconds))
    return {key: rows[1:] for key, rows in times.items()}


def _processor() -> tuple[str, list[str]]:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    lines = (line.partition(":") for line in text.splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    name = values.get("model name") or platform.processor() or platform.machine()
    return name, values.get("flags", values.get("Features", "")).split()
