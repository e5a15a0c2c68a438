"""The figure of `python -m training.costs --zoo`."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

TITLES = {
    "resnet20": "ResNet-20",
    "resnet50": "ResNet-50",
    "seresnet56": "SE-ResNet-56",
    "shakeshake26": "Shake-Shake 26 2x96d",
    "mobilenetv2": "MobileNetV2",
}
# Colors that stay apart for color-blind readers and in print.
COLORS = {
    "standard": "#a9afb5",
    "dsconv": "#56b4e9",
    "mixconv": "#e69f00",
    "multiception": "#a8201a",
}
QUANTITIES = {"trainable_parameters": "parameters", "multiply_adds": "multiply-adds"}


def draw(costs, labels, path):
    """Draw parameters and multiply-adds by stage, the types of convolution side by side.

    Args:
        costs: Dictionary from (model, conv) to a `Cost`.
        labels: Dictionary from conv to what the legend calls it.
        path: Path of the PNG file to write.
    """
    panels = {
        model: {conv: costs[model, conv] for conv in COLORS if (model, conv) in costs}
        for model in TITLES
        if any(model == name for name, _ in costs)
    }
    figure = Figure(figsize=(9, 0.9 + 1.9 * len(panels)), dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    axes = figure.subplots(len(panels), len(QUANTITIES), squeeze=False)
    for row, (model, panel) in zip(axes, panels.items(), strict=True):
        size = "x".join(map(str, next(iter(panel.values())).input_shape[:2]))
        for ax, (attribute, quantity) in zip(row, QUANTITIES.items(), strict=True):
            _draw_bars(ax, panel, attribute)
            title = f"{TITLES[model]}, {size}: {quantity}"
            ax.set_title(title, loc="left", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("stage")
    handles = [Patch(color=color, label=labels[conv]) for conv, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path)


def _draw_bars(ax, panel, attribute):
    stages = list(next(iter(panel.values())).stages)
    width = 0.84 / len(COLORS)
    for index, (conv, cost) in enumerate(panel.items()):
        offset = (index - (len(panel) - 1) / 2) * width
        positions = [place + offset for place in range(len(stages))]
        heights = [getattr(stage, attribute) for stage in cost.stages.values()]
        ax.bar(positions, heights, width, color=COLORS[conv], ec="white", lw=0.6, zorder=2)
    ax.set_xticks(range(len(stages)), [name.removeprefix("stage") for name in stages])
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(_engineering))
    ax.grid(axis="y", color="#e4e6e8", zorder=0)
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color="#a9afb5", zorder=3)


def _engineering(value, _):
    for unit, symbol in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:g}{symbol}"
    return f"{value:g}"
