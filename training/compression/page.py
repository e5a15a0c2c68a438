"""The page of compression: accuracy, size, zeros and speed of every artifact, and a figure."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.reporting.figures import convolution_handles, legend_above, make_figure, style
from training.reporting.labels import COLORS, CONVOLUTIONS, network_label
from training.reporting.tables import (
    DASH,
    Page,
    Row,
    machine_label,
    markdown,
    mean_and_deviation,
    number,
    record_label,
)

Results = dict[str, Any]
LATENCY, THROUGHPUT = "LiteRT, 1 thread", "LiteRT, 2 threads"  # the runtimes in the table
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


def _to_rows(results: Results) -> Iterator[Row]:
    machine = machine_label(results["hardware"])
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
    sections += [markdown(_table(results), left=2), _LEGEND]
    found = {each["recipe"]: each["description"] for _, each in _artifacts(results)}
    sections += ["## Recipes", "\n".join(f"- `{name}`: {text}" for name, text in found.items())]
    record = {key: results[key] for key in ("versions", "hardware")}
    sections += ["## The machine", f"- {record_label(record)}"]
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
            f"{network_label(recipe)}, {CONVOLUTIONS[recipe['conv']]}",
            each["recipe"],
            str(each["n"]),
            mean_and_deviation(each["accuracy"], each["sd"]),
            f"{each['accuracy'] - base['accuracy']:+.2f}" if base else DASH,
            f"{total['parameters']:,}",
            f"{1 - total['nonzero'] / total['parameters']:.1%}",
            *(f"{sizes[key] / 1000:,.1f}" for key in ("raw", "deflated")),
            f"{sizes['deflated'] / base['sizes']['deflated']:.0%}" if base else DASH,
            number(each["batch_1_ms"].get(LATENCY), ".2f"),
            number(each["images_per_second"].get(THROUGHPUT), ",.0f"),
        )
        rows.append(cells)
    return rows


def _setting(network: Results) -> str:
    settings = network["settings"]
    tuning = settings["fine_tuning"]
    examples = max(each["test_examples"] for each in network["artifacts"])
    return (
        f"{network_label(network['recipe'])}: measured on {examples:,} images "
        f"({settings['test_split']}). Every step that trains: {tuning['epochs']} epochs over "
        f"{settings['train_split']}, learning rate {tuning['learning_rate']} falling to zero by a "
        f"cosine, batch size {tuning['batch_size']}."
    )


def _draw(results: Results) -> Figure:
    """Draw a row of panels for each network and data set, with a line for each recipe."""
    groups: dict[str, list] = {}
    for network in results["networks"]:
        groups.setdefault(network_label(network["recipe"]), []).append(network)
    recipes = list(dict.fromkeys(each["recipe"] for _, each in _artifacts(results)))
    figure = make_figure(10.5, 1 + (0.8 + 0.4 * len(recipes)) * len(groups))
    axes = figure.subplots(len(groups), 3, squeeze=False, sharey=True)
    for own, (title, networks) in zip(axes, groups.items(), strict=True):
        best = max(each["accuracy"] for network in networks for each in network["artifacts"])
        for index, network in enumerate(networks):
            shift = (index - (len(networks) - 1) / 2) * 0.6 / max(len(networks), 3)
            _draw_network(own, network, recipes, shift, max(0.0, best - _DEPTH))
        for ax, label in zip(
            own, ("top-1 accuracy, %", "deflated, KB", "one image, ms"), strict=True
        ):
            style(ax, title=title if ax is own[0] else "", x=label, grid="x")
            for line in range(0, len(recipes), 2):
                ax.axhspan(line - 0.5, line + 0.5, color="#f5f6f7", lw=0, zorder=0)
        for ax in own[1:]:
            ax.set_xlim(left=0)
    axes[0, 0].set_yticks(range(len(recipes)), recipes)
    axes[0, 0].set_ylim(len(recipes) - 0.5, -0.5)
    convs = {network["recipe"]["conv"] for network in results["networks"]}
    legend_above(figure, convolution_handles(convs))
    return figure


def _draw_network(
    axes: Sequence[Axes], network: Results, recipes: list[str], shift: float, lowest: float
) -> None:
    accuracy_ax, size_ax, latency_ax = axes
    color = COLORS[network["recipe"]["conv"]]
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


PAGE = Page(_to_rows, _to_markdown, {"": _draw})
