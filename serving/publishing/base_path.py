"""The folder of a model's versions: they come and go atomically, under a polling server.

A server looks at the base path at any moment and takes every folder with an integer for a name. So
a version comes and goes by one rename, and everything else in the base path has a hidden name:

    3/              a version, whole
    .staging-*/     one that is being written, under a lock that goes with its process
    .withdrawn-4/   one that was rolled back, kept to be restored; its number stays taken
    .removed-*/     one that is being deleted
    .lock           held while versions come and go
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from serving.version_folder import verify_manifest

_STAGING, _WITHDRAWN, _REMOVED, _LOCK = ".staging-", ".withdrawn-", ".removed-", ".lock"


def list_versions(base_path: str | Path, withdrawn: bool = False) -> dict[int, Path]:
    """Lists the served or the withdrawn versions, oldest first; the base path need not exist."""
    name = re.compile((re.escape(_WITHDRAWN) if withdrawn else "") + "([0-9]{1,18})")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        matches = [(name.fullmatch(path.name), path) for path in Path(base_path).iterdir()]
        found = [(int(match[1]), path) for match, path in matches if match and path.is_dir()]
        return dict(sorted(found))
    return {}


@contextlib.contextmanager
def publishing(
    base_path: str | Path, version: int | None = None
) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Gives a folder to write a version to, and a function that makes it visible at the end.

    The function returns the version's path; its number follows the highest there ever was, unless
    it is given. Processes may publish at the same time, and each gets its number when it is done.
    """
    base_path = Path(base_path)
    if version is not None:
        _require_new(base_path, version)
    with contextlib.ExitStack() as stack:
        base_path.mkdir(parents=True, exist_ok=True)
        with _flock(base_path / _LOCK):
            _clean(base_path)
            staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=base_path))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            stack.enter_context(_flock(staging / "lock"))
        written = staging / "version"

        def publish() -> Path:
            for path in [*written.rglob("*"), written]:
                _flush(path)
            with _flock(base_path / _LOCK):
                taken = [*list_versions(base_path), *list_versions(base_path, withdrawn=True)]
                number = max(taken, default=0) + 1 if version is None else version
                _require_new(base_path, number)
                os.rename(written, base_path / str(number))
                _flush(base_path)
            return base_path / str(number)

        yield written, publish


def roll_back(base_path: str | Path, version: int | None = None) -> tuple[int, list[int]]:
    """Withdraws the newest versions, so that `version`, or the one before, is the latest again.

    They go oldest first, so that no server sees one between. Returns its number and those gone.
    """
    base_path = Path(base_path)
    with _flock(base_path / _LOCK):
        served = list_versions(base_path)
        if version is None and len(served) < 2:
            raise ValueError(
                "`base_path` must hold a version before the latest to roll back to. "
                f"Received: base_path={base_path} with {_numbers(served)}"
            )
        target = sorted(served)[-2] if version is None else version
        if target not in served:
            raise ValueError(
                f"`version` must be one of {_numbers(served)}. Received: version={version}"
            )
        verify_manifest(served[target])
        newer = [number for number in served if number > target]
        for number in newer:
            os.rename(served[number], base_path / f"{_WITHDRAWN}{number}")
        _flush(base_path)
    return target, newer


def restore(base_path: str | Path, version: int) -> Path:
    """Brings a withdrawn version back; returns its path."""
    base_path = Path(base_path)
    with _flock(base_path / _LOCK):
        withdrawn = list_versions(base_path, withdrawn=True)
        if version not in withdrawn:
            raise ValueError(
                f"`version` must be a withdrawn one: {_numbers(withdrawn)}. "
                f"Received: version={version}"
            )
        verify_manifest(withdrawn[version])
        path = base_path / str(version)
        os.rename(withdrawn[version], path)
        _flush(base_path)
    return path


def prune(base_path: str | Path, keep: int) -> list[int]:
    """Deletes all versions but the `keep` newest, and withdrawn ones that are older than those."""
    base_path = Path(base_path)
    with _flock(base_path / _LOCK):
        served = list_versions(base_path)
        old = dict(list(served.items())[:-keep])
        oldest_kept = min(served.keys() - old.keys(), default=0)
        withdrawn = list_versions(base_path, withdrawn=True)
        old |= {number: path for number, path in withdrawn.items() if number < oldest_kept}
        for number, path in old.items():
            os.rename(path, tempfile.mkdtemp(prefix=f"{_REMOVED}{number}-", dir=base_path))
        _clean(base_path)
    return sorted(old)


def _require_new(base_path: Path, version: int) -> None:
    taken = list_versions(base_path).keys() | list_versions(base_path, withdrawn=True).keys()
    if version < 1 or version in taken:
        raise ValueError(
            "`version` must be a positive integer that no version has, served or withdrawn. "
            f"Received: version={version}"
        )


def _clean(base_path: Path) -> None:
    """Deletes what is being removed, and what no living process is writing."""
    for path in base_path.glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in base_path.glob(f"{_STAGING}*"):
        with (
            contextlib.suppress(BlockingIOError, FileNotFoundError),
            _flock(path / "lock", fcntl.LOCK_NB),
        ):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _flock(path: Path, flags: int = 0) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Brings a file or folder to the disk, so that a power cut after the rename takes none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbers(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
