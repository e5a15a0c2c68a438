"""The versions of a model under its base path: found, loaded, swapped and reported on."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ServingError
from serving.servable import Servable


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands, in TF Serving's words.

    Args:
        version: The version's number.
        state: `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error_code: `"OK"`, or why loading failed, as a gRPC status name.
        error_message: `""`, or one sentence about that failure.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


class ServedModel:
    """The latest version under a base path, kept up to date while the context is open.

    The base path holds one SavedModel folder per version, named by an integer; anything else in it
    is ignored. A new latest version replaces the old one once it has loaded, and calls that have
    begun finish on the version they began with. A version that does not load leaves the old one
    serving and is tried again when its files change. Deleting the latest version rolls back to the
    one before; an empty or unreadable base path changes nothing.

    Args:
        name: The model's name.
        base_path: The folder of version folders.
        file_system_poll_wait_seconds: Seconds between two looks at the base path; 0 looks once.

    Raises:
        ValueError: If the name or the interval cannot be used; on entering the context, if the
            base path is missing, or holds no version or a latest one that does not load.
    """

    def __init__(
        self, name: str, base_path: str | Path, file_system_poll_wait_seconds: float = 1.0
    ):
        if not re.fullmatch(r"[^/:]+", name):
            raise ValueError(
                f"`name` must not be empty or hold '/' or ':'. Received: name={name!r}"
            )
        if file_system_poll_wait_seconds < 0:
            raise ValueError(
                "`file_system_poll_wait_seconds` must not be negative. "
                f"Received: file_system_poll_wait_seconds={file_system_poll_wait_seconds}"
            )
        self.name = name
        self._base_path = Path(base_path)
        self._file_system_poll_wait_seconds = file_system_poll_wait_seconds
        self._loaded: dict[int, Servable] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, frozenset] = {}
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._keep_polling, daemon=True)
        self._poll_lock = threading.Lock()

    def __enter__(self) -> ServedModel:
        if not self._base_path.is_dir():
            raise ValueError(
                "`model_base_path` must be a folder that exists. "
                f"Received: model_base_path={str(self._base_path)!r}"
            )
        if not self._find_versions():
            raise ValueError(
                "`model_base_path` must hold at least one version folder, named by an integer. "
                f"Received: model_base_path={str(self._base_path)!r}"
            )
        self.poll()
        if not self._loaded:
            [failed, *_] = self.status()
            raise ValueError(
                f"Version {failed.version} of model {self.name} does not load: "
                f"{failed.error_message} Received: model_base_path={str(self._base_path)!r}"
            )
        if self._file_system_poll_wait_seconds:
            self._poller.start()
        return self

    def __exit__(self, *exception) -> None:
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join()

    def servable(self, version: int | None = None) -> Servable:
        """The loaded version to call; it stays callable while the caller holds it.

        Args:
            version: A version's number; `None` for the latest.

        Returns:
            The version.

        Raises:
            ServingError: NOT_FOUND, if that version is not loaded.
        """
        loaded = self._loaded
        wanted = max(loaded) if version is None else version
        if wanted not in loaded:
            raise ServingError(
                "NOT_FOUND", f"Servable not found for request: Specific({self.name}, {version})"
            )
        return loaded[wanted]

    def status(self, version: int | None = None) -> list[VersionStatus]:
        """Where the versions seen so far stand.

        Args:
            version: Only this version; `None` for all.

        Returns:
            The statuses, the newest version first.

        Raises:
            ServingError: NOT_FOUND, if that version has never been seen.
        """
        statuses = dict(self._statuses)
        if version is None:
            return [statuses[number] for number in sorted(statuses, reverse=True)]
        if version not in statuses:
            raise ServingError(
                "NOT_FOUND", f"Could not find version {version} of model {self.name}"
            )
        return [statuses[version]]

    def poll(self) -> None:
        """Looks at the base path once, and loads and swaps if its latest version is a new one."""
        with self._poll_lock:
            found = self._find_versions()
            self._failed = {v: files for v, files in self._failed.items() if v in found}
            latest = max(found, default=None)
            if latest is None or latest in self._loaded:
                return
            files = _snapshot(found[latest])
            if self._failed.get(latest) == files:
                return
            self._statuses[latest] = VersionStatus(latest, "LOADING")
            try:
                servable = Servable(found[latest], latest)
            except ServingError as error:
                self._failed[latest] = files
                self._statuses[latest] = VersionStatus(latest, "END", error.code, error.message)
                return
            self._statuses[latest] = VersionStatus(latest, "AVAILABLE")
            self._retire({latest: servable})
        gc.collect()  # a loaded SavedModel is full of reference cycles

    def _retire(self, successors: dict[int, Servable]) -> None:
        retired, self._loaded = self._loaded, successors
        for version, servable in retired.items():
            self._statuses[version] = VersionStatus(version, "UNLOADING")
            weakref.finalize(servable, self._ended, version)  # after the last call in flight

    def _ended(self, version: int) -> None:
        if self._statuses[version].state == "UNLOADING":
            self._statuses[version] = VersionStatus(version, "END")

    def _keep_polling(self) -> None:
        while not self._closing.wait(self._file_system_poll_wait_seconds):
            self.poll()

    def _find_versions(self) -> dict[int, Path]:
        try:
            folders = [path for path in self._base_path.iterdir() if path.is_dir()]
        except OSError:
            return {}
        return {int(p.name): p for p in folders if re.fullmatch(r"[0-9]{1,18}", p.name)}


def _snapshot(folder: Path) -> frozenset:
    with contextlib.suppress(OSError):  # the folder may be written, or go, meanwhile
        stats = [(path, path.lstat()) for path in folder.rglob("*")]
        return frozenset((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return frozenset()
