"""The results of a study, as one dictionary made from its run folders.

The tables and the figure of a study are made from this dictionary alone, so that a result file
suffices to make them again.
"""

import csv
import dataclasses
import itertools
import json
import shlex
import statistics

from training.paper_tables import CELLS
from training.recipes import TYPES, recipe_for_cell
from training.reporting.stats import TEST, compare

# Keys of a recipe that make the network of a cell; the others make its training.
_OF_CELL = ("dataset", "model", "conv", "kernel_sizes")
# Errors on other images are no two measurements of one thing.
_OF_IMAGES = ("dataset", "test_split")


def collect(runs, *, command="", note=""):
    """Collect what the runs of a study measured.

    Args:
        runs: List of `Run`, finished or not.
        command: String, the command that makes the study.
        note: String, what a reader must know of the data.

    Returns:
        A dictionary of `command`, `note`, `environments` (versions and hardware, to which runs
        refer by index), `conditions`, `comparisons` and `missing`. Errors are top-1 test errors
        in percent.
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
        "comparisons": comparisons(conditions),
        "missing": [str(run) for run in runs if not run.folder.metrics()],
    }


def comparisons(conditions):
    """Compare every two conditions whose recipes differ in one key, on the same test images.

    Args:
        conditions: List of dictionaries, as of `collect`.

    Returns:
        A list of dictionaries: labels `first` and `second`, the `key` in which they differ, what
        `compare` found on first minus second, and `paper`, that difference in the paper or
        `None`.
    """
    found = []
    for second, first in itertools.combinations(conditions, 2):
        ours, theirs = first["recipe"], second["recipe"]
        keys = [key for key in ours if ours[key] != theirs[key]]
        errors = [{run["seed"]: run["error"] for run in c["runs"]} for c in (first, second)]
        comparison = compare(*errors)
        if len(keys) != 1 or keys[0] in _OF_IMAGES or comparison is None:
            continue
        papers = [
            c["paper"]["error"] for c in (first, second) if c["paper"] and keys[0] in _OF_CELL
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


def _place(condition):
    return condition["recipe"]["dataset"], condition["recipe"]["model"]


def _condition(condition, runs, environments):
    measured = [_run(run, environments) for run in runs if run.folder.metrics()]
    errors = [run["error"] for run in measured]
    recipe = _plain(dataclasses.asdict(condition.recipe))
    del recipe["seed"]
    last = next((run.folder for run in runs if run.folder.metrics()), None)
    return {
        "label": condition.label,
        "command": f"python -m training.train {shlex.join(runs[0].arguments)}",
        "recipe": recipe,
        "paper": _paper(recipe),
        "planned": len(runs),
        "n": len(errors),
        "mean": statistics.fmean(errors) if errors else None,
        "sd": statistics.stdev(errors) if len(errors) > 1 else None,
        "parameters": last.metrics()["parameters"]["trainable"] if last else None,
        "multiply_adds": last.metrics().get("multiply_adds") if last else None,
        "images_per_second": (
            statistics.median(run["images_per_second"] for run in measured) if measured else None
        ),
        "runs": measured,
    }


def _run(run, environments):
    metrics, config = run.folder.metrics(), run.folder.config()
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


def _error(top1):
    return round(100 * (1 - top1), 4)


def _paper(recipe):
    """Return what the paper measured with a network, and how its recipe was another one."""
    for cell in CELLS:
        theirs = _plain(dataclasses.asdict(recipe_for_cell(cell)))
        if all(recipe[key] == theirs[key] for key in _OF_CELL):
            differing = {
                key: [recipe[key], theirs[key]] for key in recipe if recipe[key] != theirs[key]
            }
            return {"table": cell.table, "error": cell.error, "differing": differing}
    return None


def _plain(value):
    return json.loads(json.dumps(value))
