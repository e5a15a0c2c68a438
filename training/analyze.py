"""Show what the kernel sizes of a trained Multiception network do.

    python -m training.analyze --run runs/digits --output runs/digits/analysis

Prints the accuracy when one kernel size is left out without retraining. Writes analysis.json, which
has how much each kernel size counts and how far the network sees as well, and four pictures: shares
by stage, shares by channel, effective receptive fields and learned kernels.
"""

import math
import pathlib
import sys
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
from training.cli import Parser, add_data_options, attempt, run_command
from training.reporting.figures import GRID, legend_above, make_figure, style
from training.reporting.tables import aligned, number
from training.run_folder import RunFolder

IMAGES = 64  # of the split, the first ones, for energies and receptive fields
TITLES = {
    "weights": "by weights: norm of what reads each size",
    "energy": "by energy: variance of what each size adds",
}
Shares = dict[str, list[ScaleShares]]  # by weights and by energy


def main(argv: Sequence[str] | None = None) -> int:
    """Analyze from the command line; 1 if the network outputs NaN."""
    parser = Parser(prog="python -m training.analyze", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--run", required=True, help="folder of a finished training run")
    add("--split", help="split; by default the run's own")
    add_data_options(parser, "data_dir")
    add("--layer", help="whose receptive field to show; by default the last of each stage")
    add("--output", required=True, type=pathlib.Path, help="folder to write to")
    args = parser.parse_args(argv)

    def run() -> int:
        report = analyze(args.run, args.output, args.split, args.data_dir, args.layer)
        print(f"{_table(report)}\n\nThe files are in {args.output}.")
        return 0

    return attempt(parser, run)


def analyze(
    run: str | pathlib.Path,
    output: pathlib.Path,
    split: str | None = None,
    data_dir: str | None = None,
    layer: str | None = None,
) -> dict[str, Any]:
    """Analyze a finished run, write analysis.json and the pictures, and return the former."""
    folder = RunFolder(run)
    config = folder.finished()
    output.mkdir(parents=True, exist_ok=True)
    dataset, split = config["recipe"]["dataset"], split or config["recipe"]["test_split"]
    model = metrics.load_model(folder.model)
    layers = multiception_layers(model)
    spec = km.preprocessing.Dataset.from_dict(config["data"])
    if dataset == data.FOLDER:
        data.require_classes(spec.class_names, data_dir)
    images, labels = data.load(dataset, split, data_dir, config["recipe"]["image_size"])

    def top1(network: Any) -> float:
        return metrics.evaluate_model(network, images, labels, dataset=spec)["top1"]

    batch = km.preprocessing.preprocess_input(images[:IMAGES].astype("float32"), spec)
    ends = km.feature_extractor(model).output.values()
    names = [layer] if layer else [end._keras_history.operation.name for end in ends]
    fields = [effective_receptive_field(model, batch, name) for name in names]
    shares = {"weights": weight_shares(model), "energy": energy_shares(model, batch)}
    report = {
        "run": str(run),
        "dataset": dataset,
        "split": split,
        "examples": len(images),
        "top1": top1(model),
        "left_out": [
            {**case, "top1": top1(without_kernel_size(model, size, having, verbose=False))}
            for case, size, having in _cases(shares["weights"])
        ],
        "measured_on": len(batch),
        "stages": {measure: _stages(entries) for measure, entries in shares.items()},
        "layers": [_layer_report(shares, index) for index in range(len(layers))],
        "receptive_fields": [
            {"layer": x.layer, "theoretical": x.theoretical, "side_of_95_percent": x.side(0.95)}
            for x in fields
        ],
    }
    firsts = {entry.stage: entry.layer for entry in reversed(shares["weights"])}
    figures = {
        "shares_by_stage": draw_stages(shares),
        "shares_by_channel": draw_channels(shares),
        "receptive_fields": draw_fields(fields),
        "kernels": draw_kernels({name: layers[name] for name in reversed(firsts.values())}),
    }
    for name, figure in figures.items():
        with replacing(output / f"{name}.png") as temporary:
            figure.savefig(temporary)
    write_json(output / "analysis.json", report)
    return report


def _stages(entries: list[ScaleShares]) -> dict[str, dict[str, Any]]:
    return {
        stage: {size_name(size): _number(x) for size, x in sizes.items()}
        for stage, sizes in stage_shares(entries).items()
    }


def _cases(shares: list[ScaleShares]) -> Iterator[tuple[dict[str, Any], Any, list[str]]]:
    """Yield what to leave out: each kernel size of all stages, and of each that has it."""
    stages = {"all": list(shares)}
    for entry in shares:
        stages.setdefault(entry.stage, []).append(entry)
    for size in sorted({size for entry in shares for size in entry.kernel_sizes}):
        for stage, entries in stages.items():
            if having := [entry for entry in entries if size in entry.kernel_sizes]:
                case = {"size": size_name(size), "stage": stage, "layers": len(having)}
                case["constant_layers"] = sum(len(entry.sizes) == 1 for entry in having)
                yield case, size, [entry.layer for entry in having]


def _layer_report(shares: Shares, index: int) -> dict[str, Any]:
    entries = {measure: entries[index] for measure, entries in shares.items()}
    first = entries["weights"]
    sizes = [size_name(size) for size in first.kernel_sizes]
    report: dict[str, Any] = {"layer": first.layer, "stage": first.stage, "kernel_sizes": sizes}
    for measure, entry in entries.items():
        channels = [[_number(share) for share in branch] for branch in entry.channels]
        branches = [_number(share) for share in entry.branches]
        report[measure] = {"branches": branches, "channels": channels}
    return report


def _number(share: float) -> float | None:
    """Return a share as JSON takes it: NaN, that of nothing at all, is null."""
    return None if math.isnan(share) else float(share)


def _table(report: dict[str, Any]) -> str:
    """Return the accuracies when a kernel size is left out, for reading."""
    cases = {(case["size"], case["stage"]): case for case in report["left_out"]}
    stages = [*report["stages"]["weights"], "all"]
    rows = [("left out", *stages), ("nothing", *[""] * (len(stages) - 1), _top1(report))]
    for size in dict.fromkeys(size for size, _ in cases):
        rows.append((size, *(_top1(cases.get((size, stage))) for stage in stages)))
    title = f"Top-1 on {report['examples']:,} images, without retraining"
    note = "* layers that have no other kernel size become constant"
    return f"{title}\n{aligned(rows, left=1)}\n{note}"


def _top1(case: dict[str, Any] | None) -> str:
    star = "*" if case and case.get("constant_layers") else ""
    return number(case["top1"] if case else None, ".2%") + star


def draw_stages(shares: Shares) -> Figure:
    """Draw the share of each kernel size by stage as stacked bars."""
    panels = {measure: stage_shares(entries) for measure, entries in shares.items()}
    stages = list(panels["weights"])
    sizes = sorted({size for stage in panels["weights"].values() for size in stage})
    colors = matplotlib.colormaps["Blues"](np.linspace(0.3, 0.7, len(sizes)))
    figure = make_figure(9, 1.2 + 0.45 * len(stages))
    axes = figure.subplots(1, len(panels), sharey=True)
    for ax, (measure, panel) in zip(axes, panels.items(), strict=True):
        left = np.zeros(len(stages))
        for size, color in zip(sizes, colors, strict=True):
            widths = np.array([panel[stage].get(size, 0.0) for stage in stages])
            bars = ax.barh(stages, widths, 0.75, left, color=color)
            labels = [f"{width:.0%}" if width >= 0.06 else "" for width in widths]
            ax.bar_label(bars, labels, label_type="center", fontsize=9)
            left += widths
        style(ax, title=TITLES[measure], grid="")
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
    axes[0].invert_yaxis()
    pairs = zip(sizes, colors, strict=True)
    legend_above(figure, [Patch(color=color, label=size_name(size)) for size, color in pairs])
    return figure


def draw_channels(shares: Shares) -> Figure:
    """Draw the share of each branch in each input channel as heat maps, one for each layer.

    Channels are in the order of the branch in which their share lies, from the first to the last.
    """
    rows = [len(entry.kernel_sizes) for entry in shares["weights"]]
    figure = make_figure(10, 1 + 0.22 * sum(rows) + 0.3 * len(rows), w_pad=0.04, h_pad=0.04)
    axes = figure.subplots(len(rows), len(shares), height_ratios=rows, squeeze=False)
    colors = matplotlib.colormaps["viridis"].with_extremes(bad=GRID)
    for column, (measure, entries) in zip(axes.T, shares.items(), strict=True):
        for ax, entry, first in zip(column, entries, shares["weights"], strict=True):
            branches = range(len(entry.kernel_sizes))
            order = np.argsort(np.array(branches) @ first.channels, kind="stable")
            look = {"aspect": "auto", "interpolation": "nearest", "vmin": 0, "vmax": 1}
            image = ax.imshow(entry.channels[:, order], colors, **look)
            _name_rows(ax, entry.layer, branches, entry.kernel_sizes)
        column[0].set_title(f"{TITLES[measure]}\n\n{entries[0].layer}", fontsize=8, loc="left")
        column[-1].set_xlabel("input channels; gray: always 0", fontsize=8)
    _add_colorbar(figure, image, axes, "share in the input channel")
    return figure


def draw_fields(fields: Sequence[EffectiveReceptiveField]) -> Figure:
    """Draw effective receptive fields, each with the square that holds 95 % of it."""
    figure = Figure((0.8 + 2.5 * len(fields), 3), 150, layout="compressed")
    axes = figure.subplots(1, len(fields), squeeze=False)
    for ax, field in zip(axes.flat, fields, strict=True):
        # the square root shows the faint rim as well
        image = ax.imshow(field.map, "magma", norm=PowerNorm(0.5, 0, 1))
        ax.set_axis_off()
        side = field.side(0.95)
        top, left = (position - side / 2 for position in field.center)
        ax.add_patch(Rectangle((left, top), side, side, fill=False, color="white", lw=0.8))
        reach = "unknown" if field.theoretical is None else size_name(field.theoretical)
        text = f"95 % in {side}x{side}, kernels reach {reach}"
        ax.set_title(f"{field.layer}\n{text}", fontsize=8)
    _add_colorbar(figure, image, axes, "gradient of the central unit")
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
    axes = figure.subplots(len(grids), 1, height_ratios=heights, squeeze=False)
    colors = matplotlib.colormaps["RdBu_r"].with_extremes(bad=GRID)
    for ax, (name, grid) in zip(axes[:, 0], grids.items(), strict=True):
        image = ax.imshow(grid, colors, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_xlim(-0.5, width - 0.5)
        sizes = layers[name].kernel_sizes
        rows = (np.arange(len(sizes)) + 0.5) * len(grid) / len(sizes) - 0.5
        _name_rows(ax, f"{name}, its strongest input channels", rows, sizes)
    _add_colorbar(figure, image, axes, "scaled weight")
    return figure


def _name_rows(ax: Any, title: str, rows: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Name the rows of a picture by their kernel sizes."""
    ax.set_title(title, fontsize=8, loc="left", pad=4)
    ax.set_yticks(rows, map(size_name, sizes))
    ax.set_xticks([])
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)


def _add_colorbar(figure: Figure, image: Any, axes: Any, label: str) -> None:
    height = min(1, 2 / figure.get_figheight())  # of two inches, in a tall figure
    bar = figure.colorbar(image, ax=axes, shrink=height, aspect=16, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


if __name__ == "__main__":
    sys.exit(run_command(main))
