"""Count what networks cost, from their graphs alone.

python -m training.costs resnet20 --conv dsconv --classes 100 --format markdown
python -m training.costs --table5     # our parameters beside those of the paper's Table V
python -m training.costs --zoo        # every network with every type of convolution
"""

import argparse
import pathlib
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from training.cli import Parser, positive, run_command
from training.reporting import figures, tables
from training.reporting.tables import Page, Row

RESULTS = pathlib.Path(__file__).parent / "results"
_COUNTS = ("trainable_parameters", "non_trainable_parameters", "multiply_adds", "peak_memory")
_QUANTITIES = {"trainable_parameters": "parameters", "multiply_adds": "multiply-adds"}


def main(argv: Sequence[str] | None = None) -> int:
    """Count from the command line."""
    parser = Parser("training.costs", __doc__)
    add = parser.add_argument
    add("model", nargs="?", help="a network, as of km.list_models()")
    add("--conv", default="multiception", help=f"one of {', '.join(figures.CONVOLUTIONS)}")
    add("--classes", type=int, default=10)
    add("--input_size", type=positive, help="height and width of the images")
    add("--format", choices=("table", "markdown", "csv"), default="table")
    add("--table5", action="store_true", help="compare with the paper's Table V")
    add("--zoo", action="store_true", help="count every network")
    add("--output", type=pathlib.Path, default=RESULTS, help="folder for the files of --zoo")
    args = parser.parse_args(argv)
    if sum(map(bool, (args.model, args.table5, args.zoo))) != 1:
        parser.error("one of a model, --table5 and --zoo must be given")
    return parser.attempt(lambda: _count(args))


def _count(args: argparse.Namespace) -> int:
    if args.table5:
        text = table5()
    elif args.zoo:
        PAGE.write(count_zoo(), args.output / "zoo_costs")
        text = f"Wrote zoo_costs.json, .csv, .md and .png to {args.output}"
    else:
        size = args.input_size
        import keras_multiception as km  # imports Keras, which takes seconds

        shape = {"input_shape": (size, size, 3)} if size else {}
        model = km.create_model(args.model, conv=args.conv, classes=args.classes, **shape)
        text = getattr(km.cost(model), f"to_{args.format}")()
    print(text.removesuffix("\n"))
    return 0


def count_zoo() -> dict[str, Any]:
    """Count every network with every type of convolution that it takes, by stage."""
    import keras_multiception as km

    networks = []
    for model in km.list_models():
        for conv in figures.CONVOLUTIONS:
            try:
                network = km.create_model(model, conv=conv)
            except ValueError:  # not a type for this network
                continue
            cost = km.cost(network)
            stages = {
                stage: {count: getattr(part, count) for count in _COUNTS}
                for stage, part in {**cost.stages, "total": cost}.items()
            }
            shape = "x".join(map(str, cost.input_shape))
            networks.append({"model": model, "conv": conv, "input_shape": shape, "stages": stages})
    return {"command": "python -m training.costs --zoo", "networks": networks}


def _to_rows(results: dict[str, Any]) -> Iterator[Row]:
    for network in results["networks"]:
        names = {key: network[key] for key in ("model", "conv", "input_shape")}
        for stage, counts in network["stages"].items():
            for metric, value in counts.items():
                unit = "bytes" if metric == "peak_memory" else ""
                yield Row("zoo_costs", {**names, "stage": stage}, None, metric, value, unit)


def _to_markdown(results: dict[str, Any], figure: str) -> str:
    totals = {(n["model"], n["conv"]): n["stages"]["total"] for n in results["networks"]}
    shapes = {network["model"]: network["input_shape"] for network in results["networks"]}

    def table(title: str, count: str) -> str:
        rows = [(title, "input", *figures.CONVOLUTIONS.values())]
        for model, shape in shapes.items():
            found = [totals.get((model, conv), {}).get(count) for conv in figures.CONVOLUTIONS]
            rows.append((f"`{model}`", shape, *(tables.number(n, ",") for n in found)))
        return tables.markdown(rows, left=2)

    sections = (
        "# What the networks cost",
        table("trainable parameters", "trainable_parameters"),
        table("multiply-adds of one image", "multiply_adds"),
        "Ten classes; kernel sizes as in the paper; multiply-adds of convolutions and dense "
        f"layers. Written by `{results['command']}`.",
        f"![Parameters and multiply-adds by stage]({figure})",
    )
    return "\n\n".join(sections) + "\n"


def _draw(results: dict[str, Any]) -> Figure:
    """Draw parameters and multiply-adds by stage, the types of convolution side by side."""
    convs = [conv for conv in figures.COLORS if conv != "mixconv_depthwise"]
    panels: dict[str, dict[str, dict]] = {}
    for network in results["networks"]:
        if network["model"] in figures.MODELS and network["conv"] in convs:
            panels.setdefault(network["model"], {})[network["conv"]] = network
    figure = figures.make_figure(9, 0.9 + 1.9 * len(panels), w_pad=0.1, h_pad=0.08)
    axes = figure.subplots(len(panels), len(_QUANTITIES), squeeze=False)
    for row, (model, panel) in zip(axes, panels.items(), strict=True):
        for ax, (count, quantity) in zip(row, _QUANTITIES.items(), strict=True):
            for index, (conv, network) in enumerate(panel.items()):
                stages = {k: v[count] for k, v in network["stages"].items() if k != "total"}
                offset = (index - (len(panel) - 1) / 2) * 0.84 / len(convs)
                places = [place + offset for place in range(len(stages))]
                look = {"color": figures.COLORS[conv], "ec": "white", "lw": 0.6, "zorder": 2}
                ax.bar(places, list(stages.values()), 0.84 / len(convs), **look)
            ax.set_xticks(range(len(stages)), [name.removeprefix("stage") for name in stages])
            ax.yaxis.set_major_formatter(EngFormatter(sep=""))
            size = network["input_shape"].rpartition("x")[0]
            title = f"{figures.MODELS[model]}, {size}: {quantity}"
            figures.style(ax, title=title, x="stage" if row is axes[-1] else "", grid="y")
    figures.convolution_legend(figure, convs, marker="s", ms=9)
    return figure


PAGE = Page(_to_rows, _to_markdown, _draw)


class Table5Row(typing.NamedTuple):
    """Trainable parameters with standard and Multiception convolution in the paper's Table V."""

    dataset: str
    model: str
    classes: int
    printed: tuple[str, str]  # in millions
    released: tuple[int, int]  # by the code that Section VI points to
    change: float  # in percent


_RESNET50 = ("0.7586", "0.5094"), (758554, 509434), -32.85
TABLE5 = (
    Table5Row("cifar10", "resnet20", 10, ("0.2724", "0.1899"), (272474, 189434), -30.30),
    Table5Row("cifar10", "resnet50", 10, *_RESNET50),
    Table5Row("cifar10", "seresnet56", 10, ("0.8679", "0.5886"), (867866, 585530), -32.18),
    Table5Row("cifar10", "shakeshake26", 10, ("26.78", "17.57"), (26777546, 17565354), -34.39),
    Table5Row("cifar100", "resnet50", 100, ("0.7644", "0.5153"), (764404, 515284), -32.59),
    Table5Row("cifar100", "shakeshake26", 100, ("26.81", "17.59"), (26812196, 17600004), -34.39),
    Table5Row("stl10", "resnet50", 10, *_RESNET50),
    Table5Row("imagenet32x32", "resnet50", 1000, ("0.8229", "0.5738"), (822904, 573784), -30.27),
)
_TYPES = ("standard", "multiception")
UNUSED = sum(3 * (width * width + 2 * width) for width in (96, 192, 384))
_NOTE = f"""\
paper: in millions, some rounded and others cut off; released: by the paper's code. Of its
Shake-Shake, {UNUSED:,} parameters are of shortcuts that blocks of unchanged shape hold and never
use; ours has none of these."""


def table5() -> str:
    """Set our parameters beside the paper's Table V, and say where they differ."""
    sources = (f"{conv}: {source}" for conv in _TYPES for source in ("paper", "released", "ours"))
    rows = [("data set", "model", *sources, "change: paper", "ours")]
    for row in TABLE5:
        ours = [_trainable_parameters(row.model, row.classes, conv) for conv in _TYPES]
        counts = zip(row.printed, row.released, ours, strict=True)
        cells = [text for a, b, c in counts for text in (f"{a}M", f"{b:,}", f"{c:,}")]
        change = f"{row.change:.2f}%", f"{100 * (ours[1] / ours[0] - 1):.2f}%"
        rows.append((row.dataset, row.model, *cells, *change))
    return f"{tables.aligned(rows, left=2)}\n\n{_NOTE}"


def _trainable_parameters(model: str, classes: int, conv: str) -> int:
    import keras_multiception as km

    return km.cost(km.create_model(model, classes=classes, conv=conv)).trainable_parameters


if __name__ == "__main__":
    sys.exit(run_command(main))
