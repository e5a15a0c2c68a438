"""The results of several compressed runs, as one dictionary, and how long the artifacts take."""

import functools
import json
import pathlib
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_multiception import compression
from keras_multiception.machine import describe, time_in_turns
from keras_multiception.preprocessing import Dataset
from training.compression.artifacts import Compressor
from training.compression.recipes import Compression
from training.reporting.stats import deviation
from training.reporting.tables import require_own_output

BATCH_SIZE = 32  # of the throughput
THREADS = (1, 2)
_SECONDS = 0.05  # of one measurement, at least one call
_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert")
Results = dict[str, Any]


def collect(
    compressors: Iterable[Compressor],
    recipes: Sequence[Compression],
    *,
    rounds: int = 7,
    note: str = "",
) -> Results:
    """Gather what was measured, seeds of one configuration together, and time the first of each.

    Recipes that a run lacks are left out.
    """
    groups: dict[str, list[Compressor]] = {}
    for each in compressors:
        shared = {key: value for key, value in each.recipe.items() if key != "seed"}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(each)
    networks = [_network(group, recipes) for group in groups.values()]
    firsts = [group[0] for group in groups.values()]
    times = time_artifacts(
        {
            (index, recipe.name): (first.artifact(recipe), first.spec)
            for index, first in enumerate(firsts)
            for recipe in recipes
            if first.result(recipe)
        },
        rounds,
    )
    for index, network in enumerate(networks):
        for artifact in network["artifacts"]:
            artifact["times"] = runtimes = times.get((index, artifact["recipe"]), {})
            for measure in ("batch_1_ms", "images_per_second"):
                medians = {name: statistics.median(t[measure]) for name, t in runtimes.items()}
                artifact[measure] = medians
    return {"note": note, **describe(_PACKAGES), "networks": networks}


def require_own_results(
    output: pathlib.Path, compressors: Sequence[Compressor], recipes: Sequence[Compression]
) -> None:
    """Raise a `ValueError` if there are results that would be lost: of other recipes or runs."""

    def key(recipe: Results, name: str) -> tuple[str, str]:
        return json.dumps(recipe, sort_keys=True), name

    def names_in(results: Results) -> dict[tuple[str, str], str]:
        return {
            key({**network["recipe"], "seed": seed}, artifact["recipe"]): artifact["recipe"]
            for network in results["networks"]
            for artifact in network["artifacts"]
            for seed in artifact["seeds"]
        }

    own = {key(each.recipe, recipe.name) for each in compressors for recipe in recipes}
    require_own_output(output, names_in, own)


def _network(group: list[Compressor], recipes: Sequence[Compression]) -> Results:
    made = [(recipe, [(each, each.result(recipe)) for each in group]) for recipe in recipes]
    run_metrics = group[0].run.metrics()
    return {
        "recipe": {key: value for key, value in group[0].recipe.items() if key != "seed"},
        "parameters": run_metrics["parameters"]["trainable"] if run_metrics else None,
        "settings": group[0].settings,
        "artifacts": [
            _artifact(recipe, [(each, result) for each, result in pairs if result])
            for recipe, pairs in made
            if any(result for _, result in pairs)
        ],
    }


def _artifact(recipe: Compression, pairs: list[tuple[Compressor, Results]]) -> Results:
    accuracies = [100 * result["test"]["top1"] for _, result in pairs]
    first = pairs[0][1]
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "n": len(pairs),
        "seeds": [each.recipe["seed"] for each, _ in pairs],
        "accuracies": [round(accuracy, 4) for accuracy in accuracies],
        "accuracy": statistics.fmean(accuracies),
        "sd": deviation(accuracies),
        "test_examples": first["test"]["examples"],
        "sizes": first["sizes"],
        "kernels": first["kernels"],
    }


def time_artifacts(
    artifacts: Mapping[Hashable, tuple[pathlib.Path, Dataset]], rounds: int
) -> dict[Hashable, dict[str, dict[str, list[float]]]]:
    """Time LiteRT files in turns.

    Returns, for each name and "LiteRT, 1 thread" and "LiteRT, 2 threads", `batch_1_ms` and
    `images_per_second`: a value a round.
    """
    calls: dict = {}
    for name, (path, spec) in artifacts.items():
        images = np.random.default_rng(0).uniform(0, 255, (BATCH_SIZE, *spec.image_shape))
        images = images.astype("float32")
        for threads in THREADS:
            label = f"LiteRT, {threads} thread{'s' if threads > 1 else ''}"
            for size in (1, BATCH_SIZE):
                # a network for each batch size: another size allocates anew
                predict = compression.LiteRTModel(path, num_threads=threads).predict
                calls[name, label, size] = functools.partial(predict, images[:size])
    times = time_in_turns(calls, rounds, _SECONDS)
    results: dict = {}
    for name, label in dict.fromkeys(key[:2] for key in times):
        results.setdefault(name, {})[label] = {
            "batch_1_ms": [round(1000 * seconds, 4) for seconds in times[name, label, 1]],
            "images_per_second": [round(BATCH_SIZE / s, 1) for s in times[name, label, BATCH_SIZE]],
        }
    return results
