"""The figure of a search: accuracy against what a network costs."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from training.studies.figures import DPI, GREY, TYPE_COLORS
from training.studies.names import CONVOLUTIONS
from training.tuning.results import find_winner, pareto_front

_AXES = {"parameters": "trainable parameters", "latency_ms": "milliseconds for one image"}
_UNTRAINED = ("over budget", "diverged")


def draw_search(results, budget):
    """Draw the accuracy of every trial against its parameters and its latency.

    Args:
        results: List of `TrialResult`.
        budget: Dictionary from costs to the most that a trial may cost.

    Returns:
        A Matplotlib figure.
    """
    figure = Figure((10, 4.8), DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = figure.subplots(1, len(_AXES), sharey=True)
    for ax, (cost, label) in zip(axes, _AXES.items(), strict=True):
        _draw_trials(ax, results, cost)
        if cost in budget:
            ax.axvline(budget[cost], color=GREY, ls="--", lw=1, zorder=1)
            ax.annotate(
                "budget",
                (budget[cost], 0.07),
                (4, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90,
                ha="left",
                va="bottom",
                fontsize=8,
                color="#5c6368",
            )
        ax.set_xlabel(label, fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(color="#e4e6e8", lw=0.8, zorder=0)
        ax.tick_params(length=0, labelsize=9)
        ax.spines[:].set_visible(False)
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e3:g}K"))
    axes[0].set_ylabel("top-1 accuracy on the validation split", fontsize=9)
    figure.legend(
        handles=_legend(results), loc="outside upper center", ncols=4, frameon=False, fontsize=8.5
    )
    return figure


def _draw_trials(ax, results, cost):
    trained = [each for each in results if each.status == "trained"]
    front = pareto_front(results, cost)
    if front:
        x = [getattr(each, cost) for each in front]
        y = [each.accuracy for each in front]
        end = max(getattr(each, cost) for each in trained)
        ax.step([*x, end], [*y, y[-1]], where="post", color="#5c6368", lw=1.2, zorder=2)
    for each in trained:
        marker, size = ("*", 190) if each.name == results[0].name else ("o", 52)
        alpha = 1 if each in front else 0.45
        place = getattr(each, cost), each.accuracy
        color = TYPE_COLORS[each.recipe.conv]
        ax.scatter(*place, size, color, marker, alpha=alpha, lw=0, zorder=3)
        if each is find_winner(results):
            ax.scatter(*place, 2.6 * size, "none", "o", edgecolors="black", lw=1, zorder=4)
    untrained = [getattr(each, cost) for each in results if each.status in _UNTRAINED]
    costs = [getattr(each, cost) for each in trained] + untrained
    if costs:
        margin = 0.06 * (max(costs) - min(costs)) or 1
        ax.set_xlim(min(costs) - margin, max(costs) + margin)
    transform = ax.get_xaxis_transform()
    ax.scatter(untrained, [0.02] * len(untrained), 26, GREY, "x", transform=transform, zorder=3)


def _legend(results):
    def point(label, color, marker="o", **style):
        return Line2D([], [], color=color, marker=marker, ls="", label=label, **style)

    types = {each.recipe.conv for each in results if each.status == "trained"}
    handles = [
        point(name, TYPE_COLORS[conv]) for conv, name in CONVOLUTIONS.items() if conv in types
    ]
    if results and results[0].status == "trained":
        handles.append(point("the recipe's own arrangement", "#5c6368", "*", ms=11))
    handles.append(Line2D([], [], color="#5c6368", lw=1.2, label="Pareto front"))
    handles.append(point("winner", "black", mfc="none", ms=10))
    if any(each.status in _UNTRAINED for each in results):
        handles.append(point("over budget or diverged", GREY, "x"))
    return handles
