"""The version folders under a base path: which there are, and which a policy asks for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from serving.engine.errors import ServingError

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy


def find_versions(base_path: Path) -> dict[int, Path]:
    """Lists the versions under a base path.

    Args:
        base_path: The folder of version folders.

    Returns:
        Their folders by number; what a symbolic link leads out of the base path is left out. Empty
        if the base path cannot be read.
    """
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
    """The versions that a policy asks for, of those that there are.

    Args:
        policy: A `ServableVersionPolicy` message; an empty one asks for the latest version.
        found: The versions that there are.

    Returns:
        Their numbers, ascending.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return sorted(found)
    if choice == "specific":
        return sorted(set(found) & set(policy.specific.versions))
    return sorted(found)[-max(1, policy.latest.num_versions) :]


def refuse_links_outside(folder: Path, base_path: Path) -> None:
    """Refuses a version folder in which a symbolic link leads out of the base path.

    Args:
        folder: The version's folder.
        base_path: The folder of version folders.

    Raises:
        ServingError: PERMISSION_DENIED, if there is such a link.
    """
    base = base_path.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(base):
            raise ServingError(
                "PERMISSION_DENIED",
                f"{path} is a symbolic link that leads out of the model's base path.",
            )


def snapshot(folder: Path) -> frozenset:
    """Notes what a folder holds, to see later whether it has changed.

    Args:
        folder: The folder.

    Returns:
        Path, size and time of each file; empty if the folder goes or changes meanwhile.
    """
    with contextlib.suppress(OSError):  # the folder may be written, or go, meanwhile
        stats = [(path, path.lstat()) for path in folder.rglob("*")]
        return frozenset((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return frozenset()
