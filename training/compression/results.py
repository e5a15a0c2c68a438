"""The results of several compressed runs, as one dictionary, and how long the artifacts take."""

import json
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

import keras_multiception as km
from keras_multiception import compression
from keras_multiception.machine import describe
from keras_multiception.preprocessing import Dataset
from keras_multiception.timing import time_in_turns
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
    """Time `model.tflite` files in turns, and a `model.keras` beside one as a SavedModel.

    Returns, for each name and runtime ("LiteRT, 1 thread", "LiteRT, 2 threads", "SavedModel"),
    `batch_1_ms` and `images_per_second`: a value a round.
    """
    calls: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, (path, spec)) in enumerate(artifacts.items()):
            images = np.random.default_rng(0).uniform(0, 255, (BATCH_SIZE, *spec.image_shape))
            images = images.astype("float32")
            runtimes: dict[str, list[Callable]] = {}
            for threads in THREADS:
                # one for each batch size: another size allocates anew
                networks = [compression.LiteRTModel(path, num_threads=threads) for _ in range(2)]
                label = f"LiteRT, {threads} thread{'s' if threads > 1 else ''}"
                runtimes[label] = [network.predict for network in networks]
            model = path.with_name("model.keras")
            if model.is_file():
                saved = _saved_model(model, pathlib.Path(folder) / str(index), spec)
                runtimes["SavedModel"] = [saved, saved]
            for label, (one, many) in runtimes.items():
                calls[name, label, 1] = lambda one=one, image=images[:1]: one(image)
                calls[name, label, BATCH_SIZE] = lambda many=many, images=images: many(images)
        times = time_in_turns(calls, rounds, _SECONDS)
    results: dict = {}
    for name, label, size in times:
        if size == 1:
            milliseconds = [round(1000 * seconds, 4) for seconds in times[name, label, 1]]
            speeds = [round(BATCH_SIZE / s, 1) for s in times[name, label, BATCH_SIZE]]
            found = {"batch_1_ms": milliseconds, "images_per_second": speeds}
            results.setdefault(name, {})[label] = found
    return results


def _saved_model(path: pathlib.Path, folder: pathlib.Path, spec: Dataset) -> Callable:
    import tensorflow as tf

    km.export_saved_model(keras.models.load_model(path, compile=False), folder, spec)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def call(images: Any) -> Any:
        return loaded and signature(image=tf.constant(images))["probabilities"].numpy()

    return call
