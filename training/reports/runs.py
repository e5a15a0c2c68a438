"""The finished runs of a report: read, held against each other, and measured."""

import csv
import dataclasses
import functools
import itertools
import math
import pathlib

import numpy as np

import keras_multiception as km
from training import data, metrics
from training.reports.measures import compare, measure_predictions
from training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run as its folder tells it.

    Attributes:
        name: What the report calls it.
        model: Path of the trained network.
        config: Dictionary as in config.json.
        metrics: Dictionary as in metrics.json.
        history: Dictionary from the columns of history.csv to a list of floats.
    """

    name: str
    model: pathlib.Path
    config: dict
    metrics: dict
    history: dict

    @property
    def split(self):
        """The split that the run is measured on."""
        return self.config["recipe"]["test_split"]


def read_runs(paths):
    """Read the folders of runs.

    Args:
        paths: List of paths.

    Returns:
        A list of `Run`.

    Raises:
        ValueError: If a folder is not that of a finished run, is there twice, or the runs are
            not of the same data set.
    """
    paths = [pathlib.Path(path) for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"`run` must name each folder once. Received: {' '.join(map(str, paths))}")
    unique = len({path.resolve().name for path in paths}) == len(paths)
    runs = [_read_run(path, path.resolve().name if unique else str(path)) for path in paths]
    for run in runs[1:]:
        _require_same_data(runs[0], run)
    return runs


def measure_runs(runs, data_dir=None):
    """Let the networks of runs classify their test splits, and measure how they do.

    Args:
        runs: List of `Run` of one data set.
        data_dir: Directory of the data, as in `training.data.load`.

    Returns:
        A dictionary of what can be written as JSON: `data`, the facts of the data set; `runs`,
        for each its `name`, configuration, `costs` and what `measure_predictions` returns; and
        `comparisons`, what `compare` returns for each two runs on the same split. And a list of
        images for each run, those of its `mistakes`.

    Raises:
        ValueError: If the data cannot be read or are not those that the runs were measured on.
    """
    recipe = runs[0].config["recipe"]
    names = runs[0].config["data"]["class_names"]
    load = functools.cache(
        lambda split: data.load(recipe["dataset"], split, data_dir, recipe.get("image_size", 0))
    )
    entries, mistakes, right = [], [], []
    for run in runs:
        images, labels = load(run.split)
        _require_same_labels(run, labels, names)
        model = metrics.load_model(run.model)
        predictions = metrics.log_probabilities(model, images, dataset=_dataset(run))
        measured = measure_predictions(predictions, labels, names)
        _require_same_loss(run, measured["calibration"]["negative_log_likelihood"])
        entries.append(
            {
                "name": run.name,
                "recipe_name": run.config["name"],
                **{key: run.config[key] for key in ("recipe", "versions", "hardware")},
                "costs": _costs(model, run.metrics),
                **measured,
            }
        )
        mistakes.append([images[mistake["index"]] for mistake in measured["mistakes"]])
        right.append(predictions.argmax(axis=1) == labels)
    pairs = itertools.combinations(zip(runs, right, strict=True), 2)
    comparisons = [
        {"first": one.name, "second": other.name, **compare(first, second)}
        for (one, first), (other, second) in pairs
        if one.split == other.split
    ]
    facts = runs[0].config["data"]
    return {"data": facts, "runs": entries, "comparisons": comparisons}, mistakes


def _read_run(path, name):
    folder = RunFolder(path)
    config = folder.config()
    if config is None:
        raise ValueError(f"`run` must be the folder of a training run. Received: run={path}")
    if not (path / "metrics.json").is_file():
        raise ValueError(
            "`run` must be finished; `python -m training.train` with the same recipe and workdir "
            f"goes on with it. Received: run={path}"
        )
    try:
        with (path / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        history = {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}
        return Run(name, folder.model, config, folder.metrics(), history)
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"`run` must be whole, but metrics.json or history.csv is not. Received: run={path}"
        ) from error


def _require_same_data(first, other):
    # statistics are measured on the split that a run trains on, which may differ
    here, there = (
        {key: value for key, value in run.config["data"].items() if key not in ("mean", "std")}
        for run in (first, other)
    )
    differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if differing:
        raise ValueError(
            "`run` must name runs of the same data set; write a report for each data set. "
            f"Received: {first.name} and {other.name}, with another {', '.join(differing)}"
        )


def _require_same_labels(run, labels, names):
    expected = [entry["examples"] for entry in run.metrics["test"]["classes"]]
    if np.bincount(labels, minlength=len(names)).tolist() != expected:
        raise ValueError(
            f"`data_dir` must hold the images that {run.name} was measured on, {sum(expected):,} "
            f"in split {run.split}, each class as often as then. Received: examples={len(labels):,}"
        )


def _require_same_loss(run, loss):
    expected = run.metrics["test"]["loss"]
    # machines and precisions differ by far less, other images by more
    if not math.isclose(loss, expected, rel_tol=0.05, abs_tol=0.01):
        raise ValueError(
            f"`data_dir` must hold the images that {run.name} was measured on, with a loss of "
            f"{expected:.4f} on split {run.split}. Received: loss={loss:.4f}"
        )


def _dataset(run):
    return km.preprocessing.Dataset.from_dict(run.config["data"])


def _costs(model, measured):
    cost = km.cost(model)
    return {
        **_counts(cost),
        "input_shape": cost.input_shape,
        "unknown_layers": cost.unknown_layers,
        "stages": {name: _counts(stage) for name, stage in cost.stages.items()},
        "training_images_per_second": measured["images_per_second"],
        "training_seconds": measured["wall_seconds"],
        "epochs": measured["epochs"],
    }


def _counts(cost):
    names = ("trainable_parameters", "parameters", "multiply_adds", "peak_memory")
    return {name: getattr(cost, name) for name in names}
