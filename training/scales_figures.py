"""The figures of `python -m training.analyze`."""

import math

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from keras_multiception.scale_analysis import kernel_grid, size_name, stage_shares

TITLES = {
    "weights": "by weights: norm of what reads each size",
    "energy": "by energy: variance of what each size adds",
}
GREY = "#e4e6e8"
DPI = 150


def draw_stages(shares):
    """Draw the share of each kernel size by stage as stacked bars.

    Args:
        shares: Dictionary from "weights" and "energy" to a list of `ScaleShares`.

    Returns:
        A Matplotlib figure.
    """
    panels = {measure: stage_shares(entries) for measure, entries in shares.items()}
    stages = list(panels["weights"])
    sizes = sorted({size for stage in panels["weights"].values() for size in stage})
    colors = matplotlib.colormaps["Blues"](np.linspace(0.3, 0.9, len(sizes)))
    figure = Figure((9, 1.2 + 0.45 * len(stages)), DPI, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, gridspec_kw={"wspace": 0.1})
    for ax, (measure, panel) in zip(axes, panels.items(), strict=True):
        left = np.zeros(len(stages))
        for size, color in zip(sizes, colors, strict=True):
            widths = np.array([panel[stage].get(size, 0.0) for stage in stages])
            bars = ax.barh(stages, widths, 0.75, left, color=color)
            labels = [f"{width:.0%}" if width >= 0.06 else "" for width in widths]
            ink = "black" if color[:3].mean() > 0.6 else "white"
            ax.bar_label(bars, labels, label_type="center", color=ink, fontsize=9)
            left += widths
        ax.set_title(TITLES[measure], fontsize=9)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1])
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.tick_params(length=0, labelsize=9)
        ax.spines[:].set_visible(False)
    axes[0].invert_yaxis()
    handles = [
        Patch(color=color, label=size_name(size)) for size, color in zip(sizes, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(sizes), frameon=False)
    return figure


def draw_channels(shares):
    """Draw the share of each branch in each input channel as heat maps, one for each layer.

    Args:
        shares: Dictionary from "weights" and "energy" to a list of `ScaleShares`.

    Returns:
        A Matplotlib figure.
    """
    rows = [len(entry.kernel_sizes) for entry in shares["weights"]]
    figure = Figure((10, 1 + 0.22 * sum(rows) + 0.3 * len(rows)), DPI, layout="constrained")
    axes = figure.subplots(len(rows), len(shares), height_ratios=rows, squeeze=False)
    orders = [_from_first_to_last_branch(entry) for entry in shares["weights"]]
    for column, (measure, entries) in zip(axes.T, shares.items(), strict=True):
        for ax, entry, order in zip(column, entries, orders, strict=True):
            image = ax.imshow(
                entry.channels[:, order],
                matplotlib.colormaps["viridis"].with_extremes(bad=GREY),
                vmin=0,
                vmax=1,
                aspect="auto",
                interpolation="nearest",
            )
            ax.set_title(entry.layer, fontsize=8, loc="left", pad=4)
            ax.set_yticks(range(len(entry.kernel_sizes)), map(size_name, entry.kernel_sizes))
            ax.set_xticks([])
            ax.tick_params(length=0, labelsize=7)
            ax.spines[:].set_visible(False)
        column[0].set_title(f"{TITLES[measure]}\n\n{entries[0].layer}", fontsize=8, loc="left")
        column[-1].set_xlabel("input channels; gray: always 0", fontsize=8)
    bar = _add_colorbar(figure, image, axes, 3, "share in the input channel")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_fields(fields):
    """Draw effective receptive fields, each with the square that holds 95 % of it.

    Args:
        fields: List of `EffectiveReceptiveField`.

    Returns:
        A Matplotlib figure.
    """
    columns = min(4, len(fields))
    rows = math.ceil(len(fields) / columns)
    figure = Figure((0.8 + 2.5 * columns, 3 * rows), DPI, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, field in zip(axes.flat, fields, strict=False):
        # the square root shows the faint rim as well
        image = ax.imshow(field.map, "magma", norm=PowerNorm(0.5, 0, 1))
        side = field.side(0.95)
        top, left = (position - side / 2 for position in field.center)
        ax.add_patch(Rectangle((left, top), side, side, fill=False, color="white", lw=0.8))
        reach = "unknown" if field.theoretical is None else size_name(field.theoretical)
        ax.set_title(f"{field.layer}\n95 % in {side}x{side}, kernels reach {reach}", fontsize=8)
    bar = _add_colorbar(figure, image, axes, 2.2, "gradient of the central unit")
    bar.set_ticks([0, 0.05, 0.25, 0.5, 1])
    return figure


def draw_kernels(layers, width=129):
    """Draw the learned kernels of layers: of their strongest input channels, as many as fit.

    Args:
        layers: Dictionary from names to `MulticeptionConv2D` layers.
        width: Integer, how many weights fit side by side.

    Returns:
        A Matplotlib figure.
    """
    grids = {}
    for name, layer in layers.items():
        widest = max(size[1] for size in layer.kernel_sizes)
        grids[name] = kernel_grid(layer, max(1, (width - 1) // (widest + 1)))
    heights = [len(grid) for grid in grids.values()]
    figure = Figure((10.5, 0.4 * len(grids) + 0.073 * sum(heights)), DPI, layout="compressed")
    axes = figure.subplots(len(grids), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (name, grid) in zip(axes, grids.items(), strict=True):
        colors = matplotlib.colormaps["RdBu_r"].with_extremes(bad=GREY)
        image = ax.imshow(grid, colors, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_xlim(-0.5, width - 0.5)
        ax.set_title(f"{name}, its strongest input channels", fontsize=9, loc="left", pad=4)
        sizes = layers[name].kernel_sizes
        rows = (np.arange(len(sizes)) + 0.5) * len(grid) / len(sizes) - 0.5
        ax.set_yticks(rows, map(size_name, sizes))
        ax.set_xticks([])
        ax.tick_params(length=0, labelsize=8)
        ax.spines[:].set_visible(False)
    bar = _add_colorbar(figure, image, axes, 1.5, "scaled weight")
    bar.set_ticks([-1, 0, 1])
    return figure


def _add_colorbar(figure, image, axes, inches, label):
    height = min(1, inches / figure.get_figheight())
    bar = figure.colorbar(image, ax=axes, shrink=height, aspect=8 * inches, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar


def _from_first_to_last_branch(entry):
    """Return the order of a layer's input channels by the branch in which their share lies."""
    positions = np.arange(len(entry.kernel_sizes))
    return np.argsort(positions @ entry.channels, kind="stable")
