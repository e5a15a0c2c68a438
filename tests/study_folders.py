"""Run folders as training leaves them, with errors made up for testing."""

import csv
import dataclasses
import json

from keras_multiception.atomic import write_json
from training import data
from training.run_folder import RunFolder


def save_run(path, network, metrics=None, spec=None, **recipe):
    """Write what a finished training leaves, by default on digits, and return its folder."""
    recipe = {"dataset": "digits", "test_split": "test"} | recipe
    known = (spec or data.spec("digits")).to_dict()
    config = {"name": "digits", "recipe": recipe, "data": known, "versions": {}, "hardware": {}}
    folder = RunFolder(path)
    folder.begin(config)
    network.save(folder.model)
    folder.finish(metrics or {})
    return path


def write_runs(runs, error_of):
    """Write every run, with `error_of(recipe, seed)` percent, or leave it out for `None`."""
    for run in runs:
        if (error := error_of(run.recipe, run.seed)) is not None:
            _write_run(run, error)


def _write_run(run, error):
    config = {
        "name": run.condition.label,
        "recipe": json.loads(json.dumps(dataclasses.asdict(run.recipe))),
        "data": {"dataset": run.recipe.dataset},
        "versions": {"python": "3.11", "keras": "3.15.1"},
        "hardware": {"backend": "tensorflow", "cpus": 2, "gpus": []},
    }
    write_json(run.path / "config.json", config)
    with (run.path / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "val_top1"))
        for epoch, each in enumerate([90, 60, error]):
            writer.writerow((epoch + 1, 1 - each / 100))
    write_json(
        run.path / "metrics.json",
        {
            "train": {"top1": 1 - error / 200, "examples": 640},
            "test": {"top1": 1 - error / 100, "examples": 320},
            "parameters": {"trainable": 189434, "total": 190000},
            "multiply_adds": 32408192,
            "epochs": run.recipe.epochs,
        },
    )
