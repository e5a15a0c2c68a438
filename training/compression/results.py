"""The results of several compressed runs, as one dictionary."""

import json
import statistics

from keras_multiception.machine import describe
from training.compression.timing import time_artifacts

_PACKAGES = (
    "tensorflow",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
)


def collect(compressors, recipes, *, command="", note=""):
    """Gather what was measured, seeds of one configuration together.

    Args:
        compressors: List of `Compressor`.
        recipes: List of `Compression`; those that a run lacks are left out.
        command: String, the command that made it.
        note: String, what a reader must know.

    Returns:
        A dictionary fit for JSON: `command`, `note`, `versions`, `hardware`, and `networks`, each
        with its run's `recipe`, `fine_tuning` and `artifacts`.
    """
    return {
        "command": command,
        "note": note,
        **describe(_PACKAGES),
        "networks": [_network(group, recipes) for group in _groups(compressors)],
    }


def add_times(results, compressors, recipes, rounds):
    """Time every artifact of the first seed of each network, all in turns.

    Args:
        results: What `collect` returns; the times are added to its artifacts.
        compressors: List of `Compressor`, as given to `collect`.
        recipes: List of `Compression`.
        rounds: Integer, how often each is measured.
    """
    groups = _groups(compressors)
    artifacts = {
        (index, recipe.name): (group[0].artifact(recipe), group[0].facts)
        for index, group in enumerate(groups)
        for recipe in recipes
        if group[0].result(recipe)
    }
    times = time_artifacts(artifacts, rounds)
    for index, network in enumerate(results["networks"]):
        for artifact in network["artifacts"]:
            runtimes = times.get((index, artifact["recipe"]), {})
            artifact["times"] = runtimes
            for measure in ("batch_1_ms", "images_per_second"):
                artifact[measure] = {
                    name: statistics.median(values[measure]) for name, values in runtimes.items()
                }


def _groups(compressors):
    """Return lists of the compressors whose runs differ in their seed alone."""
    groups: dict[str, list] = {}
    for each in compressors:
        shared = {key: value for key, value in each.recipe.items() if key != "seed"}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(each)
    return list(groups.values())


def _network(group, recipes):
    made = [(recipe, [(each, each.result(recipe)) for each in group]) for recipe in recipes]
    metrics = group[0].run.metrics()
    return {
        "recipe": {key: value for key, value in group[0].recipe.items() if key != "seed"},
        "parameters": metrics["parameters"]["trainable"] if metrics else None,
        "settings": group[0].settings,
        "artifacts": [
            _artifact(recipe, [(each, result) for each, result in pairs if result])
            for recipe, pairs in made
            if any(result for _, result in pairs)
        ],
    }


def _artifact(recipe, pairs):
    accuracies = [100 * result["test"]["top1"] for _, result in pairs]
    first = pairs[0][1]
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "n": len(pairs),
        "seeds": [each.recipe["seed"] for each, _ in pairs],
        "accuracies": [round(accuracy, 4) for accuracy in accuracies],
        "accuracy": statistics.fmean(accuracies),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "test_examples": first["test"]["examples"],
        "sizes": first["sizes"],
        "kernels": first["kernels"],
    }
