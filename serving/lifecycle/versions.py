"""The versions of one model under its base path: found, loaded, swapped and reported on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)

from serving.engine.backends import TENSORFLOW, LiteRTServable, SavedModelServable
from serving.engine.batching import Batching
from serving.engine.messages import replay_warmup
from serving.engine.servable import Servable, ServingError, from_exception
from serving.publishing.base_path import list_versions
from serving.version_folder import LITERT_FILE

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy
# Path, size and time of each file of a version.
Snapshot: TypeAlias = frozenset[tuple[Path, int, int]]
_LOGGER = logging.getLogger("serving")
# Versions, of any model, that have ended since garbage was collected. No lock: finalizers run
# wherever the collector does.
_ENDED: list[int] = []


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
    engine: str = TENSORFLOW  # that runs the networks of versions with a file for it
    engine_threads: int | None = None  # of one call; `None` for as many as processors


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands, in TF Serving's words."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    error_code: str = "OK"  # or why loading failed, as a gRPC status name
    error_message: str = ""


@dataclass(frozen=True)
class _Failure:
    """A version that did not load: its files then, the tries so far and the time of the next."""

    files: Snapshot
    tries: int
    next_try: float


def not_found(name: str, version: int | None) -> ServingError:
    """The error of a model, or a version, that is not loaded, in TF Serving's words."""
    wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return ServingError("NOT_FOUND", f"Servable not found for request: {wanted}")


class ServedModel:
    """The versions under a base path that a policy asks for, kept up to date in the context.

    A version is unloaded once its successors have loaded, and calls that have begun finish on it.
    One that does not load leaves the others serving and is tried again. Deleting the latest rolls
    back; an empty or unreadable base path changes nothing.
    """

    def __init__(
        self,
        name: str,
        base_path: str | Path,
        loading: Loading,
        policy: VersionPolicy | None = None,
    ):
        if not name:
            raise ValueError(f"`name` must not be empty. Received: name={name!r}")
        self.name = name
        self.base_path = Path(base_path)
        self.policy = policy or VersionPolicy()
        self.labels: dict[str, int] = {}
        self._loading = loading
        self._loaded: dict[int, Servable] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failures: dict[int, _Failure] = {}
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._keep_polling, daemon=True)
        self._poll_lock = threading.Lock()

    def __enter__(self) -> ServedModel:
        if not aspired_versions(self.policy, find_versions(self.base_path)):
            raise ValueError(
                "`model_base_path` must be a folder with at least one version folder, named by an "
                "integer, that the version policy asks for. "
                f"Received: model_base_path={str(self.base_path)!r}"
            )
        self.poll()
        if not self._loaded:
            [failed, *_] = self.status()
            raise ValueError(
                f"Version {failed.version} of model {self.name} does not load: "
                f"{failed.error_message} Received: model_base_path={str(self.base_path)!r}"
            )
        if self._loading.file_system_poll_wait_seconds > 0:
            self._poller.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join()
        for version, servable in self._loaded.items():
            weakref.finalize(servable, _ENDED.append, version)

    def servable(self, version: int | None = None) -> Servable:
        """The loaded version to call, the latest by default; it stays callable while it is held."""
        loaded = self._loaded
        wanted = max(loaded) if version is None else version
        if wanted not in loaded:
            raise not_found(self.name, version)
        return loaded[wanted]

    def status(self, version: int | None = None) -> list[VersionStatus]:
        """Where the versions seen so far stand, or one of them; the newest first."""
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
            check_links(folder, self.base_path)
            servable = load(folder, version, self._loading)
        except Exception as exception:  # damaged files fail in many ways
            error = exception if isinstance(exception, ServingError) else from_exception(exception)
            if self._poller.is_alive() or error is not exception:  # or the server says it itself
                text = "Version %d of the model %s does not load: %s"
                _LOGGER.error(text, version, self.name, error, exc_info=error is not exception)
            before = self._failures.get(version)
            tries = before.tries + 1 if before and before.files == files else 1
            wait = self._loading.load_retry_interval_micros / 1e6
            self._failures[version] = _Failure(files, tries, time.monotonic() + wait)
            self._statuses[version] = VersionStatus(version, "END", error.code, error.message)
            return
        self._failures.pop(version, None)
        self._loaded = {**self._loaded, version: servable}
        self._statuses[version] = VersionStatus(version, "AVAILABLE")
        _LOGGER.info("Version %d of the model %s is served", version, self.name)

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

    def _retire(self, successors: dict[int, Servable]) -> None:
        retired = {v: self._loaded[v] for v in self._loaded.keys() - successors.keys()}
        self._loaded = successors
        for version, servable in retired.items():
            self._statuses[version] = VersionStatus(version, "UNLOADING")
            _LOGGER.info("Version %d of the model %s is unloaded", version, self.name)
            weakref.finalize(servable, self._ended, version)  # after the last call in flight

    def _ended(self, version: int) -> None:
        if self._statuses[version].state == "UNLOADING":
            self._statuses[version] = VersionStatus(version, "END")
        _ENDED.append(version)

    def _keep_polling(self) -> None:
        while not self._closing.wait(self._loading.file_system_poll_wait_seconds):
            try:
                self.poll()
            except Exception:  # or nothing would ever be loaded again
                _LOGGER.exception("The base path of the model %s was not read", self.name)


def load(folder: Path, version: int, loading: Loading) -> Servable:
    """Loads a version, its LiteRT file if one is there and preferred, and replays its warm-up."""
    checks = loading.enable_signature_method_name_check
    servable: Servable
    if loading.prefer_tflite_model and (folder / LITERT_FILE).is_file():
        pools = loading.num_tflite_pools or os.cpu_count() or 1
        interpreters = pools * loading.num_tflite_interpreters_per_pool
        servable = LiteRTServable(folder, version, checks, interpreters)
    else:
        engine = loading.engine, loading.engine_threads
        servable = SavedModelServable(folder, version, loading.batching, checks, *engine)
    if loading.enable_model_warmup:
        for _ in range(max(1, loading.num_request_iterations_for_warmup)):
            replay_warmup(servable)
    return servable


def find_versions(base_path: Path) -> dict[int, Path]:
    """The version folders in a base path, by number; those that links lead out of it are not."""
    with contextlib.suppress(OSError):
        base, found = base_path.resolve(), list_versions(base_path)
        return {v: path for v, path in found.items() if path.resolve().is_relative_to(base)}
    return {}


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
