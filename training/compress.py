"""Compress trained networks in many ways, and measure what each keeps, saves and costs.

    python -m training.compress --list
    python -m training.compress --run runs/study --recipe float,fused,ptq,qat,prune80,pqat
    python -m training.compress --render training/results/compression_resnet20_muon.json

The networks of several runs, or of a study's folder, stand side by side in one table and figure.
The same command goes on where it was stopped; what is finished is not made again.
"""

import json
import pathlib
import sys

from training.cli import Parser, command_of, require_name, run_command
from training.compression.recipes import DEFAULT, describe_recipes, parse_recipes

_OF_THE_MACHINE = ("--run", "--data_dir", "--output", "--note")


def main(argv=None):
    """Compress from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, 1 if a loss was not finite, a result was not as it must be, a file could
        not be written or a package is missing, 130 if it was interrupted. Bad usage exits with 2
        and one line on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        print(describe_recipes())
        return 0
    try:
        if args.render:
            _render(args.render)
            return 0
        if not args.run:
            parser.error("--run is needed, or --list, or --render")
        recipes = parse_recipes(args.recipe)
        if args.rounds < 1:
            raise ValueError(f"`rounds` must be at least 1. Received: rounds={args.rounds}")
        command = command_of("training.compress", argv, _OF_THE_MACHINE)
        output = _compress(args, recipes, command)
    except ValueError as error:
        parser.error(error)
    except ImportError as error:
        install = "pip install -e '.[training,compression]'"
        print(f"{parser.prog}: error: {error}; it comes with {install}", file=sys.stderr)
        return 1
    except (OSError, ArithmeticError, RuntimeError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"The results are in {output}.md, .csv, .json and .png.")
    return 0


def _compress(args, recipes, command):
    from keras_multiception.atomic import write_json  # imports Keras, which takes seconds
    from training.compression.artifacts import Compressor, find_runs  # imports TensorFlow
    from training.compression.fine_tuning import FineTuning
    from training.compression.results import add_times, collect

    tuning = FineTuning(args.epochs, args.learning_rate, args.batch_size, args.seed)
    runs = find_runs(args.run)
    output = args.output or pathlib.Path(args.run[0]) / "compression"
    require_name(output)
    compressors = [
        Compressor(run, tuning, args.train_split, args.test_split, args.data_dir) for run in runs
    ]
    compressors = [each for each in compressors if any(map(each.applies, recipes))]
    if not compressors:
        raise ValueError(
            "`recipe` must have one that can be followed; branches are dropped of Multiception "
            f"alone. Received: recipe={args.recipe}"
        )
    _require_own_output(output, compressors, recipes)
    for compressor in compressors:
        with compressor.run.lock():
            for recipe in filter(compressor.applies, recipes):
                result = compressor.make(recipe)
                print(
                    f"{compressor.run.path} {recipe.name:<14}"
                    f"{result['test']['top1']:>8.2%}{result['sizes']['deflated'] / 1000:>9.1f} KB",
                    flush=True,
                )
        compressor.forget_images()
    results = collect(compressors, recipes, command=command, note=args.note)
    add_times(results, compressors, recipes, args.rounds)
    write_json(output.with_name(f"{output.name}.json"), results)
    _write_pages(results, output)
    return output


def _require_own_output(output, compressors, recipes):
    """Raise a `ValueError` if there are results that would be lost: of other recipes or runs."""
    path = output.with_name(f"{output.name}.json")
    try:
        networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
        there = {
            (json.dumps({**network["recipe"], "seed": seed}, sort_keys=True), artifact["recipe"])
            for network in networks
            for artifact in network["artifacts"]
            for seed in artifact["seeds"]
        }
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`output` must not be another file than this command's results ({error!r}). "
            f"Received: output={path}"
        ) from error
    made = {
        (json.dumps(each.recipe, sort_keys=True), recipe.name)
        for each in compressors
        for recipe in recipes
    }
    if lost := {recipe for _, recipe in there - made}:
        raise ValueError(
            "`output` must not be the results of other recipes or runs; choose another name, or "
            f"give those too: {', '.join(sorted(lost))}. Received: output={path}"
        )


def _render(path):
    try:
        _write_pages(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(""))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"`render` must be the .json file of this command's results ({error!r}). "
            f"Received: render={path}"
        ) from error


def _write_pages(results, output):
    from keras_multiception.atomic import replacing  # imports Keras, which takes seconds
    from training.compression.figure import draw
    from training.compression.tables import to_csv, to_markdown

    figure, page, table = (
        output.with_name(f"{output.name}.{suffix}") for suffix in ("png", "md", "csv")
    )
    with replacing(figure) as temporary:
        draw(results).savefig(temporary)
    with replacing(table) as temporary:
        temporary.write_text(to_csv(results), encoding="utf-8")
    with replacing(page) as temporary:
        temporary.write_text(to_markdown(results, figure.name), encoding="utf-8")


def _parser():
    parser = Parser(prog="python -m training.compress", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--list", action="store_true", help="say what each recipe does and stop")
    add("--run", nargs="+", metavar="DIR", help="folders of finished training runs, or of studies")
    add("--recipe", default=DEFAULT, help="names with commas between them (%(default)s)")
    add("--epochs", type=int, default=2, help="of every step that trains (%(default)s)")
    add("--learning_rate", type=float, default=0.01, help="where it begins (%(default)s)")
    add("--batch_size", type=int, default=64, help="images per step (%(default)s)")
    add("--seed", type=int, default=0, help="of the order of the images (%(default)s)")
    add("--train_split", default="", help="split to train on; the default is the run's")
    add("--test_split", default="", help="split to measure on; the default is the run's")
    add("--data_dir", help="directory of the data, as for training.train")
    add("--rounds", type=int, default=7, help="times that speed is measured (%(default)s)")
    add("--note", default="", help="what readers must know")
    add(
        "--output",
        type=pathlib.Path,
        help="files of the results, without suffix; the default is compression in the first --run",
    )
    add(
        "--render",
        type=pathlib.Path,
        metavar="JSON",
        help="make tables and figure again from a result file and stop",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
