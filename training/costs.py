"""Count what networks cost, from their graphs alone.

    python -m training.costs resnet20 --conv dsconv --classes 100 --format markdown
    python -m training.costs --table5
    python -m training.costs --zoo

The first prints what one network costs, by layer and by stage. `--table5` sets our parameters
beside those of the paper's Table V. `--zoo` counts every network with every type of convolution
and writes zoo_costs.csv, .md and .png.
"""

import csv
import pathlib
import sys

from keras_multiception.atomic import replacing
from training.cli import Parser, run_command

CONVOLUTIONS = {
    "standard": "standard",
    "dsconv": "DSConv",
    "mixconv": "MixConv",
    "mixconv_depthwise": "MixConv, depthwise",
    "multiception": "Multiception",
}
RESULTS = pathlib.Path(__file__).parent / "results"


def zoo():
    """Count every network with every type of convolution that it takes.

    Returns:
        A dictionary from (model, conv) to a `Cost`.
    """
    import keras_multiception as km  # which imports Keras, and that takes seconds

    costs = {}
    for model in km.list_models():
        for conv in CONVOLUTIONS:
            try:
                network = km.create_model(model, conv=conv)
            except ValueError:  # not a type for this network
                continue
            costs[model, conv] = km.cost(network)
    return costs


def write_zoo(costs, folder):
    """Write the counts of `zoo` as a CSV file, Markdown tables and a figure.

    Args:
        costs: What `zoo` returned.
        folder: Path of the folder to write to.
    """
    from training.costs_figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    columns = (
        "trainable_parameters",
        "non_trainable_parameters",
        "multiply_adds",
        "peak_memory",
    )
    with (
        replacing(folder / "zoo_costs.csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "conv", "input_shape", "stage", *columns))
        for (model, conv), cost in costs.items():
            shape = "x".join(map(str, cost.input_shape))
            for stage, part in {**cost.stages, "total": cost}.items():
                counts = [getattr(part, column) for column in columns]
                writer.writerow((model, conv, shape, stage, *counts))
    figure = folder / "zoo_costs.png"
    with replacing(figure) as temporary:
        draw(costs, CONVOLUTIONS, temporary)
    text = zoo_markdown(costs, figure.name)
    with replacing(folder / "zoo_costs.md") as temporary:
        temporary.write_text(f"# What the networks cost\n\n{text}", encoding="utf-8")


def zoo_markdown(costs, figure):
    """Lay out the counts of `zoo` as Markdown.

    Args:
        costs: What `zoo` returned.
        figure: String, the link to the figure.

    Returns:
        A string of several lines.
    """
    from keras_multiception.cost_table import markdown

    models = {model: cost for (model, _), cost in costs.items()}

    def table(title, attribute):
        rows = [(title, "input", *CONVOLUTIONS.values())]
        for model, cost in models.items():
            counts = [getattr(costs.get((model, conv)), attribute, None) for conv in CONVOLUTIONS]
            cells = ["-" if count is None else f"{count:,}" for count in counts]
            rows.append((f"`{model}`", "x".join(map(str, cost.input_shape)), *cells))
        return markdown(rows, left=2)

    return "\n\n".join(
        (
            table("trainable parameters", "trainable_parameters"),
            table("multiply-adds of one image", "multiply_adds"),
            "Ten classes; kernel sizes as in the paper; multiply-adds of convolutions and dense "
            "layers. Written by `python -m training.costs --zoo`.",
            f"![Parameters and multiply-adds by stage]({figure})\n",
        )
    )


def main(argv=None):
    """Count from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0. Bad usage exits with 2 and one line on the standard error.
    """
    parser = Parser(prog="python -m training.costs", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a network, as of km.list_models()")
    parser.add_argument("--conv", default="multiception", help=f"one of {', '.join(CONVOLUTIONS)}")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--input_size", type=int, help="height and width of the images")
    parser.add_argument("--format", choices=("table", "markdown", "csv"), default="table")
    parser.add_argument("--table5", action="store_true", help="compare with the paper's Table V")
    parser.add_argument("--zoo", action="store_true", help="count every network")
    parser.add_argument(
        "--output", type=pathlib.Path, default=RESULTS, help="folder for the files of --zoo"
    )
    args = parser.parse_args(argv)
    if sum(map(bool, (args.model, args.table5, args.zoo))) != 1:
        parser.error("one of a model, --table5 and --zoo must be given")
    try:
        if args.table5:
            from training.costs_table5 import table5

            text = table5()
        elif args.zoo:
            write_zoo(zoo(), args.output)
            text = f"Wrote zoo_costs.csv, zoo_costs.md and zoo_costs.png to {args.output}"
        else:
            text = _count_model(args)
    except (ValueError, OSError) as error:
        parser.error(error)
    print(text, end="" if text.endswith("\n") else "\n")
    return 0


def _count_model(args):
    size = args.input_size
    if size is not None and size < 1:
        raise ValueError(f"`input_size` must be at least 1. Received: input_size={size}")
    shape = {} if size is None else {"input_shape": (size, size, 3)}
    import keras_multiception as km

    model = km.create_model(args.model, conv=args.conv, classes=args.classes, **shape)
    return getattr(km.cost(model), f"to_{args.format}")()


if __name__ == "__main__":
    sys.exit(run_command(main))
