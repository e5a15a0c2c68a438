"""What the kernel sizes of a trained network do, measured on a split and drawn."""

import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

import keras_multiception as km
from keras_multiception.atomic import replacing, write_json
from keras_multiception.scale_analysis import (
    EffectiveReceptiveField,
    ScaleShares,
    effective_receptive_field,
    energy_shares,
    kernel_grid,
    multiception_layers,
    size_name,
    stage_shares,
    weight_shares,
    without_kernel_size,
)
from training import data, metrics
from training.reporting.figures import GRID, legend_above, make_figure, style
from training.run_folder import RunFolder

IMAGES = 64  # of the split, the first ones, for energies and receptive fields
TITLES = {
    "weights": "by weights: norm of what reads each size",
    "energy": "by energy: variance of what each size adds",
}
Shares = dict[str, list[ScaleShares]]  # by weights and by energy


def analyze(
    run: str | pathlib.Path,
    output: str | pathlib.Path,
    split: str | None = None,
    data_dir: str | None = None,
    layer: str | None = None,
) -> dict[str, Any]:
    """Analyze the network of a finished run, and write analysis.json and the pictures to a folder.

    The split is the run's own by default, and the `layer` whose receptive field to measure the
    last of each stage. Returns what is in analysis.json.
    """
    folder, output = RunFolder(run), pathlib.Path(output)
    config = folder.finished()
    output.mkdir(parents=True, exist_ok=True)
    dataset, split = config["recipe"]["dataset"], split or config["recipe"]["test_split"]
    model = metrics.load_model(folder.model)
    layers = multiception_layers(model)
    spec = km.preprocessing.Dataset.from_dict(config["data"])
    if dataset == data.FOLDER:
        data.require_classes(spec.class_names, data_dir)
    images, labels = data.load(dataset, split, data_dir, config["recipe"]["image_size"])

    batch = km.preprocessing.preprocess_input(images[:IMAGES].astype("float32"), spec)
    names = [layer] if layer else _ends_of_stages(model)
    fields = [effective_receptive_field(model, batch, name) for name in names]
    shares = {"weights": weight_shares(model), "energy": energy_shares(model, batch)}
    accuracy = functools.partial(_top1, images=images, labels=labels, dataset=spec)
    without = functools.partial(without_kernel_size, model, verbose=False)
    report = {
        "run": str(run),
        "dataset": dataset,
        "split": split,
        "examples": len(images),
        "top1": accuracy(model),
        "left_out": [
            {**case, "top1": accuracy(without(size, names))}
            for case, size, names in _cases(shares["weights"])
        ],
        "measured_on": len(batch),
        "stages": {
            measure: {
                stage: {size_name(size): _number(x) for size, x in sizes.items()}
                for stage, sizes in stage_shares(entries).items()
            }
            for measure, entries in shares.items()
        },
        "layers": [_layer_report(shares, index) for index in range(len(layers))],
        "receptive_fields": [
            {"layer": x.layer, "theoretical": x.theoretical, "side_of_95_percent": x.side(0.95)}
            for x in fields
        ],
    }
    _draw(output, shares, fields, _first_of_stages(layers, shares["weights"]))
    write_json(output / "analysis.json", report)
    return report


def _draw(output: pathlib.Path, shares: Shares, fields: Sequence[Any], layers: Any) -> None:
    for name, figure in {
        "shares_by_stage": draw_stages(shares),
        "shares_by_channel": draw_channels(shares),
        "receptive_fields": draw_fields(fields),
        "kernels": draw_kernels(layers),
    }.items():
        with replacing(output / f"{name}.png") as temporary:
            figure.savefig(temporary)


def _top1(model: Any, images: Any, labels: Any, dataset: Any) -> float:
    return metrics.evaluate_model(model, images, labels, dataset=dataset)["top1"]


def _ends_of_stages(model: Any) -> list[str]:
    ends = km.feature_extractor(model).output
    return [x._keras_history.operation.name for x in ends.values()]


def _first_of_stages(layers: dict[str, Any], shares: list[ScaleShares]) -> dict[str, Any]:
    names: dict[str, str] = {}
    for entry in shares:
        names.setdefault(entry.stage, entry.layer)
    return {name: layers[name] for name in names.values()}


def _cases(shares: list[ScaleShares]) -> Iterator[tuple[dict[str, Any], Any, list[str]]]:
    """Yield what to leave out: each kernel size of all stages, and of each that has it."""
    stages = {"all": list(shares)}
    for entry in shares:
        stages.setdefault(entry.stage, []).append(entry)
    for size in sorted({size for entry in shares for size in entry.kernel_sizes}):
        for stage, entries in stages.items():
            having = [entry for entry in entries if size in entry.kernel_sizes]
            constant = sum(len(entry.sizes) == 1 for entry in having)
            case = {"size": size_name(size), "stage": stage, "layers": len(having)}
            if having:
                names = [entry.layer for entry in having]
                yield case | {"constant_layers": constant}, size, names


def _layer_report(shares: Shares, index: int) -> dict[str, Any]:
    entries = {measure: entries[index] for measure, entries in shares.items()}
    first = entries["weights"]
    return {
        "layer": first.layer,
        "stage": first.stage,
        "kernel_sizes": [size_name(size) for size in first.kernel_sizes],
        **{
            measure: {
                "branches": [_number(share) for share in entry.branches],
                "channels": [[_number(share) for share in branch] for branch in entry.channels],
            }
            for measure, entry in entries.items()
        },
    }


def _number(share: float) -> float | None:
    """Return a share as JSON takes it: NaN, that of nothing at all, is null."""
    return None if math.isnan(share) else float(share)


def draw_stages(shares: Shares) -> Figure:
    """Draw the share of each kernel size by stage as stacked bars."""
    panels = {measure: stage_shares(entries) for measure, entries in shares.items()}
    stages = list(panels["weights"])
    sizes = sorted({size for stage in panels["weights"].values() for size in stage})
    colors = matplotlib.colormaps["Blues"](np.linspace(0.3, 0.9, len(sizes)))
    figure = make_figure(9, 1.2 + 0.45 * len(stages))
    axes = figure.subplots(1, len(panels), sharey=True)
    for ax, (measure, panel) in zip(axes, panels.items(), strict=True):
        left = np.zeros(len(stages))
        for size, color in zip(sizes, colors, strict=True):
            widths = np.array([panel[stage].get(size, 0.0) for stage in stages])
            bars = ax.barh(stages, widths, 0.75, left, color=color)
            labels = [f"{width:.0%}" if width >= 0.06 else "" for width in widths]
            ink = "black" if color[:3].mean() > 0.6 else "white"
            ax.bar_label(bars, labels, label_type="center", color=ink, fontsize=9)
            left += widths
        style(ax, title=TITLES[measure], grid="")
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1])
        ax.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].invert_yaxis()
    pairs = zip(sizes, colors, strict=True)
    legend_above(figure, [Patch(color=color, label=size_name(size)) for size, color in pairs])
    return figure


def draw_channels(shares: Shares) -> Figure:
    """Draw the share of each branch in each input channel as heat maps, one for each layer."""
    rows = [len(entry.kernel_sizes) for entry in shares["weights"]]
    figure = make_figure(10, 1 + 0.22 * sum(rows) + 0.3 * len(rows), w_pad=0.04, h_pad=0.04)
    axes = figure.subplots(len(rows), len(shares), height_ratios=rows, squeeze=False)
    # channels by the branch in which their share lies, from the first to the last
    orders = [
        np.argsort(np.arange(len(entry.kernel_sizes)) @ entry.channels, kind="stable")
        for entry in shares["weights"]
    ]
    colors = matplotlib.colormaps["viridis"].with_extremes(bad=GRID)
    for column, (measure, entries) in zip(axes.T, shares.items(), strict=True):
        for ax, entry, order in zip(column, entries, orders, strict=True):
            look = {"aspect": "auto", "interpolation": "nearest"}
            image = ax.imshow(entry.channels[:, order], colors, vmin=0, vmax=1, **look)
            _name_rows(ax, entry.layer, range(len(entry.kernel_sizes)), entry.kernel_sizes)
        column[0].set_title(f"{TITLES[measure]}\n\n{entries[0].layer}", fontsize=8, loc="left")
        column[-1].set_xlabel("input channels; gray: always 0", fontsize=8)
    bar = _add_colorbar(figure, image, axes, 3, "share in the input channel")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_fields(fields: Sequence[EffectiveReceptiveField]) -> Figure:
    """Draw effective receptive fields, each with the square that holds 95 % of it."""
    columns = min(4, len(fields))
    rows = math.ceil(len(fields) / columns)
    figure = Figure((0.8 + 2.5 * columns, 3 * rows), 150, layout="compressed")
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


def draw_kernels(layers: dict[str, Any], width: int = 129) -> Figure:
    """Draw the learned kernels of layers by name: as many input channels as fit in `width` weights,
    the strongest of them.
    """
    grids = {}
    for name, layer in layers.items():
        widest = max(size[1] for size in layer.kernel_sizes)
        grids[name] = kernel_grid(layer, max(1, (width - 1) // (widest + 1)))
    heights = [len(grid) for grid in grids.values()]
    size = 10.5, 0.4 * len(grids) + 0.073 * sum(heights)
    figure = Figure(size, 150, layout="compressed")
    axes = figure.subplots(len(grids), 1, height_ratios=heights, squeeze=False)[:, 0]
    colors = matplotlib.colormaps["RdBu_r"].with_extremes(bad=GRID)
    for ax, (name, grid) in zip(axes, grids.items(), strict=True):
        image = ax.imshow(grid, colors, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_xlim(-0.5, width - 0.5)
        sizes = layers[name].kernel_sizes
        rows = (np.arange(len(sizes)) + 0.5) * len(grid) / len(sizes) - 0.5
        _name_rows(ax, f"{name}, its strongest input channels", rows, sizes)
    bar = _add_colorbar(figure, image, axes, 1.5, "scaled weight")
    bar.set_ticks([-1, 0, 1])
    return figure


def _name_rows(ax: Any, title: str, rows: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Name the rows of a picture by their kernel sizes."""
    ax.set_title(title, fontsize=8, loc="left", pad=4)
    ax.set_yticks(rows, map(size_name, sizes))
    ax.set_xticks([])
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)


def _add_colorbar(figure: Figure, image: Any, axes: Any, inches: float, label: str) -> Any:
    height = min(1, inches / figure.get_figheight())
    bar = figure.colorbar(image, ax=axes, shrink=height, aspect=8 * inches, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar
