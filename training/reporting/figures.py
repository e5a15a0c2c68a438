"""The style of every figure."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.reporting.labels import COLORS, CONVOLUTIONS

DPI = 150
GRAY, DARK, GRID = "#a9afb5", "#5c6368", "#e4e6e8"


def make_figure(width: float, height: float, **layout: Any) -> Figure:
    """Return a figure of some inches whose parts keep clear of each other."""
    figure = Figure((width, height), DPI)
    figure.set_layout_engine("constrained", **({"w_pad": 0.12, "h_pad": 0.12} | layout))
    return figure


def style(ax: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "both") -> None:
    """Give axes their title and labels, a pale grid, no ticks and no frame but a line below."""
    ax.set_title(title, loc="left", fontsize=10, pad=9)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    if grid:
        ax.grid(axis=grid, color=GRID, lw=0.8, zorder=0)
    ax.tick_params(length=0, which="both", labelsize=9)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color=GRAY)


def convolution_handles(convs: Iterable[str], **line: Any) -> list[Line2D]:
    """Return a legend's handles of types of convolution, in their order and colors."""
    convs = set(convs)
    line = {"marker": "o", "ls": ""} | line
    return [
        Line2D([], [], color=COLORS[conv], label=label, **line)
        for conv, label in CONVOLUTIONS.items()
        if conv in convs
    ]


def legend_above(figure: Figure, handles: list[Any], columns: int = 0) -> None:
    """Put a legend in a line above everything."""
    if handles:
        columns = columns or len(handles)
        place = {"loc": "outside upper center", "ncols": columns, "frameon": False}
        figure.legend(handles=handles, fontsize=9, **place)


def thousands(value: float, _: Any = None) -> str:
    """Write the number of a tick as 1K, 2.5M or 3G."""
    for unit, symbol in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:g}{symbol}"
    return f"{value:g}"
