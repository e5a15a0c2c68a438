"""The figure of `python -m serving.benchmark --plot`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from serving.benchmark_results import PERCENTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colors that stay apart for color-blind readers and in print.
_COLORS = {"REST": "#0072b2", "gRPC": "#d55e00"}
_GREY, _PALE = "#5f666d", "#e4e6e8"
_STRENGTHS = dict(zip(PERCENTILES, (1.0, 0.75, 0.5), strict=True))
_LABEL_GAP = 0.065  # of a panel's height


@dataclass(frozen=True)
class _Series:
    label: str
    color: str
    rows: Sequence[dict]
    figure: str
    strength: float = 1.0

    def values(self, of: str) -> list[float]:
        return [row[self.figure][of] for row in self.rows]


def draw(rows: Sequence[dict], how: str, machine: str, path: Path) -> None:
    """Draws throughput, and each API's latencies, against the number of clients.

    Args:
        rows: The benchmark's rows.
        how: What was measured, in words.
        machine: On what, in words.
        path: The PNG file to write.
    """
    apis = {api: [row for row in rows if row["api"] == api] for api in _COLORS}
    figure = Figure(figsize=(12, 4.8), dpi=150)
    figure.set_layout_engine("constrained", rect=(0.005, 0.075, 0.99, 0.775), wspace=0.04)
    figure.text(0.012, 0.97, "A server under load", fontsize=14, weight="bold", va="top")
    figure.text(0.012, 0.905, how, fontsize=9.5, color=_GREY, va="top")
    note = "\n".join(textwrap.wrap(machine, 190))
    figure.text(0.012, 0.02, note, fontsize=8, color=_GREY)
    first, *others = figure.subplots(1, 1 + len(apis))
    _draw_throughput(first, rows, apis)
    top = max(row[f"p{p} ms"]["max"] for row in rows for p in PERCENTILES)
    low = min(row[f"p{p} ms"]["min"] for row in rows for p in PERCENTILES)
    for ax, (api, found) in zip(others, apis.items(), strict=True):
        series = [
            _Series(f"p{p}", _COLORS[api], found, f"p{p} ms", _STRENGTHS[p]) for p in PERCENTILES
        ]
        ax.set_yscale("log")
        ax.set_ylim(low / 1.25, top * 1.25)
        ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        _draw(ax, f"{api}: milliseconds to the answer", series)
    figure.savefig(path, format="png")


def _draw_throughput(ax: Axes, rows: Sequence[dict], apis: dict[str, list[dict]]) -> None:
    alone = [value for row in rows for value in row["in process images/s"]["rounds"]]
    ax.axhspan(min(alone), max(alone), color=_PALE, lw=0, zorder=0)
    ax.axhline(median(alone), color=_GREY, lw=1.3, ls=(0, (4, 3)), zorder=1)
    ax.annotate(
        f"in process, whole batches  {_short(median(alone))}",
        (0, max(alone)),
        (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=_GREY,
        fontsize=9,
    )
    ax.set_ylim(0, 1.15 * max([*alone, *(row["images/s"]["max"] for row in rows)]))
    series = [_Series(api, _COLORS[api], found, "images/s") for api, found in apis.items()]
    _draw(ax, "Images per second", series)


def _draw(ax: Axes, title: str, series: Sequence[_Series]) -> None:
    clients = [row["clients"] for row in series[0].rows]
    for one in series:
        mid, low, high = (one.values(of) for of in ("median", "min", "max"))
        ax.plot(clients, mid, marker="o", ms=5, lw=2, zorder=3, color=one.color, alpha=one.strength)
        ax.vlines(clients, low, high, lw=5, zorder=2, color=one.color, alpha=0.3)
    ax.set_title(title, loc="left", fontsize=10.5)
    ax.set_xlabel("requests at once")
    ax.set_xscale("log", base=2)
    ax.set_xlim(clients[0] / 1.4, clients[-1] * 1.4)
    ax.set_xticks(clients, [f"{count}" for count in clients])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.grid(axis="y", color=_PALE, zorder=0)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color="#a9afb5")
    _label_ends(ax, series)


def _label_ends(ax: Axes, series: Sequence[_Series]) -> None:
    """Names each line where it ends, from the lowest up, none over another."""
    to_height = ax.transScale + ax.transLimits
    ends = [(to_height.transform((1, one.values("median")[-1]))[1], one) for one in series]
    last = -1.0
    for height, one in sorted(ends, key=lambda end: end[0]):
        last = max(height, last + _LABEL_GAP)
        ax.text(
            1.01,
            last,
            f"{one.label}  {_short(one.values('median')[-1])}",
            transform=ax.transAxes,
            color=one.color,
            alpha=one.strength,
            fontsize=9.5,
            va="center",
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
