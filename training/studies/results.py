"""The results of a study, as one dictionary made from its run folders.

The page of a study is made from this dictionary alone, so that its file suffices to make it again.
"""

import csv
import dataclasses
import itertools
import json
import pathlib
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from training.paper_tables import CELLS
from training.recipes import TYPES, recipe_for_cell
from training.reporting.stats import TEST, compare, deviation, mean
from training.reporting.tables import require_own_output
from training.studies.runs import Condition, Run

Results = dict[str, Any]
# Keys of a recipe that make the network of a cell; the others make its training.
_CELL_KEYS = ("dataset", "model", "conv", "kernel_sizes")
# Errors on other images are no two measurements of one thing.
_DATA_KEYS = ("dataset", "test_split")


def collect(runs: Sequence[Run], *, command: str = "", note: str = "") -> Results:
    """Collect what the runs of a study measured, finished or not.

    Errors are top-1 test errors in percent. Runs refer to `environments`, versions and hardware, by
    their index.
    """
    environments: list[dict] = []
    conditions = [
        _condition(condition, [run for run in runs if run.condition == condition], environments)
        for condition in dict.fromkeys(run.condition for run in runs)
    ]
    places = list(dict.fromkeys(map(_place, conditions)))
    conditions.sort(key=lambda c: (places.index(_place(c)), TYPES.index(c["recipe"]["conv"])))
    return {
        "command": command,
        "note": note,
        "environments": environments,
        "conditions": conditions,
        "test": TEST,
        "comparisons": _comparisons(conditions),
        "missing": [str(run) for run in runs if not run.folder.metrics()],
    }


def require_own_results(output: pathlib.Path, runs: Sequence[Run], summary_only: bool) -> None:
    """Raise a `ValueError` if there is a summary of what this study does not have."""
    own = {run.condition.label for run in runs}
    own |= {str(run) for run in runs if run.folder.metrics() or not summary_only}

    def names_in(results: Results) -> dict[str, str]:
        labels = [each["label"] for each in results["conditions"]]
        names = (
            f"{each['label']}, seed {run['seed']}"
            for each in results["conditions"]
            for run in each["runs"]
        )
        return {name: name for name in (*labels, *names)}

    require_own_output(output, names_in, own)


def _comparisons(conditions: Sequence[Results]) -> list[Results]:
    """Compare every two conditions whose recipes differ in one key, on the same test images."""
    found = []
    for second, first in itertools.combinations(conditions, 2):
        ours, theirs = first["recipe"], second["recipe"]
        keys = [key for key in ours if ours[key] != theirs[key]]
        errors = [{run["seed"]: run["error"] for run in c["runs"]} for c in (first, second)]
        comparison = compare(*errors)
        if len(keys) != 1 or keys[0] in _DATA_KEYS or comparison is None:
            continue
        papers = [
            c["paper"]["error"] for c in (first, second) if c["paper"] and keys[0] in _CELL_KEYS
        ]
        found.append(
            {
                "first": first["label"],
                "second": second["label"],
                "key": keys[0],
                **dataclasses.asdict(comparison),
                "paper": round(papers[0] - papers[1], 2) if len(papers) == 2 else None,
            }
        )
    return found


def _place(condition: Results) -> tuple[str, str]:
    return condition["recipe"]["dataset"], condition["recipe"]["model"]


def _condition(condition: Condition, runs: list[Run], environments: list[dict]) -> Results:
    finished = [(run, metrics) for run in runs if (metrics := run.folder.metrics())]
    measured = [_run(run, metrics, environments) for run, metrics in finished]
    errors = [run["error"] for run in measured]
    speeds = [run["images_per_second"] for run in measured]
    recipe = _plain(dataclasses.asdict(condition.recipe))
    del recipe["seed"]
    first = finished[0][1] if finished else {}
    return {
        "label": condition.label,
        "command": f"python -m training.train {shlex.join(runs[0].arguments)}",
        "recipe": recipe,
        "paper": _paper(recipe),
        "planned": len(runs),
        "n": len(errors),
        "mean": mean(errors),
        "sd": deviation(errors),
        "parameters": first.get("parameters", {}).get("trainable"),
        "multiply_adds": first.get("multiply_adds"),
        "images_per_second": statistics.median(speeds) if speeds else None,
        "runs": measured,
    }


def _run(run: Run, metrics: Results, environments: list[dict]) -> Results:
    config = run.folder.config() or {}
    environment = {key: config[key] for key in ("versions", "hardware")}
    if environment not in environments:
        environments.append(environment)
    with open(run.path / "history.csv", encoding="utf-8", newline="") as file:
        curve = [_error(float(row["val_top1"])) for row in csv.DictReader(file)]
    return {
        "seed": run.seed,
        "error": _error(metrics["test"]["top1"]),
        "train_error": _error(metrics["train"]["top1"]),
        "test_examples": metrics["test"]["examples"],
        "images_per_second": round(metrics["images_per_second"], 1),
        "seconds": round(metrics["wall_seconds"], 1),
        "environment": environments.index(environment),
        "error_by_epoch": curve,
    }


def _error(top1: float) -> float:
    return round(100 * (1 - top1), 4)


def _paper(recipe: Results) -> Results | None:
    """Return what the paper measured with a network, and how its recipe was another one."""
    for cell in CELLS:
        theirs = _plain(dataclasses.asdict(recipe_for_cell(cell)))
        if all(recipe[key] == theirs[key] for key in _CELL_KEYS):
            differing = {
                key: [recipe[key], theirs[key]] for key in recipe if recipe[key] != theirs[key]
            }
            return {"table": cell.table, "error": cell.error, "differing": differing}
    return None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
