"""The folder of a training run: every file in it is either absent or whole.

config.json     the recipe, the `Dataset`, versions and hardware, written first
checkpoints/    the last two epochs: every variable, and the history until then
history.csv     one row per epoch
logs/           TensorBoard
model.keras     the trained network, with class probabilities
metrics.json    the final measurements, written last: a run with this file is finished
"""

import contextlib
import csv
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from training.recipe import Recipe

KEPT_CHECKPOINTS = 2

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_CONFIG_KEYS = ("name", "recipe", "data", "execution", "versions", "hardware")
RECIPE_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Recipe)
    if field.default is not dataclasses.MISSING
}

History = list[dict[str, Any]]  # a row for each epoch


class RunFolder:
    """The folder of one run, written by the chief of its workers alone; it need not exist."""

    def __init__(self, path: str | os.PathLike[str], writable: bool = True) -> None:
        self.path = pathlib.Path(path)
        self.writable = writable
        self.logs = self.path / "logs"
        self.model = self.path / "model.keras"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.json"
        self._checkpoints = self.path / "checkpoints"

    def config(self) -> dict[str, Any] | None:
        """Return the configuration of the run, or `None` before it has begun."""
        if not self._config.is_file():
            return None
        try:
            config = json.loads(self._config.read_text())
            # what a recipe did not have when the run began was as the default is now
            config["recipe"] = {**RECIPE_DEFAULTS, **config["recipe"]}
            config.setdefault("execution", {"replicas": 1})
            return {key: config[key] for key in _CONFIG_KEYS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"config.json is not that of a training run. Received: {self._config}"
            ) from error

    def metrics(self) -> dict[str, Any] | None:
        """Return the final metrics, or `None` before the run has finished."""
        return json.loads(self._metrics.read_text()) if self._metrics.is_file() else None

    def is_finished(self) -> bool:
        """Return whether the run has a trained network and its final metrics."""
        return self._metrics.is_file() and self.model.is_file()

    def finished(self) -> dict[str, Any]:
        """Return the configuration of a run that has finished."""
        config = self.config()
        if config is None or not self.is_finished():
            raise ValueError(
                "`run` must be the folder of a finished run; `python -m training.train` with its "
                f"recipe and workdir finishes one. Received: run={self.path}"
            )
        return config

    def check(self, config: dict[str, Any]) -> None:
        """Raise a `ValueError` unless a run of this configuration may begin or go on here."""
        before = self.config()
        if before is not None:
            require_same(_decisive(before), _decisive(config), self.path)
        elif self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir()):
            raise ValueError(
                "`workdir` must be a new or empty folder or that of a run, and this one has "
                f"files but no config.json. Received: workdir={self.path}"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, killed or not."""
        if not self.writable:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    "`workdir` is in use by another training process. "
                    f"Received: workdir={self.path}"
                ) from None
            yield

    def begin(self, config: dict[str, Any]) -> None:
        """Write the configuration, unless the run has begun before."""
        if self.writable and not self._config.is_file():
            _atomic().write_json(self._config, config)

    def save_checkpoint(self, model: Any, history: History) -> None:
        """Save a compiled model and the rows of its history, and drop old checkpoints."""
        if not self.writable:
            return
        import keras

        variables = _variables(model).items()
        arrays: Any = {name: keras.ops.convert_to_numpy(v) for name, v in variables}
        checkpoint = self._checkpoints / f"epoch_{len(history):04}"
        _atomic().remove(checkpoint)  # one that was damaged
        with _atomic().replacing(checkpoint) as folder:
            folder.mkdir()
            np.savez(folder / "variables.npz", **arrays)
            (folder / "history.json").write_text(json.dumps(history))
        self._write_history(history)
        for old in self._epochs()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def load_checkpoint(self, model: Any) -> History:
        """Bring a compiled model to the last checkpoint that can be read; return its history."""
        for checkpoint in reversed(self._epochs()):
            try:
                history = json.loads((checkpoint / "history.json").read_text())
                with np.load(checkpoint / "variables.npz") as saved:
                    arrays = dict(saved.items())
            except _DAMAGED as error:
                print(f"{checkpoint}: damaged ({error}), and left out", file=sys.stderr)
                continue
            variables = _variables(model)
            expected = {name: tuple(v.shape) for name, v in variables.items()}
            if {name: array.shape for name, array in arrays.items()} != expected:
                raise ValueError(
                    "`workdir` has a checkpoint whose variables are not those of the model; was "
                    f"it written by another version? Received: workdir={self.path}"
                )
            for name, variable in variables.items():
                variable.assign(arrays[name])
            self._write_history(history)
            return history
        if self._epochs():
            raise ValueError(
                "`workdir` must have a checkpoint that can be read; remove its folder checkpoints "
                f"to begin anew. Received: workdir={self.path}"
            )
        return []

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the final metrics; the run is finished."""
        _atomic().write_json(self._metrics, metrics)

    def _epochs(self) -> list[pathlib.Path]:
        return sorted(self._checkpoints.glob("epoch_*"), key=lambda p: int(p.name[6:]))

    def _write_history(self, history: History) -> None:
        if not self.writable:
            return
        path = self.path / "history.csv"
        with _atomic().replacing(path) as temporary, temporary.open("w") as file:
            writer = csv.DictWriter(file, history[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunFolder]:
    """Return the finished runs in some folders, each a run or a study; others are named."""
    found: dict[str, RunFolder] = {}
    for path in map(pathlib.Path, paths):
        files = sorted(path.rglob("config.json"))
        runs = [RunFolder(f.parent) for f in files if "compressed" not in f.relative_to(path).parts]
        if not any(run.is_finished() for run in runs):
            raise ValueError(
                f"`run` must be the folder of a finished run, or of several. Received: run={path}"
            )
        for run in runs:
            if not run.is_finished():
                print(f"{run.path}: not finished, and left out", file=sys.stderr)
                continue
            recipe = json.dumps(run.finished()["recipe"], sort_keys=True)
            other = found.setdefault(recipe, run)
            if other.path.resolve() != run.path.resolve():
                raise ValueError(
                    "`run` must have one run for each seed of a recipe. "
                    f"Received: run={other.path} and {run.path}"
                )
    return list(found.values())


def _atomic() -> ModuleType:
    """Import what imports Keras, for seconds, only where a folder is written."""
    from keras_multiception import atomic

    return atomic


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Raise a `ValueError` that names the settings in which `now` differs from `before`."""
    now = json.loads(json.dumps(now))
    differing = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            "`workdir` must not hold another configuration; choose a new folder, or the values of "
            f"before. Different: {', '.join(differing)}. Received: workdir={workdir}"
        )


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a run to go on: all that decides its outcome."""
    replicas = 1 if config["recipe"]["sync_batch_norm"] else config["execution"]["replicas"]
    return {**config["recipe"], **config["data"], "replicas": replicas}


def _variables(model: Any) -> dict[str, Any]:
    """Name all state of a compiled model; `model.save_weights` leaves out random generators."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    owners = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{name}/{i}": v for name, own in owners.items() for i, v in enumerate(own)}
