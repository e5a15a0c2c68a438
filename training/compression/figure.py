"""The figure of compression: accuracy against the size of the deflated file."""

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from training.reporting.figures import DPI
from training.reporting.figures import GRAY as GREY
from training.reporting.labels import COLORS as TYPE_COLORS
from training.reporting.labels import CONVOLUTIONS, network_label

_DEPTH = 4.5  # percentage points below the best; what is worse stands at the lower edge
_NEAR_SIZE, _NEAR_ACCURACY = 1.14, 0.4
# where a name may stand from its point, the first choice first: offsets in points, and alignments
_PLACES = (
    ((0, 6), "center", "bottom"),
    ((0, -6), "center", "top"),
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((7, 7), "left", "bottom"),
    ((7, -7), "left", "top"),
    ((-7, 7), "right", "bottom"),
    ((-7, -7), "right", "top"),
    ((0, 18), "center", "bottom"),
    ((0, -18), "center", "top"),
    ((0, 30), "center", "bottom"),
)


def draw(results):
    """Draw the accuracy of every artifact against its size, a color for each convolution.

    Args:
        results: Dictionary, as of `training.compression.results.collect`.

    Returns:
        A Matplotlib figure with a panel for each network and data set.
    """
    panels: dict[str, list] = {}
    for network in results["networks"]:
        panels.setdefault(network_label(network["recipe"]), []).append(network)
    figure = Figure((10.5, 7 * len(panels)), DPI)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    for ax, (title, networks) in zip(
        figure.subplots(len(panels), squeeze=False).flat, panels.items(), strict=True
    ):
        best = max(each["accuracy"] for network in networks for each in network["artifacts"])
        lowest = max(0.0, best - _DEPTH)
        for network in networks:
            _draw_network(ax, network, lowest)
        ax.set_ylim(lowest, best + 0.15 * (best - lowest))
        ax.margins(x=0.08)
        _finish(ax, f"{title}: accuracy against compressed size")
    figure.draw_without_rendering()  # now every text has its size
    for ax in figure.axes:
        _spread_names(ax)
    return figure


def _draw_network(ax, network, lowest):
    color = TYPE_COLORS[network["recipe"]["conv"]]
    points = sorted(network["artifacts"], key=lambda each: each["sizes"]["deflated"])
    shown = [each for each in points if each["accuracy"] >= lowest]
    name = CONVOLUTIONS[network["recipe"]["conv"]]
    ax.errorbar(
        [_size(each) for each in shown],
        [each["accuracy"] for each in shown],
        [each["sd"] or 0 for each in shown],
        fmt="o",
        ms=6,
        color=color,
        mec="white",
        elinewidth=1,
        zorder=3,
        label=name,
    )
    best = _front(shown)
    sizes, accuracies = [_size(each) for each in best], [each["accuracy"] for each in best]
    ax.step(sizes, accuracies, where="post", color=color, lw=1.2, alpha=0.5, zorder=2)
    below = [each for each in points if each not in shown]
    for group in _neighbors(shown):
        text = ", ".join(sorted(each["recipe"] for each in group))
        _write(ax, text, (_size(group[0]), group[0]["accuracy"]), color)
    for each in below:
        ax.plot(_size(each), lowest, "v", color=color, ms=6, mec="white", clip_on=False, zorder=3)
        text = f"{each['recipe']} {each['accuracy']:.1f} %"
        _write(ax, text, (_size(each), lowest), color)


def _size(artifact):
    return artifact["sizes"]["deflated"] / 1000


def _write(ax, text, place, color):
    ax.annotate(
        text,
        place,
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=6.5,
        color="#5c6368" if color == TYPE_COLORS["standard"] else color,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        zorder=4,
    )


def _spread_names(ax):
    """Give every name the place where it covers least of the points and of other names."""
    points = [ax.transData.transform(line.get_xydata()) for line in ax.lines]
    taken = [Bbox([place - 5, place + 5]) for line in points for place in line]
    taken.append(ax.get_legend().get_window_extent())
    for text in ax.texts:

        def covered(place, text=text):
            _put(text, place)
            box = text.get_window_extent()
            outside = box.width * box.height - _common(box, ax.bbox)
            return outside + sum(_common(box, other) for other in taken)

        _put(text, min(_PLACES, key=covered))
        taken.append(text.get_window_extent())


def _put(text, place):
    text.xyann, horizontal, vertical = place
    text.set(ha=horizontal, va=vertical)


def _common(a, b):
    """Return the area that two boxes have in common."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0


def _neighbors(points):
    """Return groups of artifacts, smallest first, that lie too close to each other to be named."""
    groups: list = []
    for each in points:
        near = [
            group
            for group in groups
            if _size(each) < _NEAR_SIZE * _size(group[0])
            and abs(each["accuracy"] - group[0]["accuracy"]) < _NEAR_ACCURACY
        ]
        if near:
            near[0].append(each)
        else:
            groups.append([each])
    return groups


def _front(points):
    """Return the artifacts, smallest first, that no smaller one reaches in accuracy."""
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
