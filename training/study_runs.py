"""What a study runs, and the training of its runs, each in a process of its own.

A study keeps no state but the run folders: a run with metrics is finished, any other one is
started or resumed, unless another study is training it. Beside each folder lies the log of its
training, `seed_N.log`. A training process ends with the study that started it, however that ends.
"""

import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from training.recipe import Recipe
from training.recipes import cells, get_recipe, recipe_for_cell, recipe_name
from training.run_folder import RunFolder, require_same

_SPAWN = multiprocessing.get_context("spawn")
Place = str | set[int] | None  # a GPU, some cores, or all of them


@dataclasses.dataclass(frozen=True)
class Condition:
    """What runs share that differ in their seed alone."""

    label: str  # which names the folder
    recipe: Recipe  # with any seed
    arguments: tuple[str, ...]  # of `python -m training.train`; the last ones are changes


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study."""

    condition: Condition
    seed: int
    path: pathlib.Path

    def __str__(self) -> str:
        return f"{self.condition.label}, seed {self.seed}"

    @property
    def recipe(self) -> Recipe:
        """The recipe with this run's seed."""
        return dataclasses.replace(self.condition.recipe, seed=self.seed)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `python -m training.train`, but for its folders."""
        return (*self.condition.arguments, f"seed={self.seed}")

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.path)


def recipes_of_tables(
    tables: Iterable[int], models: Sequence[str] = (), datasets: Sequence[str] = ()
) -> list[str]:
    """Return the names of the recipes of the tables, each once; no `models` keep all of them."""
    found = [cell for table in tables for cell in cells(table)]
    for key, kept in {"model": models, "dataset": datasets}.items():
        there = dict.fromkeys(getattr(cell, key) for cell in found)
        for name in kept:
            if name not in there:
                raise ValueError(
                    f"`{key}s` must be of what the tables have: {', '.join(there)}. "
                    f"Received: {key}s={name}"
                )
        found = [cell for cell in found if not kept or getattr(cell, key) in kept]
    return list(dict.fromkeys(recipe_name(recipe_for_cell(cell)) for cell in found))


def plan_conditions(
    names: Iterable[str],
    *,
    quick: bool = False,
    changes: Sequence[str] = (),
    grid: Sequence[str] = (),
) -> list[Condition]:
    """Combine recipes, each with all `changes`, with every point of a grid, of `key=value`s."""
    axes: dict[str, list[str]] = {}
    for change in grid:
        axes.setdefault(change.partition("=")[0], []).append(change)
    if "seed" in {change.partition("=")[0] for change in (*changes, *grid)}:
        raise ValueError("`seed` is set by --seeds. Received: seed in --set or --grid")
    conditions: dict[str, Condition] = {}
    for name in names:
        for point in itertools.product(*axes.values()):
            parts = (pathlib.Path(name).stem, *(("quick",) if quick else ()), *point)
            label = "_".join(parts).replace("/", "-")
            recipe = get_recipe(name, (*changes, *point), quick)
            flags = ("--quick", "--set") if quick else ("--set",)
            condition = Condition(label, recipe, ("--recipe", name, *flags, *changes, *point))
            if conditions.setdefault(label, condition) != condition:
                raise ValueError(f"`recipe` must not name two by the same name. Received: {name}")
    return list(conditions.values())


def plan_runs(conditions: Iterable[Condition], seeds: int, workdir: pathlib.Path) -> list[Run]:
    """Return the runs of a study, every condition with one seed after the other."""
    conditions = list(conditions)
    runs = [
        Run(condition, seed, workdir / condition.label / f"seed_{seed}")
        for seed in range(seeds)
        for condition in conditions
    ]
    for run in runs:
        if config := run.folder.config():
            require_same(config["recipe"], dataclasses.asdict(run.recipe), run.path)
    return runs


def find_gpus() -> list[str]:
    """Return the GPUs as `CUDA_VISIBLE_DEVICES` names them, without occupying any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    return result.stdout.split() if result.returncode == 0 else []


def train_runs(
    runs: Sequence[Run],
    gpus: Sequence[str],
    parallel: int,
    options: Sequence[str],
    on_finish: Callable[[], None],
) -> None:
    """Train the runs that are not finished, in their order, `parallel` of them at a time.

    `options` are more arguments of `python -m training.train`.
    """
    waiting = [run for run in runs if not run.folder.metrics()]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished.", flush=True)
    if parallel > max(1, len(gpus)):  # several on one GPU: each takes the memory that it needs
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    places: list[Place] = [gpus[slot % len(gpus)] for slot in range(parallel)] if gpus else []
    places = places or _share_cores(parallel)
    busy: dict[_Training, Place] = {}
    try:
        while waiting or busy:
            if waiting and places:
                place = places.pop(0)
                busy[_Training(waiting.pop(0), place, options)] = place
                continue
            multiprocessing.connection.wait([training.process.sentinel for training in busy])
            for training in [each for each in busy if not each.process.is_alive()]:
                places.append(busy.pop(training))
                if training.report():
                    on_finish()
    finally:
        for training in busy:
            training.process.terminate()
            training.process.join()


def _share_cores(parallel: int) -> list[Place]:
    """Return the cores of each process: two with a core each are faster than one on both."""
    if parallel == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * parallel
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[slot % len(cores) :: parallel]) for slot in range(parallel)]


class _Training:
    """A run that is being trained in a process of its own."""

    def __init__(self, run: Run, place: Place, options: Sequence[str]) -> None:
        print(f"{run}: {'resumed' if run.folder.config() else 'started'}", flush=True)
        self._run, self._log, self._begin = run, run.path.with_suffix(".log"), time.monotonic()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--workdir", str(run.path), *options, *run.arguments]
        self.process = _SPAWN.Process(target=_train, args=(arguments, self._log, place))
        self.process.start()

    def report(self) -> bool:
        """Say how the run ended, and return whether it is finished."""
        self.process.join()
        if metrics := self._run.folder.metrics():
            minutes = (time.monotonic() - self._begin) / 60
            message = f"{100 * (1 - metrics['test']['top1']):.2f} % error, {minutes:.1f} minutes"
        else:
            lines = self._log.read_text(errors="replace").split("\n")
            message = (
                f"FAILED with exit code {self.process.exitcode}, others go on: "
                f"{next(filter(str.strip, reversed(lines)), 'no message')} "
                f"(all of it in {self._log})"
            )
        print(f"{self._run}: {message}", flush=True)
        return metrics is not None


def _train(arguments: list[str], log: pathlib.Path, place: Place) -> None:
    """Run the train command in this new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = log.open("a")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file.fileno(), stream.fileno())
    sys.stdout = sys.stderr  # which is not buffered
    if isinstance(place, str):
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    elif place:
        os.sched_setaffinity(0, place)
    from training.train import main

    sys.exit(main(arguments))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a process that `_Training` started
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
