"""Train a network by a recipe.

    python -m training.train --list
    python -m training.train --recipe resnet20_multiception_cifar10 --quick --workdir runs/quick

The same command resumes a run that was stopped, by whatever means, after its last whole epoch;
on a CPU it ends with the same weights, to the bit, as a run that was never stopped.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from training.cli import Parser, run_command
from training.loop.strategies import Execution
from training.recipes import NUMERALS, RECIPES, describe, get_recipe, paper_cells
from training.reporting.tables import DASH, aligned


def main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line, and return the exit code."""
    args = (parser := _make_parser()).parse_args(argv)
    if args.list:
        print(_format_recipes())
        return 0
    if not args.describe and not (args.recipe and args.workdir):
        parser.error("--recipe and --workdir are needed, or --list or --describe")
    return parser.attempt(lambda: _run(args))


def _make_parser() -> Parser:
    parser = Parser("training.train", __doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="list the recipes and stop")
    add("--describe", metavar="RECIPE", help="show one recipe and stop")
    add("--recipe", help="name of a recipe, or a .json file with one")
    quick = "the recipe's variant for a laptop: fewer images, epochs"
    add("--quick", action="store_true", help=quick)
    add("--workdir", help="folder of the run; the same one resumes it")
    parser.add_data_options("data_dir", "archive_dir")
    changes = "values of the recipe to change, such as epochs=30 kernel_sizes=3-5-7,3-5,3-3"
    parser.add_changes(changes)
    run = parser.add_argument_group("how to run it, with the same outcome")
    for field in dataclasses.fields(Execution):
        run.add_argument(
            f"--{field.name}", type=field.type, default=field.default, **field.metadata
        )
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.describe:
        print(describe(args.describe))
        return 0
    recipe = get_recipe(args.recipe, args.set, args.quick)
    execution = Execution(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Execution)}
    )
    from training.fit import train  # imports TensorFlow, which takes seconds

    metrics = train(
        recipe,
        args.workdir,
        name=args.recipe,
        data_dir=args.data_dir,
        archive_dir=args.archive_dir,
        execution=execution,
    )
    print(f"{_format_metrics(metrics)}\nThe run is in {args.workdir}.")
    return 0


def _format_recipes() -> str:
    rows: list[tuple[str, ...]] = [
        ("recipe", "tables", "epochs", "batch", "lr", "paper: test error")
    ]
    for name, recipe in RECIPES.items():
        cells = paper_cells(recipe)
        error = f"{cells[0].error:.2f} %" if cells else DASH
        tables = ", ".join(NUMERALS[cell.table] for cell in cells)
        values = recipe.epochs, recipe.batch_size, f"{recipe.learning_rate:g}"
        rows.append((name, tables, *map(str, values), error))
    return aligned(rows, 2)


def _format_metrics(metrics: dict[str, Any]) -> str:
    splits = [
        f"{split}: {metrics[split]['top1']:.2%} top-1, {metrics[split]['top5']:.2%} top-5, "
        f"loss {metrics[split]['loss']:.6f} on {metrics[split]['examples']:,} images\n"
        for split in ("train", "test")
    ]
    return "".join(splits) + (
        f"{metrics['epochs']} epochs in {metrics['wall_seconds']:.0f} s, "
        f"{metrics['images_per_second']:.0f} images/s, "
        f"{metrics['parameters']['trainable']:,} trainable parameters"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
