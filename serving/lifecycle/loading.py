"""How versions are found under a base path, and loaded."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from serving.engine.backends import LiteRTServable, SavedModelServable
from serving.engine.batching import Batching
from serving.engine.errors import ServingError
from serving.engine.messages import replay_warmup
from serving.engine.servable import Servable
from serving.version_folder import LITERT_FILE

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
# Path, size and time of each file of a version.
Snapshot: TypeAlias = frozenset[tuple[Path, int, int]]


@dataclass(frozen=True)
class Loading:
    """How versions are found and loaded, in the words of TF Serving's flags."""

    file_system_poll_wait_seconds: float = 1.0  # 0 looks once
    batching: Batching | None = None
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0  # 0 replays once
    max_num_load_retries: int = 5  # a version whose files have changed is always tried again
    load_retry_interval_micros: int = 60_000_000
    enable_signature_method_name_check: bool = False
    prefer_tflite_model: bool = False
    num_tflite_pools: int | None = None  # `None` for as many as processors
    num_tflite_interpreters_per_pool: int = 1

    def __post_init__(self) -> None:
        if self.file_system_poll_wait_seconds < 0:
            raise ValueError(
                "`file_system_poll_wait_seconds` must not be negative. "
                f"Received: file_system_poll_wait_seconds={self.file_system_poll_wait_seconds}"
            )


def load(folder: Path, version: int, loading: Loading) -> Servable:
    """Loads a version, its LiteRT file if one is there and preferred, and replays its warm-up."""
    checks = loading.enable_signature_method_name_check
    servable: Servable
    if loading.prefer_tflite_model and (folder / LITERT_FILE).is_file():
        pools = loading.num_tflite_pools or os.cpu_count() or 1
        interpreters = pools * loading.num_tflite_interpreters_per_pool
        servable = LiteRTServable(folder, version, checks, interpreters)
    else:
        servable = SavedModelServable(folder, version, loading.batching, checks)
    if loading.enable_model_warmup:
        for _ in range(max(1, loading.num_request_iterations_for_warmup)):
            replay_warmup(servable)
    return servable


def find_versions(base_path: Path) -> dict[int, Path]:
    """The version folders in a base path, by number; those that links lead out of it are not."""
    try:
        base = base_path.resolve()
        folders = [path for path in base_path.iterdir() if path.is_dir()]
    except OSError:
        return {}
    return {
        int(path.name): path
        for path in folders
        if re.fullmatch(r"[0-9]{1,18}", path.name) and path.resolve().is_relative_to(base)
    }


def aspired_versions(policy: VersionPolicy, found: Collection[int]) -> list[int]:
    """The versions a policy asks for among those found; an empty policy asks for the latest."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return sorted(found)
    if choice == "specific":
        return sorted(set(found) & set(policy.specific.versions))
    return sorted(found)[-max(1, policy.latest.num_versions) :]


def check_links(folder: Path, base_path: Path) -> None:
    """Refuses a version folder in which a symbolic link leads out of the base path."""
    base = base_path.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(base):
            raise ServingError(
                "PERMISSION_DENIED",
                f"{path} is a symbolic link that leads out of the model's base path.",
            )


def snapshot(folder: Path) -> Snapshot:
    """Records what a folder holds, to see later whether it has changed; empty if it goes."""
    with contextlib.suppress(OSError):  # the folder may be written, or go, meanwhile
        stats = [(path, path.lstat()) for path in folder.rglob("*")]
        return frozenset((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return frozenset()
