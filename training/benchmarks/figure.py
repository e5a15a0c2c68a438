"""The figure of a benchmark: how many times as fast each form is as plain Keras layers."""

import statistics

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from training.benchmarks.plan import FORMS
from training.benchmarks.tables import form_name, task_name
from training.costs_figure import COLORS
from training.studies.names import CONVOLUTIONS, MODELS

DPI = 150
GREY, DARK, BAND = "#a9afb5", "#5c6368", "#f5f6f7"
LIMIT = "serial limit"
# up to which ratio of the ends of an axis which ticks are apart
_TICKS = {
    6: (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8),
    40: (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
    float("inf"): (0.001, 0.01, 0.1, 1, 10, 100, 1000),
}


def draw(results):
    """Draw a row of panels for each network: the training step, and inference by batch size.

    Args:
        results: Dictionary, as of `training.benchmarks.rounds.run`.

    Returns:
        A Matplotlib figure.
    """
    rows = [row for row in results["rows"] if row["vs_plain"] and row["task"] != "fit"]
    # the branches alone, which share no form with the networks, are for the tables
    rows = [row for row in rows if row["task"] != "branches"] or rows
    models = list(dict.fromkeys(row["model"] for row in rows)) or [""]
    titles = list(dict.fromkeys(task_name(row) for row in rows)) or [""]
    lines = _lines(rows)
    figure = Figure((2.2 + 3.1 * len(titles), 1.1 + (0.8 + 0.42 * len(lines)) * len(models)), DPI)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.1)
    axes = figure.subplots(len(models), len(titles), squeeze=False, sharex="col")
    for model, of_model in zip(models, axes, strict=True):
        for title, ax in zip(titles, of_model, strict=True):
            panel = [r for r in rows if r["model"] == model and task_name(r) == title]
            _draw_panel(ax, panel, lines)
            several = f"{MODELS.get(model, model)}: " if len(models) > 1 else ""
            ax.set_title(f"{several}{title}", loc="left", fontsize=10, pad=8)
            ax.tick_params(labelleft=ax is of_model[0])
    convs = [conv for conv in COLORS if conv in {row["conv"] for row in rows}]
    handles = [_handle(COLORS[conv], CONVOLUTIONS[conv]) for conv in convs]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=len(handles),
            frameon=False,
            fontsize=10,
        )
    figure.supxlabel(_caption(results, models), fontsize=8.5, color=DARK)
    return figure


def _lines(rows):
    """Return the names of the forms to show, from top to bottom."""
    order = list(FORMS)
    shown = sorted(
        (row for row in rows if row["form"] not in ("plain", "grouped") or "," in row["side"]),
        key=lambda row: (order.index(row["form"]), row["side"]),
    )
    names = list(dict.fromkeys(map(form_name, shown)))
    return [*names, LIMIT] if any(row["limit_ms"] for row in rows) else names


def _draw_panel(ax, rows, lines):
    convs = [conv for conv in COLORS if conv in {row["conv"] for row in rows}]
    for place in range(0, len(lines), 2):
        ax.axhspan(place - 0.5, place + 0.5, color=BAND, lw=0, zorder=0)
    ax.axvline(1, color=DARK, lw=1.2, zorder=2)
    step = 0.66 / max(len(convs), 3)
    values = [1.0]
    for row in rows:
        offset = (convs.index(row["conv"]) - (len(convs) - 1) / 2) * step
        color, ratio = COLORS[row["conv"]], row["vs_plain"]
        if form_name(row) in lines:
            place = lines.index(form_name(row)) + offset
            ends = ratio["low"], ratio["high"]
            ax.plot(ends, (place, place), color=color, lw=2, alpha=0.45, zorder=2)
            ax.plot(ratio["median"], place, "o", color=color, ms=5, mec="white", mew=0.6, zorder=3)
            values += ends
        if row["form"] == "plain" and row["limit_ms"] and "," not in row["side"]:
            limit = statistics.median(row["seconds"]) * 1000 / row["limit_ms"]
            place = lines.index(LIMIT) + offset
            ax.plot(limit, place, "D", mfc="white", mec=color, ms=4.5, mew=1.4, zorder=3)
            values.append(limit)
    measured = {form_name(row) for row in rows} | {LIMIT}
    for place, name in enumerate(lines):
        if name not in measured:
            ax.text(
                0.5,
                place,
                "\N{EN DASH}",
                color=GREY,
                va="center",
                transform=ax.get_yaxis_transform(),
            )
    ax.set_xscale("log")
    ax.set_xlim(
        min(ax.get_xlim()[0], min(values) / 1.15), max(ax.get_xlim()[1], max(values) * 1.15)
    )
    span = ax.get_xlim()[1] / ax.get_xlim()[0]
    ax.xaxis.set_major_locator(FixedLocator(next(t for most, t in _TICKS.items() if span < most)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    ax.set_yticks(range(len(lines)), lines)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.grid(axis="x", color="#e4e6e8", lw=0.8, zorder=0)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)


def _handle(color, label):
    return Line2D([], [], color=color, marker="o", ms=6, lw=2, mec="white", label=label)


def _caption(results, models):
    counts = sorted({row["milliseconds"]["n"] for row in results["rows"]}) or [0]
    facts = next(iter(results["environments"].values()))
    network = f"{MODELS.get(models[0], models[0])}; " if len(models) == 1 else ""
    device = ", ".join(facts["gpus"]) or f"{facts.get('cpu', 'CPU')}, {facts['threads']} cores"
    one_dnn = f", oneDNN {facts['onednn']}" if facts["onednn"] else ""
    return (
        f"Times as fast as plain Keras layers (the line at 1x), the same convolution; "
        f"dot: median (n = {counts[-1]}), bar: lowest to highest\n"
        f"{network}{device}, {facts['backend']}{one_dnn}"
        + (
            "; diamond: every operation at the measured speed of the machine"
            * bool(results["limits"])
        )
    )
