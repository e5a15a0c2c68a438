"""What tables and figures call things, and the style of every figure."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.recipes import IMAGENET32

CONVOLUTIONS = {
    "standard": "standard",
    "dsconv": "DSConv",
    "mixconv": "MixConv",
    "mixconv_depthwise": "MixConv, depthwise",
    "multiception": "Multiception",
}
# Colors that stay apart for color-blind readers and in print.
COLORS = {
    "standard": "#a9afb5",
    "dsconv": "#56b4e9",
    "mixconv": "#e69f00",
    "mixconv_depthwise": "#009e73",
    "multiception": "#a8201a",
}
MODELS = {
    "resnet20": "ResNet-20",
    "resnet50": "ResNet-50",
    "seresnet56": "SE-ResNet-56",
    "shakeshake26": "Shake-Shake 26 2x96d",
    "mobilenetv2": "MobileNetV2",
}
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    IMAGENET32: "ImageNet32x32",
}
GRAY, DARK, GRID = "#a9afb5", "#5c6368", "#e4e6e8"


def model_label(model: str) -> str:
    """Return what to call a network."""
    return MODELS.get(model, model)


def network_label(recipe: dict[str, Any]) -> str:
    """Return what to call the network and data set of a recipe."""
    dataset = recipe["dataset"]
    return f"{model_label(recipe['model'])} on {DATASETS.get(dataset, dataset)}"


def value_label(key: str, value: Any) -> str:
    """Return how to write one value of a recipe, such as kernel sizes 3-5-7, 3-5, 3-3."""
    if key == "conv":
        return CONVOLUTIONS[value]
    if key != "kernel_sizes":
        return str(value)
    if value is None:
        return "the paper's kernel sizes"
    stages = value if isinstance(value[0], (list, tuple)) else [value]
    return ", ".join("-".join(map(str, sizes)) for sizes in stages)


def varying_keys(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys, without `conv`, in which recipes of one network on one data set differ."""
    groups: dict[tuple, list] = {}
    for recipe in recipes:
        groups.setdefault((recipe["model"], recipe["dataset"]), []).append(recipe)
    return [
        key
        for key in recipes[0]
        if key != "conv"
        and any(len({str(recipe[key]) for recipe in group}) > 1 for group in groups.values())
    ]


def make_figure(width: float, height: float, **layout: Any) -> Figure:
    """Return a figure of some inches whose parts keep clear of each other."""
    figure = Figure((width, height), dpi=150)
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


def name_lanes(ax: Axes, names: Sequence[str]) -> None:
    """Give every name a lane of its own along the y axis, from above, every other one shaded."""
    for lane in range(0, len(names), 2):
        ax.axhspan(lane - 0.5, lane + 0.5, color="#f5f6f7", lw=0, zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def convolution_legend(figure: Figure, convs: Iterable[str], **line: Any) -> None:
    """Put a legend of types of convolution, in their order and colors, above everything."""
    convs = set(convs)
    line = {"marker": "o", "ls": ""} | line
    handles = [
        Line2D([], [], color=COLORS[conv], label=label, **line)
        for conv, label in CONVOLUTIONS.items()
        if conv in convs
    ]
    if handles:
        place = {"loc": "outside upper center", "ncols": len(handles), "frameon": False}
        figure.legend(handles=handles, fontsize=9, **place)
