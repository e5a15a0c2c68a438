"""The page of a study: its tables, learning curves as in the paper's Figure 3, errors by size."""

import math
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from training.paper_tables import NUMERALS, SOURCE
from training.reporting.figures import DARK, make_figure, style, thousands
from training.reporting.labels import (
    COLORS,
    CONVOLUTIONS,
    dataset_label,
    model_label,
    network_label,
    settings_label,
    value_label,
    varying_keys,
)
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
from training.studies.results import Results

_TICKS = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)
_CAPTION_WIDTH = 90  # characters
_LONG_LABEL = 30  # characters of a label from which on it stands below the panel
_LEGEND_WIDTHS = {1: 84, 2: 56, 3: 56}  # characters of a line there, by columns of panels
_METRICS = {"error": "%", "train_error": "%", "images_per_second": "images/s", "seconds": "s"}
Table = list[tuple[str, ...]]
Labeled = list[tuple[str, Results]]  # a label and a condition each


def _to_rows(results: Results) -> Iterator[Row]:
    for each in results["conditions"]:
        recipe, sizes = each["recipe"], each["recipe"]["kernel_sizes"]
        cell = {"label": each["label"]}
        cell |= {key: recipe[key] for key in ("dataset", "model", "conv")}
        cell |= {"kernel_sizes": sizes and value_label("kernel_sizes", sizes)}
        cell |= {"epochs": recipe["epochs"]}
        for metric in ("parameters", "multiply_adds"):
            yield Row("study", cell, None, metric, each[metric])
        if each["paper"]:
            yield Row("study", cell, None, "error of the paper", each["paper"]["error"], "%")
        for run in each["runs"]:
            machine = machine_label(results["environments"][run["environment"]]["hardware"])
            for metric, unit in _METRICS.items():
                yield Row("study", cell, run["seed"], metric, run[metric], unit, machine)


def _to_markdown(results: Results, curves: str, sizes: str) -> str:
    conditions = results["conditions"]
    varying = varying_keys([each["recipe"] for each in conditions])
    sections = ["# Top-1 test errors of a study", *_introduction(results)]
    if by_type := _by_convolution(conditions, varying):
        sections.append(markdown(by_type, left=1 + len(varying)))
    if by_size := _by_kernel_sizes(conditions, varying):
        sections.append(markdown(by_size, left=2))
    sections += [_legend(conditions), f"![Learning curves]({curves})"]
    sections += [f"![Errors against parameters]({sizes})"]
    sections += ["## Every condition", markdown(_by_condition(conditions, varying), left=2)]
    if results["comparisons"]:
        test = f"Difference of the errors in percentage points; {results['test']}."
        sections += ["## Differences", markdown(_comparisons(results, varying), left=2), test]
    sections += ["## How it was made", _environments(results)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _condition_label(recipe: Results, varying: Sequence[str]) -> str:
    """Return what tells a recipe from the others of its network and data set."""
    return settings_label(recipe, ["conv", *varying])


def _introduction(results: Results) -> Iterator[str]:
    yield f"`{results['command']}`" if results["command"] else ""
    yield results["note"]
    if results["missing"]:
        planned = sum(each["planned"] for each in results["conditions"])
        yield (
            f"**Not complete**: {len(results['missing'])} of {planned} runs have no result yet: "
            f"{'; '.join(results['missing'])}."
        )


def _legend(conditions: Sequence[Results]) -> str:
    """Say what the cells hold and how the recipes differ from the paper's."""
    lines = ["Mean ± standard deviation over the seeds, in percent."]
    if any(each["paper"] for each in conditions):
        lines[0] += f" In brackets what the paper reports, the mean of three runs ({SOURCE})."
    groups: dict[str, list] = {}
    for each in conditions:
        if each["paper"]:
            groups.setdefault(network_label(each["recipe"]), []).append(each)
    differing: dict[str, list] = {}
    for network, group in groups.items():
        differing.setdefault(_differing(group), []).append(network)
    for text, networks in differing.items():
        where = "" if len(differing) == 1 else f" ({', '.join(networks)})"
        if text:
            lines.append(f"**Not the paper's recipe**{where}: {text}.")
    return "\n\n".join(lines)


def _differing(conditions: Sequence[Results]) -> str:
    """Return where recipes differ from the paper's, with all values that they have there."""
    papers: dict = {}
    for each in conditions:
        papers |= {key: theirs for key, (_, theirs) in each["paper"]["differing"].items()}
    ours = {key: dict.fromkeys(str(each["recipe"][key]) for each in conditions) for key in papers}
    return ", ".join(
        f"{key} {' or '.join(ours[key])} (paper: {theirs})" for key, theirs in papers.items()
    )


def _by_convolution(conditions: Sequence[Results], varying: Sequence[str]) -> Table:
    """Return the rows of a table like the paper's Table I, or none without types to compare."""
    columns = [conv for conv in CONVOLUTIONS if conv in {c["recipe"]["conv"] for c in conditions}]
    groups: dict[tuple[str, ...], dict] = {}
    for each in conditions:
        recipe = each["recipe"]
        key = (network_label(recipe), *(value_label(key, recipe[key]) for key in varying))
        groups.setdefault(key, {})[recipe["conv"]] = each
    rows: Table = [("network and data set", *varying, *(CONVOLUTIONS[conv] for conv in columns))]
    for key, group in groups.items():
        if len(group) > 1:
            rows.append((*key, *(_error(group.get(conv)) for conv in columns)))
    return rows if len(rows) > 1 else []


def _by_kernel_sizes(conditions: Sequence[Results], varying: Sequence[str]) -> Table:
    """Return the rows of a table like the paper's Table IV, or none without sizes to compare."""
    if "kernel_sizes" not in varying:
        return []
    others = [key for key in varying if key != "kernel_sizes"]
    datasets = list(dict.fromkeys(each["recipe"]["dataset"] for each in conditions))
    groups: dict[tuple[str, str], dict] = {}
    for each in conditions:
        recipe = each["recipe"]
        network = f"{model_label(recipe['model'])}, {_condition_label(recipe, others)}"
        key = network, value_label("kernel_sizes", recipe["kernel_sizes"])
        groups.setdefault(key, {})[recipe["dataset"]] = each
    rows: Table = [("network", "kernel sizes", *map(dataset_label, datasets))]
    for key, group in groups.items():
        rows.append((*key, *(_error(group.get(name)) for name in datasets)))
    return rows


def _by_condition(conditions: Sequence[Results], varying: Sequence[str]) -> Table:
    titles = (
        "n",
        "mean",
        "SD",
        "paper",
        "parameters",
        "multiply-adds",
        "images/s",
        "minutes a run",
    )
    rows: Table = [("network and data set", "convolution", *titles)]
    for each in conditions:
        paper = each["paper"]
        minutes = [run["seconds"] / 60 for run in each["runs"]]
        cells = (
            f"{each['n']} of {each['planned']}",
            number(each["mean"], ".2f"),
            number(each["sd"], ".2f"),
            f"{paper['error']:.2f} (Table {NUMERALS[paper['table']]})" if paper else DASH,
            number(each["parameters"], ","),
            number(each["multiply_adds"], ","),
            number(each["images_per_second"], ",.0f"),
            number(statistics.fmean(minutes) if minutes else None, ".1f"),
        )
        recipe = each["recipe"]
        rows.append((network_label(recipe), _condition_label(recipe, varying), *cells))
    return rows


def _comparisons(results: Results, varying: Sequence[str]) -> Table:
    by_label = {each["label"]: each["recipe"] for each in results["conditions"]}
    rows: Table = [
        ("network and data set", "difference of", "n", "points", "95 % CI", "p", "paper")
    ]
    for each in results["comparisons"]:
        first, second = (by_label[each[place]] for place in ("first", "second"))
        same = [key for key in ("conv", *varying) if key != each["key"]]
        place = "; ".join((network_label(first), *(settings_label(first, [key]) for key in same)))
        names = (settings_label(recipe, [each["key"]]) for recipe in (first, second))
        interval = p_value = "not available"
        if each["low"] is not None:
            interval = f"{each['low']:+.2f} to {each['high']:+.2f}"
            p_value = f"{each['p_value']:.2g}"
        cells = str(each["n"]), f"{each['difference']:+.2f}", interval, p_value
        rows.append((place, " minus ".join(names), *cells, number(each["paper"], "+.2f")))
    return rows


def _environments(results: Results) -> str:
    runs = [run for each in results["conditions"] for run in each["runs"]]
    lines = []
    for index, each in enumerate(results["environments"]):
        count = sum(run["environment"] == index for run in runs)
        lines.append(f"- {count} runs: {record_label(each)}")
    lines += ["", "One run of each condition alone, to be given a `--workdir`:", ""]
    return "\n".join((*lines, *(f"    {each['command']}" for each in results["conditions"])))


def _error(condition: Results | None) -> str:
    """Return mean, standard deviation and, in brackets, the paper's figure."""
    if condition is None or condition["mean"] is None:
        return DASH
    paper = f" ({condition['paper']['error']:.2f})" if condition["paper"] else ""
    return mean_and_deviation(condition["mean"], condition["sd"]) + paper


def _draw_curves(results: Results) -> Figure:
    """Draw the test error over the epochs: a line for the mean, a band from best to worst seed."""
    band = "band: from the best to the worst seed; legend: error at the end"
    return _draw(results, _draw_curves_of, band)


def _draw_sizes(results: Results) -> Figure:
    """Draw the test error against the number of parameters: means, and bars of a deviation."""
    return _draw(results, _draw_sizes_of, "bars: standard deviation over the seeds")


def _draw(results: Results, draw_panel: Callable[..., None], explanation: str) -> Figure:
    """Draw a panel for each network and data set."""
    panels: dict[str, list] = {}
    for each in results["conditions"]:
        if each["runs"]:
            panels.setdefault(network_label(each["recipe"]), []).append(each)
    varying = varying_keys([each["recipe"] for each in results["conditions"]])
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = max(1, math.ceil(len(panels) / columns))
    labeled = {title: _labeled(each, varying, columns) for title, each in panels.items()}
    lines = [sum(label.count("\n") + 1 for label, _ in each) for each in labeled.values()]
    below = 0.15 * max(lines) if any(map(_are_long, labeled.values())) else 0
    width = 6.4 if columns == 1 else 4.6 * columns
    figure = make_figure(width, (4.2 + below) * rows + 0.4)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (title, conditions) in zip(axes, labeled.items(), strict=False):
        draw_panel(ax, sorted(conditions, key=lambda pair: pair[1]["mean"]), title)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    caption = _caption(results, explanation)
    figure.supxlabel(caption, fontsize=8, color=DARK, parse_math=False)
    return figure


def _labeled(conditions: list[Results], varying: Sequence[str], columns: int) -> Labeled:
    """Return the conditions of a panel with what to call them, long labels in lines."""
    same_type = len({each["recipe"]["conv"] for each in conditions}) == 1
    keys = varying if varying and same_type else ["conv", *varying]
    labels = [settings_label(each["recipe"], keys) for each in conditions]
    width = _LEGEND_WIDTHS[columns]
    return [
        ("\n".join(textwrap.wrap(label, width)), each)
        for label, each in zip(labels, conditions, strict=True)
    ]


def _are_long(labeled: Labeled) -> bool:
    return max(len(label) for label, _ in labeled) > _LONG_LABEL


def _draw_sizes_of(ax: Axes, labeled: Labeled, title: str) -> None:
    colors = _colors(labeled)
    for label, each in labeled:
        color, place = colors[each["label"]], (each["parameters"], each["mean"])
        look: dict[str, Any] = {"fmt": "o", "ms": 7, "capsize": 4, "zorder": 3}
        ax.errorbar(*place, each["sd"], label=label, color=color, **look)
        if not _are_long(labeled):
            offset: dict[str, Any] = {"xytext": (9, 5), "textcoords": "offset points"}
            ax.annotate(label, place, **offset, color=color, fontsize=9)
    if _are_long(labeled):
        _legend_below(ax)
    ax.margins(x=0.25, y=0.25)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(thousands))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    style(ax, title=title, x="trainable parameters", y="top-1 test error")


def _draw_curves_of(ax: Axes, labeled: Labeled, title: str) -> None:
    colors = _colors(labeled)
    lowest, highest = 100.0, 0.0
    for label, each in labeled:
        curves = [run["error_by_epoch"] for run in each["runs"]]
        by_epoch = list(zip(*curves, strict=True))
        epochs, color = range(1, len(by_epoch) + 1), colors[each["label"]]
        center = [statistics.fmean(errors) for errors in by_epoch]
        look: dict[str, Any] = {"marker": "o" if len(center) <= 15 else None, "ms": 3.5, "lw": 1.6}
        label = f"{label}  {each['mean']:.2f} %"
        ax.plot(epochs, center, color=color, label=label, zorder=3, **look)
        if len(curves) > 1:
            low, high = ([pick(errors) for errors in by_epoch] for pick in (min, max))
            ax.fill_between(epochs, low, high, color=color, alpha=0.18, lw=0, zorder=2)
        lowest = min(lowest, *map(min, curves))
        highest = max(highest, *map(max, curves))
    ax.set_yscale("log")
    ax.set_ylim(max(lowest, 0.5) * 0.93, max(highest, 1) * 1.05)
    ax.yaxis.set_major_locator(FixedLocator(_TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    style(ax, title=title, x="epoch", y="top-1 test error", grid="y")
    if _are_long(labeled):
        _legend_below(ax)
    else:
        ax.legend(framealpha=1, edgecolor="none", fontsize=8.5, loc="upper right", handlelength=1.4)


def _legend_below(ax: Axes) -> None:
    """Name lines or points below the axes, where labels are too long to stand among them."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.1, -0.14)}
    ax.legend(**place, frameon=False, fontsize=8, handlelength=1.4, borderaxespad=0)


def _colors(labeled: Labeled) -> dict[str, Any]:
    """Return a color for each condition: of its type, or of a map if a type comes twice."""
    conditions = [each for _, each in labeled]
    types = [each["recipe"]["conv"] for each in conditions]
    if len(set(types)) == len(types):
        return {each["label"]: COLORS[each["recipe"]["conv"]] for each in conditions}
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(conditions)))
    return {each["label"]: color for each, color in zip(conditions, colors, strict=True)}


def _caption(results: Results, explanation: str) -> str:
    counts = sorted({len(each["runs"]) for each in results["conditions"] if each["runs"]}) or [0]
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    text = "one seed" if counts == [1] else f"mean of {seeds} seeds; {explanation}"
    if results["missing"]:
        text += f"; {len(results['missing'])} runs missing"
    return "\n".join([text, *textwrap.wrap(results["note"], _CAPTION_WIDTH)])


PAGE = Page(_to_rows, _to_markdown, {"": _draw_curves, "_sizes": _draw_sizes})
