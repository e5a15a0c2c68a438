"""The results of several compressed runs, and the page made from them."""

import functools
import json
import pathlib
import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_multiception.machine import describe, time_in_turns
from keras_multiception.preprocessing import Dataset
from training.compression.recipes import Compression
from training.reporting import figures, tables
from training.reporting.tables import Page, Row

if TYPE_CHECKING:
    from training.compression.artifacts import Compressor

Results = dict[str, Any]
BATCH_SIZE = 32  # of the throughput
_SECONDS = 0.05  # of one measurement, at least one call
_PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "ai-edge-litert")
_THREADS = {"LiteRT, 1 thread": 1, "LiteRT, 2 threads": 2}  # of each runtime
LATENCY, THROUGHPUT = _THREADS  # as the table and the figure have them
_UNITS = {"batch_1_ms": "ms", "images_per_second": "images/s"}
_LEGEND = f"""\
Every artifact is a LiteRT file from pixels to probabilities, measured through LiteRT. Top-1: mean
± standard deviation over n training seeds; to float: percentage points. Zeros: the share of all
kernel weights; depthwise kernels are neither pruned nor clustered. KB are 1,000 bytes, of the first
seed; deflated: as in a zip archive. Batch norms are folded into the kernels in the files, which
gives the few values of a clustered kernel another factor in each channel. Speed: medians, all
artifacts in turns in one process; ms: one image at a time ({LATENCY}); images/s: batches of 32
({THROUGHPUT}). In the figure, bars are standard deviations, and triangles at the edge are far
lower. The CSV file has more."""
_DEPTH = 4.5  # percentage points below the best; what is worse stands at the edge


def collect(
    compressors: Iterable["Compressor"],
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
    output: pathlib.Path, compressors: Sequence["Compressor"], recipes: Sequence[Compression]
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
    tables.require_own_output(output, names_in, own)


def _network(group: list["Compressor"], recipes: Sequence[Compression]) -> Results:
    run_metrics = group[0].run.metrics()
    return {
        "recipe": {key: value for key, value in group[0].recipe.items() if key != "seed"},
        "parameters": run_metrics["parameters"]["trainable"] if run_metrics else None,
        "settings": group[0].settings,
        "artifacts": [
            _artifact(recipe, pairs)
            for recipe in recipes
            if (pairs := [(each, result) for each in group if (result := each.result(recipe))])
        ],
    }


def _artifact(recipe: Compression, pairs: list[tuple["Compressor", Results]]) -> Results:
    accuracies = [100 * result["test"]["top1"] for _, result in pairs]
    first = pairs[0][1]
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "n": len(pairs),
        "seeds": [each.recipe["seed"] for each, _ in pairs],
        "accuracies": [round(accuracy, 4) for accuracy in accuracies],
        "accuracy": statistics.fmean(accuracies),
        "sd": tables.deviation(accuracies),
        "test_examples": first["test"]["examples"],
        "sizes": first["sizes"],
        "kernels": first["kernels"],
    }


def time_artifacts(
    artifacts: Mapping[Hashable, tuple[pathlib.Path, Dataset]], rounds: int
) -> dict[Hashable, dict[str, dict[str, list[float]]]]:
    """Time LiteRT files in turns: by name, runtime and measure, a value a round."""
    from keras_multiception.compression import (
        LiteRTModel,
    )  # of packages that --render does not need

    calls: dict = {}
    for name, (path, spec) in artifacts.items():
        images = np.random.default_rng(0).uniform(0, 255, (BATCH_SIZE, *spec.image_shape))
        images = images.astype("float32")
        for label, threads in _THREADS.items():
            for size in (1, BATCH_SIZE):
                # a network for each batch size: another size allocates anew
                predict = LiteRTModel(path, num_threads=threads).predict
                calls[name, label, size] = functools.partial(predict, images[:size])
    times = time_in_turns(calls, rounds, _SECONDS)
    results: dict = {}
    for name, label in dict.fromkeys(key[:2] for key in times):
        results.setdefault(name, {})[label] = {
            "batch_1_ms": [round(1000 * seconds, 4) for seconds in times[name, label, 1]],
            "images_per_second": [round(BATCH_SIZE / s, 1) for s in times[name, label, BATCH_SIZE]],
        }
    return results


def _to_rows(results: Results) -> Iterator[Row]:
    machine = tables.machine_label(results["hardware"])
    for network, each in _artifacts(results):
        cell = {key: network["recipe"][key] for key in ("model", "conv", "dataset")}
        cell |= {"recipe": each["recipe"]}
        for seed, accuracy in zip(each["seeds"], each["accuracies"], strict=True):
            yield Row("compression", cell, seed, "accuracy", accuracy, "%")
        total = each["kernels"]["total"]
        counts = {"kernel weights": total["parameters"], "nonzero": total["nonzero"]}
        for metric, value in counts.items():
            yield Row("compression", cell, each["seeds"][0], metric, value)
        for metric, value in each["sizes"].items():
            yield Row("compression", cell, each["seeds"][0], f"{metric} size", value, "bytes")
        for metric, unit in _UNITS.items():
            for runtime, value in each.get(metric, {}).items():
                own = cell | {"runtime": runtime}
                yield Row("compression", own, each["seeds"][0], metric, value, unit, machine)


def _to_markdown(results: Results, figure: str) -> str:
    sections = ["# Compressed networks", f"`{results['command']}`", results["note"]]
    sections += dict.fromkeys(map(_setting, results["networks"]))
    sections += [f"![Accuracy, size and latency of every recipe]({figure})"]
    sections += [tables.markdown(_table(results), left=2), _LEGEND]
    found = {each["recipe"]: each["description"] for _, each in _artifacts(results)}
    sections += ["## Recipes", "\n".join(f"- `{name}`: {text}" for name, text in found.items())]
    record = {key: results[key] for key in ("versions", "hardware")}
    sections += ["## The machine", f"- {tables.record_label(record)}"]
    return "\n\n".join(section for section in sections if section) + "\n"


def _artifacts(results: Results) -> list[tuple[Results, Results]]:
    return [(network, each) for network in results["networks"] for each in network["artifacts"]]


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
            tables.number(each["batch_1_ms"].get(LATENCY), ".2f"),
            tables.number(each["images_per_second"].get(THROUGHPUT), ",.0f"),
        )
        rows.append(cells)
    return rows


def _setting(network: Results) -> str:
    settings = network["settings"]
    tuning = settings["fine_tuning"]
    examples = max(each["test_examples"] for each in network["artifacts"])
    return (
        f"{figures.network_label(network['recipe'])}: measured on {examples:,} images "
        f"({settings['test_split']}). Every step that trains: {tuning['epochs']} epochs over "
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
    for own, (title, networks) in zip(axes, groups.items(), strict=True):
        best = max(each["accuracy"] for network in networks for each in network["artifacts"])
        for index, network in enumerate(networks):
            shift = (index - (len(networks) - 1) / 2) * 0.6 / max(len(networks), 3)
            _draw_network(own, network, recipes, shift, max(0.0, best - _DEPTH))
        for ax, label in zip(
            own, ("top-1 accuracy, %", "deflated, KB", "one image, ms"), strict=True
        ):
            figures.style(ax, title=title if ax is own[0] else "", x=label, grid="x")
            figures.name_lanes(ax, recipes)
        for ax in own[1:]:
            ax.set_xlim(left=0)
    convs = {network["recipe"]["conv"] for network in results["networks"]}
    figures.convolution_legend(figure, convs)
    return figure


def _draw_network(
    axes: Sequence[Axes], network: Results, recipes: list[str], shift: float, lowest: float
) -> None:
    accuracy_ax, size_ax, latency_ax = axes
    color = figures.COLORS[network["recipe"]["conv"]]
    for each in network["artifacts"]:
        place, accuracy = recipes.index(each["recipe"]) + shift, each["accuracy"]
        if accuracy < lowest:
            accuracy_ax.plot(lowest, place, "<", color=color, ms=5)
            text = f"   {accuracy:.1f}"
            accuracy_ax.text(lowest, place, text, va="center", fontsize=6, color=color)
        else:
            spread = each["sd"] or 0
            accuracy_ax.errorbar(accuracy, place, xerr=spread, fmt="o", ms=5, color=color)
        size_ax.plot(each["sizes"]["deflated"] / 1000, place, "o", color=color, ms=5)
        latency = each["batch_1_ms"].get(LATENCY)
        if latency is not None:
            latency_ax.plot(latency, place, "o", color=color, ms=5)


PAGE = Page(_to_rows, _to_markdown, _draw)
