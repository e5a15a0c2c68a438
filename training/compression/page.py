"""The results of several compressed runs, and the page made from them."""

import functools
import json
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from keras_multiception.machine import Key, describe, time_in_turns
from keras_multiception.preprocessing import Dataset
from training.compression.recipes import Compression
from training.reporting import figures, tables
from training.reporting.tables import Page, Row

if TYPE_CHECKING:
    from training.compression.artifacts import Compressor

Results = dict[str, Any]
_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert")
_ONNX_PACKAGES = ("openvino", "nncf")
# Measures of speed: their unit, and the threads and images at a time.
_SPEEDS = {"batch_1_ms": ("ms", 1, 1), "images_per_second": ("images/s", 2, 128)}
_SECONDS = 0.05  # of one measurement, at least one call
_LEGEND = """\
Every artifact is a file from pixels to probabilities, measured in LiteRT (ONNX: in OpenVINO).
Top-1: mean ± standard deviation over n training seeds; to float: percentage points. Zeros: the
share of all kernel weights, for ONNX before it is written; depthwise kernels are neither pruned nor
clustered. KB are 1,000 bytes, of the first seed; deflated: as in a zip archive. Batch norms are
folded into the kernels in the files, which gives the few values of a clustered kernel another
factor in each channel. Speed: medians, all artifacts in turns in one process; ms: one image at a
time, one thread; images/s: batches of 128, two threads. In the figure, bars are standard
deviations."""


def collect(
    compressors: Iterable["Compressor"],
    recipes: Sequence[Compression],
    *,
    rounds: int = 7,
    note: str = "",
) -> Results:
    """Gather what was measured, seeds of one configuration together, and time the first of each."""
    groups: dict[str, list[Compressor]] = {}
    for each in compressors:
        groups.setdefault(json.dumps(_without_seed(each.recipe), sort_keys=True), []).append(each)
    made = {key: list(filter(group[0].applies, recipes)) for key, group in groups.items()}
    times = time_artifacts(
        {
            (key, recipe.name): (group[0].artifact(recipe), group[0].spec)
            for key, group in groups.items()
            for recipe in made[key]
        },
        rounds,
    )
    networks = [
        {
            "recipe": _without_seed(group[0].recipe),
            "settings": group[0].settings,
            "artifacts": [
                _artifact(recipe, group, times[key, recipe.name]) for recipe in made[key]
            ],
        }
        for key, group in groups.items()
    ]
    return {"note": note, **describe((*_PACKAGES, *_ONNX_PACKAGES)), "networks": networks}


def _without_seed(recipe: Results) -> Results:
    return {key: value for key, value in recipe.items() if key != "seed"}


def _artifact(
    recipe: Compression, group: list["Compressor"], times: dict[str, list[float]]
) -> Results:
    results = [each.result(recipe) or {} for each in group]
    accuracies = [100 * result["test"]["top1"] for result in results]
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "n": len(results),
        "seeds": [each.recipe["seed"] for each in group],
        "accuracies": [round(accuracy, 4) for accuracy in accuracies],
        "accuracy": statistics.fmean(accuracies),
        "sd": tables.deviation(accuracies),
        "test_examples": results[0]["test"]["examples"],
        "sizes": results[0]["sizes"],
        "kernels": results[0]["kernels"],
        "times": times,
        **{measure: statistics.median(values) for measure, values in times.items()},
    }


def require_own_results(
    output: pathlib.Path, compressors: Sequence["Compressor"], recipes: Sequence[Compression]
) -> None:
    """Raise a `ValueError` if there are results that would be lost: of other recipes or runs."""

    def key(recipe: Results, name: str) -> tuple[str, str]:
        return json.dumps(recipe, sort_keys=True), name

    def names_in(results: Results) -> dict[tuple[str, str], str]:
        return {
            key({**network["recipe"], "seed": seed}, each["recipe"]): each["recipe"]
            for network, each in _artifacts(results)
            for seed in each["seeds"]
        }

    own = {key(each.recipe, recipe.name) for each in compressors for recipe in recipes}
    tables.require_own_output(output, names_in, own)


def time_artifacts(
    artifacts: Mapping[Key, tuple[pathlib.Path, Dataset]], rounds: int
) -> dict[Key, dict[str, list[float]]]:
    """Time artifacts in turns: for each, by the measures of speed, a value a round."""
    from training.compression.artifacts import open_artifact  # needs what --render does not

    calls = {}
    for key, (path, spec) in artifacts.items():
        for measure, (_, threads, size) in _SPEEDS.items():
            pixels = np.random.default_rng(0).uniform(0, 255, (size, *spec.image_shape))
            run = open_artifact(path, threads)
            calls[key, measure] = functools.partial(run, pixels.astype("float32"))
    times = time_in_turns(calls, rounds, _SECONDS)
    batch = _SPEEDS["images_per_second"][-1]
    return {
        key: {
            "batch_1_ms": [round(1000 * seconds, 4) for seconds in times[key, "batch_1_ms"]],
            "images_per_second": [round(batch / s, 1) for s in times[key, "images_per_second"]],
        }
        for key in artifacts
    }


def _artifacts(results: Results) -> list[tuple[Results, Results]]:
    return [(network, each) for network in results["networks"] for each in network["artifacts"]]


def _to_rows(results: Results) -> Iterator[Row]:
    machine = tables.machine_label(results["hardware"])
    for network, each in _artifacts(results):
        cell = {key: network["recipe"][key] for key in ("model", "conv", "dataset")}
        cell |= {"recipe": each["recipe"]}
        for seed, accuracy in zip(each["seeds"], each["accuracies"], strict=True):
            yield Row("compression", cell, seed, "accuracy", accuracy, "%")
        total, seed = each["kernels"]["total"], each["seeds"][0]
        yield Row("compression", cell, seed, "kernel weights", total["parameters"])
        yield Row("compression", cell, seed, "nonzero", total["nonzero"])
        for metric, value in each["sizes"].items():
            yield Row("compression", cell, seed, f"{metric} size", value, "bytes")
        for measure, (unit, *_) in _SPEEDS.items():
            yield Row("compression", cell, seed, measure, each[measure], unit, machine)


def _to_markdown(results: Results, figure: str) -> str:
    recipes = {each["recipe"]: each["description"] for _, each in _artifacts(results)}
    sections = (
        "# Compressed networks",
        f"`{results['command']}`",
        results["note"],
        *dict.fromkeys(map(_setting, results["networks"])),
        f"![Accuracy, size and latency of every recipe]({figure})",
        tables.markdown(_table(results), left=2),
        _LEGEND,
        "## Recipes",
        "\n".join(f"- `{name}`: {text}" for name, text in recipes.items()),
        "## The machine",
        f"- {tables.record_label({key: results[key] for key in ('versions', 'hardware')})}",
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(results: Results) -> list[tuple[str, ...]]:
    titles = "network; recipe; n; top-1 %; to float; kernel weights; zeros"
    titles += "; file KB; deflated KB; of float; ms; images/s"
    rows = [tuple(titles.split("; "))]
    for network, each in _artifacts(results):
        recipe, total, sizes = network["recipe"], each["kernels"]["total"], each["sizes"]
        base = next((one for one in network["artifacts"] if one["recipe"] == "float"), None)
        cells = (
            f"{figures.network_label(recipe)}, {figures.CONVOLUTIONS[recipe['conv']]}",
            each["recipe"],
            str(each["n"]),
            tables.mean_and_deviation(each["accuracy"], each["sd"]),
            f"{each['accuracy'] - base['accuracy']:+.2f}" if base else tables.DASH,
            f"{total['parameters']:,}",
            f"{1 - total['nonzero'] / total['parameters']:.1%}",
            *(f"{sizes[key] / 1000:,.1f}" for key in ("raw", "deflated")),
            f"{sizes['deflated'] / base['sizes']['deflated']:.0%}" if base else tables.DASH,
            f"{each['batch_1_ms']:.2f}",
            f"{each['images_per_second']:,.0f}",
        )
        rows.append(cells)
    return rows


def _setting(network: Results) -> str:
    settings = network["settings"]
    tuning = settings["fine_tuning"]
    examples = max(each["test_examples"] for each in network["artifacts"])
    epochs = "1 epoch" if tuning["epochs"] == 1 else f"{tuning['epochs']} epochs"
    return (
        f"{figures.network_label(network['recipe'])}: measured on {examples:,} images "
        f"({settings['test_split']}). Every step that trains: {epochs} over "
        f"{settings['train_split']}, learning rate {tuning['learning_rate']} falling to zero by a "
        f"cosine, batch size {tuning['batch_size']}."
    )


def _draw(results: Results) -> Figure:
    """Draw a row of panels for each network and data set, with a line for each recipe."""
    groups: dict[str, list] = {}
    for network in results["networks"]:
        groups.setdefault(figures.network_label(network["recipe"]), []).append(network)
    recipes = list(dict.fromkeys(each["recipe"] for _, each in _artifacts(results)))
    figure = figures.make_figure(10.5, 1 + (0.8 + 0.4 * len(recipes)) * len(groups))
    axes = figure.subplots(len(groups), 3, squeeze=False, sharey=True)
    for (accuracy, size, latency), (title, networks) in zip(axes, groups.items(), strict=True):
        for index, network in enumerate(networks):
            shift = (index - (len(networks) - 1) / 2) * 0.6 / max(len(networks), 3)
            look = {"fmt": "o", "ms": 5, "color": figures.COLORS[network["recipe"]["conv"]]}
            for each in network["artifacts"]:
                place = recipes.index(each["recipe"]) + shift
                accuracy.errorbar(each["accuracy"], place, xerr=each["sd"] or 0, **look)
                size.errorbar(each["sizes"]["deflated"] / 1000, place, **look)
                latency.errorbar(each["batch_1_ms"], place, **look)
        figures.style(accuracy, title=title, x="top-1 accuracy, %", grid="x")
        figures.style(size, x="deflated, KB", grid="x")
        figures.style(latency, x="one image, ms", grid="x")
        for ax in (accuracy, size, latency):
            figures.name_lanes(ax, recipes)
        for ax in (size, latency):
            ax.set_xlim(left=0)
    figures.convolution_legend(figure, {each["recipe"]["conv"] for each in results["networks"]})
    return figure


PAGE = Page(_to_rows, _to_markdown, _draw)
