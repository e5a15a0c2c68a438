"""The figures of `python -m training.report`, each in a light and a dark theme."""

import base64
import io
import itertools
import math
import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.reports.measures import share


def _theme(paper, ink, lines, runs):
    return {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": lines,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": lines,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "axes.prop_cycle": rcsetup.cycler(color=runs),
        "svg.hashsalt": "report",  # the same report is the same file
    }


# Colors that stay apart for color-blind readers, after Okabe and Ito.
THEMES = {
    "light": _theme(
        "#ffffff",
        "#20252b",
        "#dfe3e7",
        ["#0072b2", "#d55e00", "#009e73", "#b3588f", "#8a6d00", "#3b97c9", "#5c6670"],
    ),
    "dark": _theme(
        "#14181d",
        "#dde3e9",
        "#343b43",
        ["#56b4e9", "#ee8a3c", "#2fc79a", "#e39cc6", "#f0d94a", "#8fa7ff", "#a9b2bb"],
    ),
}
_STYLES = ("-", "--", ":", "-.")
_TEST: dict[str, Any] = {"lw": 1.8}
_TRAINING: dict[str, Any] = {"lw": 0.8, "alpha": 0.8}
_CURVES = {"loss": "loss", "top1": "top-1 error", "learning_rate": "learning rate"}


def svg_uri(draw, *arguments, theme):
    """Draw a figure as SVG.

    Args:
        draw: One of the functions below that return a figure.
        *arguments: Its arguments.
        theme: String, a key of `THEMES`.

    Returns:
        A data URI, string.
    """
    file = io.BytesIO()
    with matplotlib.rc_context(THEMES[theme]):
        draw(*arguments).savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def save_png(draw, *arguments, path):
    """Draw a figure in the light theme and save it as PNG.

    Args:
        draw: One of the functions below that return a figure.
        *arguments: Its arguments.
        path: Path of the file.
    """
    with matplotlib.rc_context(THEMES["light"]):
        draw(*arguments).savefig(path, dpi=150)


def draw_curves(histories):
    """Draw loss, top-1 error and learning rate over the epochs.

    Args:
        histories: Dictionary from the names of runs to their histories: dictionaries from
            "epoch", "loss", "val_loss", "top1", "val_top1" and "learning_rate" to lists of
            numbers. What no run has is not drawn.

    Returns:
        A Matplotlib figure.
    """
    panels = {
        column: title
        for column, title in _CURVES.items()
        if any(column in history for history in histories.values())
    }
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    styles = itertools.product(_STYLES, colors)
    looks = {
        name: {"color": color, "ls": style}
        for name, (style, color) in zip(histories, itertools.cycle(styles), strict=False)
    }
    legend_columns = 2 if max(map(len, histories)) < 36 else 1
    legend_rows = math.ceil(len(histories) / legend_columns)
    figure = Figure((6.4, 0.7 + 2 * len(panels) + 0.2 * legend_rows), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        for name, history in histories.items():
            for key, weight in ((column, _TRAINING), (f"val_{column}", _TEST)):
                if key in history:
                    values = np.array(history[key])
                    values = 1 - values if column == "top1" else values
                    marker = "o" if len(values) < 4 else None
                    ax.plot(history["epoch"], values, marker=marker, **looks[name], **weight)
        ax.set_title(title)
    axes[list(panels).index("loss")].set_yscale("log")
    axes[list(panels).index("top1")].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[list(panels).index("top1")].set_ylim(bottom=0)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("epoch")
    weights = {"test, after the epoch": _TEST, "training, during the epoch": _TRAINING}
    gray = matplotlib.rcParams["text.color"]
    keys = [Line2D([], [], color=gray, label=name, **w) for name, w in weights.items()]
    axes[0].legend(handles=keys, loc="upper right")
    if len(histories) > 1:
        runs = [Line2D([], [], label=name, lw=1.8, **look) for name, look in looks.items()]
        legend = figure.legend(handles=runs, loc="outside upper left", ncols=legend_columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def draw_confusion(matrix, class_names):
    """Draw a confusion matrix.

    Args:
        matrix: Array of shape (classes, classes): of each true class (row), the share of its
            images that is taken for each class (column).
        class_names: Name of each class.

    Returns:
        A Matplotlib figure.
    """
    matrix = np.asarray(matrix)
    names = [textwrap.shorten(name, 18, placeholder="…") for name in class_names]
    figure = Figure((6.4, 6), layout="constrained")
    ax = figure.subplots()
    paper, ink = (matplotlib.rcParams[key] for key in ("axes.facecolor", "text.color"))
    colors = LinearSegmentedColormap.from_list("", [paper, "C0"])
    ax.imshow(matrix, colors, vmin=0, vmax=1)
    ax.grid(False)
    size = min(9, 90 / len(names))
    for row, column in zip(*np.nonzero(matrix >= 0.005), strict=True):
        color = paper if matrix[row, column] > 0.55 else ink
        text = f"{100 * matrix[row, column]:.0f}"
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    upright = max(map(len, names)) <= 3
    places, plain = range(len(names)), {"parse_math": False}
    ax.set_xticks(places, names, rotation=0 if upright else 45, rotation_mode="xtick", **plain)
    ax.set_yticks(places, names, **plain)
    ax.tick_params(labelsize=max(size, 6))
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.set_xlabel("predicted, in % of the true class")
    ax.set_ylabel("true")
    return figure


def draw_reliability(bins):
    """Draw a reliability diagram: accuracy by confidence, and how many images are how sure.

    Args:
        bins: List of dictionaries as from `training.reports.calibration.measure_calibration`.

    Returns:
        A Matplotlib figure.
    """
    figure = Figure((6.4, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [entry for entry in bins if entry["examples"]]
    shares = [share(x["top1"] * x["examples"], x["examples"]) for x in filled]
    accuracy = np.array([x["share"] for x in shares])
    spread = np.abs(np.array([(x["low"], x["high"]) for x in shares]).T - accuracy)
    confidence = [x["confidence"] for x in filled]
    ink = matplotlib.rcParams["text.color"]
    top.plot([0, 1], [0, 1], color=ink, lw=0.8, ls="--")
    top.vlines(confidence, confidence, accuracy, color="C1", lw=6, alpha=0.35)
    top.errorbar(confidence, accuracy, spread, fmt="o", color="C0", ms=5, elinewidth=1.2)
    top.set_title("accuracy; line: Wilson's 95 % interval; band: distance from the diagonal")
    for axis in (top.yaxis, bottom.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    counts = [entry["examples"] for entry in bins]
    bars = bottom.bar(
        [entry["above"] for entry in bins],
        counts,
        [entry["to"] - entry["above"] for entry in bins],
        align="edge",
        color="C0",
        edgecolor=matplotlib.rcParams["axes.facecolor"],
    )
    bottom.bar_label(bars, [f"{x:,}" if x else "" for x in counts], fontsize=7, padding=2)
    bottom.margins(y=0.2)
    bottom.set_title("images")
    bottom.set_xlabel("confidence: probability of the predicted class")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def draw_mistakes(images, captions):
    """Draw images with a caption above each.

    Args:
        images: List of images that `imshow` takes.
        captions: List of as many strings.

    Returns:
        A Matplotlib figure.
    """
    columns = 6
    rows = math.ceil(len(images) / columns)
    height = 2.2 * rows
    figure = Figure((1.6 * columns, height))
    # placed by hand: a layout engine takes a second for as many axes
    space = {"left": 0.01, "right": 0.99, "top": 1 - 0.6 / height, "bottom": 0.05 / height}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**space, "hspace": 0.5})
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        ax.imshow(image)
        ax.set_title(caption, fontsize=8, parse_math=False)
    return figure
