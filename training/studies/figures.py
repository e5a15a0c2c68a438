"""The figures of a study: learning curves, as in the paper's Figure 3, and errors by size."""

import math
import statistics
import textwrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from training.reporting.labels import COLORS
from training.studies.names import condition_name, panel_name, setting_name, varying_keys

TYPE_COLORS = COLORS | {"mixconv_depthwise": "#009e73"}
_TICKS = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)
DPI = 150
GREY = "#a9afb5"
CAPTION_WIDTH = 90  # characters
LONG_NAME = 30  # characters of a name from which on it stands below the panel
_LEGEND_WIDTHS = {1: 84, 2: 56, 3: 56}  # characters of a line there, by columns of panels


def draw_curves(results):
    """Draw the test error over the epochs: a line for the mean, a band from best to worst seed.

    Args:
        results: Dictionary, as of `training.studies.results.collect`.

    Returns:
        A Matplotlib figure with a panel for each network and data set.
    """
    band = "band: from the best to the worst seed; legend: error at the end"
    return _draw(results, _draw_curves, band)


def draw_sizes(results):
    """Draw the test error against the number of parameters: means, and bars of a deviation.

    Args:
        results: Dictionary, as of `training.studies.results.collect`.

    Returns:
        A Matplotlib figure with a panel for each network and data set.
    """
    return _draw(results, _draw_sizes, "bars: standard deviation over the seeds")


def _draw(results, draw_panel, explanation):
    panels: dict[str, list] = {}
    for each in results["conditions"]:
        if each["runs"]:
            panels.setdefault(panel_name(each["recipe"]), []).append(each)
    varying = varying_keys(results["conditions"])
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = max(1, math.ceil(len(panels) / columns))
    names = {title: _names(each, varying, columns) for title, each in panels.items()}
    lines = max((sum(name.count("\n") + 1 for name in each) for each in names.values()), default=0)
    below = 0.15 * lines if any(map(_are_long, names.values())) else 0
    size = 6.4 if columns == 1 else 4.6 * columns, (4.2 + below) * rows + 0.4
    figure = Figure(size, DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (title, conditions) in zip(axes, panels.items(), strict=False):
        named = zip(names[title], conditions, strict=True)
        draw_panel(ax, sorted(named, key=lambda pair: pair[1]["mean"]))
        ax.set_title(title, loc="left", fontsize=11, pad=10)
        ax.tick_params(length=0, labelsize=9)
        ax.spines[:].set_visible(False)
        ax.spines["bottom"].set(visible=True, color=GREY)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    caption = _caption(results, explanation)
    figure.supxlabel(caption, fontsize=8, color="#5c6368", parse_math=False)
    return figure


def _names(conditions, varying, columns):
    """Return what to call the conditions of a panel, long names in lines."""
    types = {each["recipe"]["conv"] for each in conditions}
    name_of = setting_name if varying and len(types) == 1 else condition_name
    names = [name_of(each["recipe"], varying) for each in conditions]
    return ["\n".join(textwrap.wrap(name, _LEGEND_WIDTHS[columns])) for name in names]


def _are_long(names):
    return max(map(len, names)) > LONG_NAME


def _draw_sizes(ax, named):
    colors = _colors([each for _, each in named])
    are_long = _are_long([name for name, _ in named])
    for name, each in named:
        color, thousands = colors[each["label"]], each["parameters"] / 1000
        look = {"fmt": "o", "color": color, "ms": 7, "capsize": 4, "zorder": 3}
        ax.errorbar(thousands, each["mean"], each["sd"], label=name, **look)
        place = {"xytext": (9, 5), "textcoords": "offset points"}
        if not are_long:
            ax.annotate(name, (thousands, each["mean"]), **place, color=color, fontsize=9)
    if are_long:
        _legend_below(ax)
    ax.margins(x=0.25, y=0.25)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} k"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    ax.set_xlabel("trainable parameters", fontsize=9)
    ax.set_ylabel("top-1 test error", fontsize=9)
    ax.grid(color="#e4e6e8", lw=0.8, zorder=0)


def _draw_curves(ax, named):
    colors = _colors([each for _, each in named])
    lowest, highest = 100.0, 0.0
    for name, each in named:
        curves = [run["error_by_epoch"] for run in each["runs"]]
        by_epoch = list(zip(*curves, strict=True))
        epochs = range(1, len(by_epoch) + 1)
        color = colors[each["label"]]
        mean = [statistics.fmean(errors) for errors in by_epoch]
        label = f"{name}  {each['mean']:.2f} %"
        marker = "o" if len(mean) <= 15 else None
        ax.plot(epochs, mean, color=color, lw=1.6, label=label, marker=marker, ms=3.5, zorder=3)
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
    ax.set_xlabel("epoch", fontsize=9)
    ax.set_ylabel("top-1 test error", fontsize=9)
    ax.grid(axis="y", color="#e4e6e8", lw=0.8, zorder=0)
    if _are_long([name for name, _ in named]):
        _legend_below(ax)
    else:
        ax.legend(framealpha=1, edgecolor="none", fontsize=8.5, loc="upper right", handlelength=1.4)


def _legend_below(ax):
    """Name lines or points below the axes, where names are too long to stand among them."""
    place = {"loc": "upper left", "bbox_to_anchor": (-0.1, -0.14)}
    ax.legend(**place, frameon=False, fontsize=8, handlelength=1.4, borderaxespad=0)


def _colors(conditions):
    """Return a color for each condition: of its type, or of a map if a type comes twice."""
    types = [each["recipe"]["conv"] for each in conditions]
    if len(set(types)) == len(types):
        return {each["label"]: TYPE_COLORS[each["recipe"]["conv"]] for each in conditions}
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(conditions)))
    return {each["label"]: color for each, color in zip(conditions, colors, strict=False)}


def _caption(results, explanation):
    counts = sorted({len(each["runs"]) for each in results["conditions"] if each["runs"]})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts or [0])[:1] + counts[-1:]))
    unfinished = f"; {len(results['missing'])} runs missing" if results["missing"] else ""
    mean = "one seed" if counts == [1] else f"mean of {seeds} seeds"
    text = f"{mean}{'' if counts == [1] else f'; {explanation}'}{unfinished}"
    return "\n".join([text, *textwrap.wrap(results["note"], CAPTION_WIDTH)])
