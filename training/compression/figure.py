"""The figure of compression: accuracy against the size of the deflated file."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from training.studies.figures import DPI, GREY, TYPE_COLOURS
from training.studies.names import convolution_name, panel_name


def draw(results):
    """Draw the accuracy of every artefact against its size, a colour for each convolution.

    Args:
        results: Dictionary, as of `training.compression.results.collect`.

    Returns:
        A Matplotlib figure with a panel for each network and data set.
    """
    panels: dict[str, list] = {}
    for network in results["networks"]:
        panels.setdefault(panel_name(network["recipe"]), []).append(network)
    figure = Figure((8.4, 5.4 * len(panels)), DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    for ax, (title, networks) in zip(
        figure.subplots(len(panels), squeeze=False).flat, panels.items(), strict=True
    ):
        for network in networks:
            _draw_network(ax, network)
        _finish(ax, f"{title}: accuracy against compressed size")
    return figure


def _draw_network(ax, network):
    colour = TYPE_COLOURS[network["recipe"]["conv"]]
    points = sorted(network["artefacts"], key=lambda each: each["sizes"]["deflated"])
    sizes = [each["sizes"]["deflated"] / 1000 for each in points]
    accuracies = [each["accuracy"] for each in points]
    errors = [each["sd"] or 0 for each in points]
    ax.errorbar(sizes, accuracies, errors, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
    name = convolution_name(network["recipe"])
    ax.scatter(sizes, accuracies, s=34, color=colour, zorder=3, label=name, edgecolor="white")
    best = _front(points)
    ax.step(
        [each["sizes"]["deflated"] / 1000 for each in best],
        [each["accuracy"] for each in best],
        where="post",
        color=colour,
        lw=1.2,
        alpha=0.5,
        zorder=2,
    )
    for each in points:
        ax.annotate(
            each["recipe"],
            (each["sizes"]["deflated"] / 1000, each["accuracy"]),
            xytext=(4, 4 if each in best else -9),
            textcoords="offset points",
            fontsize=6.5,
            color="#3c4246",
        )


def _front(points):
    """Return the artefacts, smallest first, that no smaller one reaches in accuracy."""
    best: list = []
    for each in points:
        if not best or each["accuracy"] > best[-1]["accuracy"]:
            best.append(each)
    return best


def _finish(ax, title):
    ax.set_title(title, loc="left", fontsize=11, pad=10)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ticks = [10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000]
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    ax.set_xlabel("LiteRT file, deflated, KB", fontsize=9)
    ax.set_ylabel("top-1 accuracy, %", fontsize=9)
    ax.grid(color="#e4e6e8", lw=0.8, zorder=0)
    ax.tick_params(length=0, which="both", labelsize=9)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color=GREY)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
