"""The folder of a model's versions: they come and go atomically, under a polling server.

A server looks at the base path at any moment and takes every folder with an integer for a name. So
a version comes and goes by one rename, and everything else in the base path has a hidden name:

    3/              a version, whole
    .staging-*/     one that is being written, under a lock that goes with its process
    .withdrawn-4/   one that was rolled back, kept to be restored; its number stays taken
    .removed-*/     one that is being deleted
    .lock           held while versions come and go
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import tempfile

from serving.version_folder import verify_manifest

_STAGING, _WITHDRAWN, _REMOVED = ".staging-", ".withdrawn-", ".removed-"


def list_versions(base_path, withdrawn=False):
    """List the versions under a base path.

    Args:
        base_path: Path of the folder; it need not exist.
        withdrawn: Boolean, whether to list those that were withdrawn in place of those served.

    Returns:
        A dictionary from number to `pathlib.Path`, oldest first.
    """
    base_path = pathlib.Path(base_path)
    name = re.compile((re.escape(_WITHDRAWN) if withdrawn else "") + "([0-9]{1,18})")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        matches = [(name.fullmatch(path.name), path) for path in base_path.iterdir()]
        found = [(int(match[1]), path) for match, path in matches if match and path.is_dir()]
        return dict(sorted(found))
    return {}


@contextlib.contextmanager
def publishing(base_path, version=None):
    """Give a folder to write a version to, and make it visible at the end.

    What killed processes left half-written is deleted first. Several may publish at a time; each
    gets its number when it is done.

    Args:
        base_path: Path of the folder of versions; it is made if need be.
        version: Positive integer; `None` takes the number after the highest there ever was.

    Yields:
        The `pathlib.Path` to write to, which does not exist yet, and a function without arguments
        that makes what is there visible and returns where.

    Raises:
        ValueError: If the version is taken or not a positive integer, or the base path cannot be
            written.
    """
    base_path = pathlib.Path(base_path)
    if version is not None:
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"`version` must be a positive integer. Received: version={version}")
        _require_new(base_path, version)
    with contextlib.ExitStack() as stack:
        with _locked(base_path, make=True):
            _clean(base_path)
            staging = pathlib.Path(tempfile.mkdtemp(prefix=_STAGING, dir=base_path))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            stack.enter_context(_flock(staging / "lock"))
        written = staging / "version"

        def publish():
            _flush(written)
            with _locked(base_path):
                taken = [*list_versions(base_path), *list_versions(base_path, withdrawn=True)]
                number = max(taken, default=0) + 1 if version is None else version
                _require_new(base_path, number)
                os.rename(written, base_path / str(number))
                _flush_folder(base_path)
            return base_path / str(number)

        yield written, publish


def roll_back(base_path, version=None):
    """Withdraw the newest versions, so that an older one is the latest again.

    They go oldest first: a server that follows the latest version sees the newest one until, with
    the last rename, the one rolled back to.

    Args:
        base_path: Path of the folder of versions.
        version: Integer, the version to go back to; `None` for the one before the latest.

    Returns:
        The version that is the latest now, and the list of those withdrawn.

    Raises:
        ValueError: If there is no such version, none before the latest, or it is damaged.
    """
    base_path = pathlib.Path(base_path)
    with _locked(base_path):
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
        _flush_folder(base_path)
    return target, newer


def restore(base_path, version):
    """Bring a withdrawn version back.

    Args:
        base_path: Path of the folder of versions.
        version: Integer, its number.

    Returns:
        Its `pathlib.Path`.

    Raises:
        ValueError: If no such version was withdrawn, or it is damaged.
    """
    base_path = pathlib.Path(base_path)
    with _locked(base_path):
        withdrawn = list_versions(base_path, withdrawn=True)
        if version not in withdrawn:
            raise ValueError(
                f"`version` must be a withdrawn one: {_numbers(withdrawn)}. "
                f"Received: version={version}"
            )
        verify_manifest(withdrawn[version])
        path = base_path / str(version)
        os.rename(withdrawn[version], path)
        _flush_folder(base_path)
    return path


def prune(base_path, keep):
    """Delete all versions but the newest, and withdrawn ones that are older than those.

    Args:
        base_path: Path of the folder of versions.
        keep: Positive integer, how many versions to keep.

    Returns:
        The list of the versions deleted.

    Raises:
        ValueError: If `keep` is not a positive integer, or the base path is missing.
    """
    check_keep(keep)
    base_path = pathlib.Path(base_path)
    with _locked(base_path):
        served = list_versions(base_path)
        old = dict(list(served.items())[:-keep])
        oldest_kept = min(served.keys() - old.keys(), default=0)
        withdrawn = list_versions(base_path, withdrawn=True)
        old |= {number: path for number, path in withdrawn.items() if number < oldest_kept}
        for number, path in old.items():
            os.rename(path, tempfile.mkdtemp(prefix=f"{_REMOVED}{number}-", dir=base_path))
        _clean(base_path)
    return sorted(old)


def check_keep(keep):
    """Raise a `ValueError` if the number of versions to keep is not a positive integer."""
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"`keep` must be a positive integer. Received: keep={keep}")


def _require_new(base_path, version):
    for withdrawn, hint in ((False, "has it"), (True, "has it withdrawn, to be restored")):
        if version in list_versions(base_path, withdrawn):
            raise ValueError(
                f"`version` must be a new one; {base_path} {hint}. Received: version={version}"
            )


def _clean(base_path):
    """Delete what is being removed, and what no living process is writing."""
    for path in base_path.glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in base_path.glob(f"{_STAGING}*"):
        with (
            contextlib.suppress(BlockingIOError, FileNotFoundError),
            _flock(path / "lock", fcntl.LOCK_NB),
        ):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(base_path, make=False):
    """Hold the base path while versions come and go."""
    try:
        if make:
            base_path.mkdir(parents=True, exist_ok=True)
        stack = contextlib.ExitStack()
        stack.enter_context(_flock(base_path / ".lock"))
    except OSError as error:
        raise ValueError(
            f"`base_path` must be a folder that can be written ({error.strerror}). "
            f"Received: base_path={base_path}"
        ) from error
    with stack:
        yield


@contextlib.contextmanager
def _flock(path, flags=0):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _flush(folder):
    """Bring a folder's files to the disk, so that a power cut after the rename takes none."""
    for path in [*folder.rglob("*"), folder]:
        _flush_folder(path)


def _flush_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbers(versions):
    return ", ".join(map(str, versions)) or "none"
