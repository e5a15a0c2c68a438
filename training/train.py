"""Train a network by a recipe.

    python -m training.train --list
    python -m training.train --describe resnet20_multiception_cifar10
    python -m training.train --recipe resnet20_multiception_digits --workdir runs/digits
    python -m training.train --recipe resnet20_multiception_cifar10 --quick --workdir runs/quick

The same command resumes a run that was stopped, by whatever means, after its last whole epoch;
on a CPU it ends with the same weights, to the bit, as a run that was never stopped.
"""

import sys

from training.cli import Parser
from training.paper_tables import NUMERALS
from training.recipes import RECIPES, describe, get_recipe, paper_cells


def main(argv=None):
    """Train from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0 if the run is finished, 1 if the loss was not finite or a file could
        not be written, 130 if it was interrupted. Bad usage exits with 2 and one line on the
        standard error.
    """
    parser = Parser(prog="python -m training.train", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the recipes and stop")
    parser.add_argument("--describe", metavar="RECIPE", help="show one recipe and stop")
    parser.add_argument("--recipe", help="name of a recipe, or a .json file with one")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the recipe's variant for a laptop: fewer images, epochs",
    )
    parser.add_argument("--workdir", help="folder of the run; the same one resumes it")
    parser.add_argument("--data_dir", help="directory of prepared TensorFlow Datasets")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as epochs=30 kernel_sizes=3-5-7,3-5,3-3",
    )
    args = parser.parse_args(argv)
    if args.list:
        print(_format_recipes())
        return 0
    if not args.describe and not (args.recipe and args.workdir):
        parser.error("--recipe and --workdir are needed, or --list or --describe")
    try:
        if args.describe:
            print(describe(args.describe))
            return 0
        recipe = get_recipe(args.recipe, args.set, args.quick)
        from training.fit import train  # imports TensorFlow, which takes seconds

        metrics = train(recipe, args.workdir, name=args.recipe, data_dir=args.data_dir)
    except ValueError as error:
        parser.error(error)
    except (FloatingPointError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes after the last whole epoch.", file=sys.stderr)
        return 130
    print(_format_metrics(metrics))
    print(f"The run is in {args.workdir}.")
    return 0


def _format_recipes():
    lines = [
        f"{'recipe':<44} {'epochs':>6} {'batch':>5} {'lr':>5}  {'paper: test error':>17}  tables"
    ]
    for name, recipe in RECIPES.items():
        cells = paper_cells(recipe)
        error = f"{cells[0].error:.2f} %" if cells else "-"
        lines.append(
            f"{name:<44} {recipe.epochs:>6} {recipe.batch_size:>5} {recipe.learning_rate:>5g}  "
            f"{error:>17}  {', '.join(NUMERALS[cell.table] for cell in cells)}".rstrip()
        )
    return "\n".join(lines)


def _format_metrics(metrics):
    lines = [
        f"{split}: {values['top1']:.2%} top-1, {values['top5']:.2%} top-5, "
        f"loss {values['loss']:.6f} on {values['examples']:,} images"
        for split, values in ((split, metrics[split]) for split in ("train", "test"))
    ]
    lines.append(
        f"{metrics['epochs']} epochs in {metrics['wall_seconds']:.0f} s, "
        f"{metrics['images_per_second']:.0f} images/s, "
        f"{metrics['parameters']['trainable']:,} trainable parameters"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
