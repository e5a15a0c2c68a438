"""The page of compression: accuracy, size, speed and zeros of every artifact, and a figure."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from training.reporting.figures import DARK, make_figure, style
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
Table = list[tuple[str, ...]]
_RUNTIMES = ("LiteRT, 1 thread", "LiteRT, 2 threads", "SavedModel")
_KINDS = ("standard", "depthwise", "pointwise", "dense")
_SPEEDS = {"batch_1_ms": "ms", "images_per_second": "images/s"}
_LEGEND = (
    "Every artifact is a LiteRT file from pixels to probabilities, measured through LiteRT. Top-1: "
    "mean ± standard deviation over n training seeds; to float: percentage points. KB are 1,000 "
    "bytes, of the first seed. Deflated: as in a zip archive. Entropy: the weights at their "
    "order-0 entropy, a bound for coders that look at one weight at a time. Batch norms are folded "
    "into the kernels in the files, which gives the few values of a clustered kernel another "
    "factor in each channel."
)
_SPEED_LEGEND = (
    "Medians, all artifacts in turns in one process, the first seed of each network. ms: one image "
    "at a time; images/s: batches of 32. SavedModel: TensorFlow with its own choice of threads, "
    "for those that are Keras 3 models."
)
_DEPTH = 4.5  # percentage points below the best; what is worse stands at the lower edge
_NEAR_SIZE, _NEAR_ACCURACY = 1.14, 0.4
_TICKS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000)


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
        for metric, unit in _SPEEDS.items():
            for runtime, value in each.get(metric, {}).items():
                own = cell | {"runtime": runtime}
                yield Row("compression", own, each["seeds"][0], metric, value, unit, machine)


def _to_markdown(results: Results, figure: str) -> str:
    sections = ["# Compressed networks", f"`{results['command']}`", results["note"]]
    sections += dict.fromkeys(map(_setting, results["networks"]))
    sections += [f"![Accuracy against size]({figure})", "## Accuracy and size"]
    sections += [markdown(_accuracy_and_size(results), left=2), _LEGEND]
    sections += ["## Speed", markdown(_speed(results), left=2), _SPEED_LEGEND]
    sections += ["## Zeros by kind of kernel", markdown(_zeros(results), left=2)]
    found = {each["recipe"]: each["description"] for _, each in _artifacts(results)}
    sections += ["## Recipes", "\n".join(f"- `{name}`: {text}" for name, text in found.items())]
    record = {key: results[key] for key in ("versions", "hardware")}
    sections += ["## How it was made", f"- {record_label(record)}"]
    return "\n\n".join(section for section in sections if section) + "\n"


def _artifacts(results: Results) -> list[tuple[Results, Results]]:
    return [(network, each) for network in results["networks"] for each in network["artifacts"]]


def _names(network: Results, artifact: Results) -> tuple[str, str]:
    recipe = network["recipe"]
    return f"{network_label(recipe)}, {CONVOLUTIONS[recipe['conv']]}", artifact["recipe"]


def _accuracy_and_size(results: Results) -> Table:
    titles = "network; recipe; n; top-1 %; to float; kernel weights; non-zero"
    titles += "; file KB; deflated KB; entropy KB; deflated, of float"
    rows: Table = [tuple(titles.split("; "))]
    for network, each in _artifacts(results):
        floats = (other for other in network["artifacts"] if other["recipe"] == "float")
        base = next(floats, None)
        total, sizes = each["kernels"]["total"], each["sizes"]
        cells = (
            str(each["n"]),
            mean_and_deviation(each["accuracy"], each["sd"]),
            f"{each['accuracy'] - base['accuracy']:+.2f}" if base else DASH,
            f"{total['parameters']:,}",
            f"{total['nonzero']:,}",
            *(f"{sizes[key] / 1000:,.1f}" for key in ("raw", "deflated", "entropy")),
            f"{sizes['deflated'] / base['sizes']['deflated']:.0%}" if base else DASH,
        )
        rows.append((*_names(network, each), *cells))
    return rows


def _speed(results: Results) -> Table:
    titles = [f"{runtime}: {unit}" for unit in _SPEEDS.values() for runtime in _RUNTIMES]
    rows: Table = [("network", "recipe", *titles)]
    for network, each in _artifacts(results):
        cells = [
            number(each.get(measure, {}).get(runtime), form)
            for measure, form in zip(_SPEEDS, (".2f", ",.0f"), strict=True)
            for runtime in _RUNTIMES
        ]
        rows.append((*_names(network, each), *cells))
    return rows


def _zeros(results: Results) -> Table:
    rows: Table = [("network", "recipe", *_KINDS, "all")]
    for network, each in _artifacts(results):
        kinds = [each["kernels"].get(kind) for kind in (*_KINDS, "total")]
        zeros = [kind and kind["sparsity"] for kind in kinds]
        if max(share or 0 for share in zeros) > 0.02:
            rows.append((*_names(network, each), *(number(share, ".1%") for share in zeros)))
    return rows if len(rows) > 1 else [*rows, ("none", *[DASH] * (len(_KINDS) + 2))]


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
    """Draw the accuracy of every artifact against its size, a color for each convolution."""
    panels: dict[str, list] = {}
    for network in results["networks"]:
        panels.setdefault(network_label(network["recipe"]), []).append(network)
    figure = make_figure(10.5, 7 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False).flat
    for ax, (title, networks) in zip(axes, panels.items(), strict=True):
        best = max(each["accuracy"] for network in networks for each in network["artifacts"])
        lowest = max(0.0, best - _DEPTH)
        for index, network in enumerate(networks):
            _draw_network(ax, network, lowest, index)
        ax.set_ylim(lowest, best + 0.15 * (best - lowest))
        ax.margins(x=0.08)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        low, high = ax.get_xlim()
        ax.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        labels = {"x": "LiteRT file, deflated, KB", "y": "top-1 accuracy, %"}
        style(ax, title=f"{title}: accuracy against compressed size", **labels)
        ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _draw_network(ax: Axes, network: Results, lowest: float, index: int) -> None:
    color, label = (names[network["recipe"]["conv"]] for names in (COLORS, CONVOLUTIONS))
    points = sorted(network["artifacts"], key=_size)
    shown = [each for each in points if each["accuracy"] >= lowest]
    x, y = [_size(each) for each in shown], [each["accuracy"] for each in shown]
    look: dict[str, Any] = {"fmt": "o", "ms": 6, "mec": "white", "elinewidth": 1, "zorder": 3}
    ax.errorbar(x, y, [each["sd"] or 0 for each in shown], color=color, label=label, **look)
    best = _front(shown)
    x, y = [_size(each) for each in best], [each["accuracy"] for each in best]
    ax.step(x, y, where="post", color=color, lw=1.2, alpha=0.5, zorder=2)
    for group in _neighbors(shown):
        text = ", ".join(sorted(each["recipe"] for each in group))
        _write(ax, text, (_size(group[0]), group[0]["accuracy"]), color)
    for each in (each for each in points if each not in shown):
        ax.plot(_size(each), lowest, "v", color=color, ms=6, mec="white", clip_on=False, zorder=3)
        text, line = f"{each['recipe']} {each['accuracy']:.1f} %", 6 + 10 * index
        _write(ax, text, (_size(each), lowest), color, line)


def _size(artifact: Results) -> float:
    return artifact["sizes"]["deflated"] / 1000


def _write(
    ax: Axes, text: str, place: tuple[float, float], color: str, points_above: float = 6
) -> None:
    color = DARK if color == COLORS["standard"] else color
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 6.5}
    edge = [withStroke(linewidth=2, foreground="white")]
    ax.annotate(text, place, (0, points_above), **look, color=color, path_effects=edge, zorder=4)


def _neighbors(points: Sequence[Results]) -> list[list[Results]]:
    """Return groups of artifacts, smallest first, that lie too close to each other to be named."""
    groups: list[list[Results]] = []
    for each in points:
        for group in groups:
            near = abs(each["accuracy"] - group[0]["accuracy"]) < _NEAR_ACCURACY
            if near and _size(each) < _NEAR_SIZE * _size(group[0]):
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def _front(points: Sequence[Results]) -> list[Results]:
    """Return the artifacts, smallest first, that no smaller one reaches in accuracy."""
    best: list[Results] = []
    for each in points:
        if not best or each["accuracy"] > best[-1]["accuracy"]:
            best.append(each)
    return best


PAGE = Page(_to_rows, _to_markdown, {"": _draw})
