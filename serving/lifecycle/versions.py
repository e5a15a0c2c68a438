"""The versions of a model under its base path: found, loaded, swapped and reported on."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from serving.engine.errors import ServingError, from_exception
from serving.engine.load import AnyServable, load
from serving.engine.warmup_replay import replay_warmup
from serving.lifecycle.loading import DEFAULT_LOADING, Loading, VersionStatus
from serving.lifecycle.version_folders import (
    VersionPolicy,
    aspired_versions,
    find_versions,
    refuse_links_outside,
    snapshot,
)

_LOGGER = logging.getLogger("serving")
# Versions, of any model, that have ended since garbage was collected. No lock: finalizers run
# wherever the collector does.
_ENDED: list[int] = []


@dataclass(frozen=True)
class _Failure:
    """A version that did not load: its files then, the tries so far and the time of the next."""

    files: frozenset
    tries: int
    next_try: float


class ServedModel:
    """The versions under a base path that a policy asks for, kept up to date in the context.

    The base path holds one SavedModel folder per version, named by an integer; anything else in it
    is ignored, and so is what leads out of it by a symbolic link. A version is unloaded once the
    ones that the policy asks for have loaded, and calls that have begun finish on the version they
    began with. A version that does not load leaves the others serving and is tried again, at once
    when its files change. Deleting the latest version rolls back to the one before; an empty or
    unreadable base path changes nothing.

    Args:
        name: The model's name.
        base_path: The folder of version folders.
        loading: How versions are found and loaded.
        policy: Which versions to serve, a `ServableVersionPolicy` message: `latest` (the default,
            one version), `all` or `specific`.

    Raises:
        ValueError: If the name cannot be used; on entering the context, if the base path is
            missing, or holds no version to serve or only ones that do not load.
    """

    def __init__(
        self,
        name: str,
        base_path: str | Path,
        loading: Loading = DEFAULT_LOADING,
        policy: VersionPolicy | None = None,
    ):
        if not re.fullmatch(r"[^/:]+", name):
            raise ValueError(
                f"`name` must not be empty or hold '/' or ':'. Received: name={name!r}"
            )
        self.name = name
        self.base_path = Path(base_path)
        self.policy = policy or VersionPolicy()
        self.labels: dict[str, int] = {}
        self._loading = loading
        self._loaded: dict[int, AnyServable] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failures: dict[int, _Failure] = {}
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._keep_polling, daemon=True)
        self._poll_lock = threading.Lock()

    def __enter__(self) -> ServedModel:
        if not self.base_path.is_dir():
            raise ValueError(
                "`model_base_path` must be a folder that exists. "
                f"Received: model_base_path={str(self.base_path)!r}"
            )
        if not aspired_versions(self.policy, find_versions(self.base_path)):
            raise ValueError(
                "`model_base_path` must hold at least one version folder, named by an integer, "
                "that the version policy asks for. "
                f"Received: model_base_path={str(self.base_path)!r}"
            )
        self.poll()
        if not self._loaded:
            [failed, *_] = self.status()
            raise ValueError(
                f"Version {failed.version} of model {self.name} does not load: "
                f"{failed.error_message} Received: model_base_path={str(self.base_path)!r}"
            )
        if self._loading.file_system_poll_wait_seconds:
            self._poller.start()
        return self

    def __exit__(self, *exception) -> None:
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join()
        for version, servable in self._loaded.items():
            weakref.finalize(servable, _ENDED.append, version)

    def servable(self, version: int | None = None, label: str | None = None) -> AnyServable:
        """The loaded version to call; it stays callable while the caller holds it.

        Args:
            version: A version's number; `None` for the latest.
            label: A version's label, in place of its number.

        Returns:
            The version.

        Raises:
            ServingError: NOT_FOUND, if that version is not loaded; INVALID_ARGUMENT, if there is
                no such label.
        """
        loaded = self._loaded
        if label is not None:
            version = self.labeled(label)
        wanted = max(loaded) if version is None else version
        if wanted not in loaded:
            raise ServingError(
                "NOT_FOUND", f"Servable not found for request: Specific({self.name}, {version})"
            )
        return loaded[wanted]

    def labeled(self, label: str) -> int:
        """The number of the version that has a label.

        Args:
            label: The label.

        Returns:
            The version's number.

        Raises:
            ServingError: INVALID_ARGUMENT, if there is no such label.
        """
        labels = self.labels
        if label not in labels:
            raise ServingError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
        return labels[label]

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
        """Looks at the base path once; loads what the policy asks for, then unloads the rest."""
        with self._poll_lock:
            found = find_versions(self.base_path)
            self._failures = {v: failure for v, failure in self._failures.items() if v in found}
            aspired = aspired_versions(self.policy, found)
            missing = [v for v in aspired if v not in self._loaded and self._is_due(v, found[v])]
            for version in missing:
                self._statuses[version] = VersionStatus(version, "START")
            for version in missing:
                self._load(version, found[version])
            kept = {v: servable for v, servable in self._loaded.items() if v in aspired}
            if kept and kept.keys() != self._loaded.keys():
                self._retire(kept)
        if missing or _ENDED:
            _ENDED.clear()
            gc.collect()  # a loaded SavedModel is full of reference cycles

    def _load(self, version: int, folder: Path) -> None:
        self._statuses[version] = VersionStatus(version, "LOADING")
        files = snapshot(folder)
        try:
            refuse_links_outside(folder, self.base_path)
            servable = load(folder, version, self._loading)
            if self._loading.enable_model_warmup:
                replay_warmup(servable)
        except Exception as exception:  # damaged files fail in many ways
            if not isinstance(exception, ServingError):
                _LOGGER.exception("Version %d of the model %s does not load", version, self.name)
            error = exception if isinstance(exception, ServingError) else from_exception(exception)
            before = self._failures.get(version)
            tries = before.tries + 1 if before and before.files == files else 1
            wait = self._loading.load_retry_interval_micros / 1e6
            self._failures[version] = _Failure(files, tries, time.monotonic() + wait)
            self._statuses[version] = VersionStatus(version, "END", error.code, error.message)
            return
        self._failures.pop(version, None)
        self._loaded = {**self._loaded, version: servable}
        self._statuses[version] = VersionStatus(version, "AVAILABLE")

    def _is_due(self, version: int, folder: Path) -> bool:
        failure = self._failures.get(version)
        return (
            failure is None
            or failure.files != snapshot(folder)
            or (
                failure.tries <= self._loading.max_num_load_retries
                and failure.next_try <= time.monotonic()
            )
        )

    def _retire(self, successors: dict[int, AnyServable]) -> None:
        retired = {v: self._loaded[v] for v in self._loaded.keys() - successors.keys()}
        self._loaded = successors
        for version, servable in retired.items():
            self._statuses[version] = VersionStatus(version, "UNLOADING")
            weakref.finalize(servable, self._ended, version)  # after the last call in flight

    def _ended(self, version: int) -> None:
        if self._statuses[version].state == "UNLOADING":
            self._statuses[version] = VersionStatus(version, "END")
        _ENDED.append(version)

    def _keep_polling(self) -> None:
        said = ""
        while not self._closing.wait(self._loading.file_system_poll_wait_seconds):
            try:
                self.poll()
                said = ""
            except Exception as error:  # or nothing would ever be loaded again
                if repr(error) != said:
                    said = repr(error)
                    _LOGGER.exception("The base path of the model %s was not read", self.name)
