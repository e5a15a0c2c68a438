"""What a study runs: its conditions, each a recipe, and a run of each for every seed."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable

from training.paper_tables import cells
from training.recipe import Recipe
from training.recipes import get_recipe, recipe_for_cell, recipe_name
from training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the runs of a study share that differ in their seed alone.

    Attributes:
        label: Name in the study, of which the folder is made.
        recipe: A `Recipe`; its seed does not matter.
        arguments: Arguments of `python -m training.train` that give the recipe.
    """

    label: str
    recipe: Recipe
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        condition: A `Condition`.
        seed: Integer.
        path: Path of its run folder.
    """

    condition: Condition
    seed: int
    path: pathlib.Path

    def __str__(self):
        return f"{self.condition.label}, seed {self.seed}"

    @property
    def recipe(self):
        """The `Recipe` with this run's seed."""
        return dataclasses.replace(self.condition.recipe, seed=self.seed)

    @property
    def arguments(self):
        """Arguments of `python -m training.train`, but for its folders."""
        changes = self.condition.arguments
        return (*changes, *(() if "--set" in changes else ("--set",)), f"seed={self.seed}")

    @property
    def folder(self):
        """The `RunFolder`."""
        return RunFolder(self.path)


def recipes_of_tables(tables, models=(), datasets=()):
    """Return the names of the recipes that make the cells of the paper's tables.

    Args:
        tables: Numbers of tables, 1 to 5.
        models: Names of networks to keep; empty for all.
        datasets: Names of data sets to keep; empty for all.

    Returns:
        A list of strings, each once.

    Raises:
        ValueError: If there is no such table, or none of its cells is kept.
    """
    found = [cell for table in tables for cell in cells(table)]
    for key, kept in {"model": models, "dataset": datasets}.items():
        there = dict.fromkeys(getattr(cell, key) for cell in found)
        for name in kept:
            if name not in there:
                raise ValueError(
                    f"`{key}s` must be of the tables asked for: {', '.join(there)}. "
                    f"Received: {key}s={name}"
                )
    names = [
        recipe_name(recipe_for_cell(cell))
        for cell in found
        if (not models or cell.model in models) and (not datasets or cell.dataset in datasets)
    ]
    if tables and not names:
        raise ValueError(
            "`models` and `datasets` leave no cell of the tables asked for. "
            f"Received: models={' '.join(models)}, datasets={' '.join(datasets)}"
        )
    return list(dict.fromkeys(names))


def plan_conditions(names, *, quick=False, changes=(), grid=()):
    """Combine recipes with the values of a grid.

    Args:
        names: Names of recipes, or paths of `.json` files.
        quick: Boolean, whether to take the quick variants.
        changes: Strings `key=value`, changed in every recipe.
        grid: Strings `key=value`; a key that comes several times is tried with each value.

    Returns:
        A list of `Condition`.

    Raises:
        ValueError: If a recipe, a key or a value is not valid.
    """
    axes: dict[str, list[str]] = {}
    for change in grid:
        axes.setdefault(change.partition("=")[0], []).append(change)
    if "seed" in {change.partition("=")[0] for change in (*changes, *grid)}:
        raise ValueError("`seed` is set by --seeds. Received: seed in --set or --grid")
    conditions: dict[str, Condition] = {}
    for name in names:
        for point in itertools.product(*axes.values()):
            label = "_".join(
                (pathlib.Path(name).stem, *(("quick",) if quick else ()), *point)
            ).replace("/", "-")
            recipe = get_recipe(name, (*changes, *point), quick)
            arguments = ["--recipe", name, *(["--quick"] if quick else [])]
            if changes or point:
                arguments += ["--set", *changes, *point]
            condition = Condition(label, recipe, tuple(arguments))
            if conditions.setdefault(label, condition) != condition:
                raise ValueError(f"`recipe` must not name two by the same name. Received: {name}")
    return list(conditions.values())


def check_networks(conditions):
    """Raise a `ValueError` if a recipe's network or data set is unknown.

    Args:
        conditions: List of `Condition`.
    """
    from keras_multiception import list_models  # imports Keras, which takes seconds
    from keras_multiception.applications.classifier import stage_kernel_sizes
    from keras_multiception.preprocessing import DATASETS
    from training.data import FOLDER

    known = {"model": list_models(), "dataset": [*DATASETS, FOLDER]}
    for condition in conditions:
        for key, names in known.items():
            value = getattr(condition.recipe, key)
            if value not in names:
                raise ValueError(
                    f"`{key}` must be one of {', '.join(names)}. Received: {key}={value}"
                )
        sizes = condition.recipe.kernel_sizes
        by_stage = isinstance(sizes, tuple) and isinstance(sizes[0], tuple)
        stage_kernel_sizes(condition.recipe.conv, sizes, len(sizes) if by_stage else 1)


def plan_runs(conditions: Iterable[Condition], seeds: int, workdir: pathlib.Path) -> list[Run]:
    """Return the runs of a study, one seed of every condition after the other.

    Args:
        conditions: Of `plan_conditions`.
        seeds: Number of seeds, from 0.
        workdir: Folder of the study.

    Returns:
        A list of `Run`.

    Raises:
        ValueError: If a folder holds a run of another recipe.
    """
    if seeds < 1:
        raise ValueError(f"`seeds` must be at least 1. Received: seeds={seeds}")
    runs = [
        Run(condition, seed, workdir / condition.label / f"seed_{seed}")
        for seed in range(seeds)
        for condition in conditions
    ]
    for run in runs:
        _require_same_recipe(run)
    return runs


def _require_same_recipe(run):
    config = run.folder.config()
    if config is None:
        return
    there, now = config["recipe"], json.loads(json.dumps(dataclasses.asdict(run.recipe)))
    differing = [
        f"{key} ({there.get(key)} there, {value} now)"
        for key, value in now.items()
        if there.get(key) != value
    ]
    if differing:
        raise ValueError(
            "`workdir` must not hold runs of other recipes; choose a new folder, or the values "
            f"of before. Different: {', '.join(differing)}. Received: workdir={run.path}"
        )
