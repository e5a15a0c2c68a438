"""Compress trained networks in many ways, and measure what each keeps, saves and costs.

    python -m training.compress --list
    python -m training.compress --run runs/study --recipe float fused ptq qat prune80 pqat
    python -m training.compress --run runs/study --set learning_rate=0.001 epochs=3
    python -m training.compress --render training/results/compression.json

The same command goes on where it was stopped; what is finished is not made again.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from training.cli import Parser, command_of, parse_settings, run_command
from training.compression.recipes import DEFAULT, FineTuning, describe_recipes, parse_recipes
from training.run_folder import find_runs

_HOST_FLAGS = ("--run", "--data_dir", "--output", "--note")
_SETTINGS = dataclasses.asdict(FineTuning()) | {"train_split": "", "test_split": "", "rounds": 7}


def main(argv: Sequence[str] | None = None) -> int:
    """Compress from the command line, and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        print(describe_recipes())
        return 0
    return parser.attempt(lambda: _compress(parser, args, argv))


def _compress(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    if args.render:
        from training.compression.page import PAGE  # imports Matplotlib

        PAGE.render(args.render)
        return 0
    if not args.run:
        parser.error("--run is needed, or --list, or --render")
    recipes = parse_recipes(args.recipe)
    settings = parse_settings(_SETTINGS, args.set)
    splits = {name: settings.pop(name) for name in ("train_split", "test_split")}
    rounds = settings.pop("rounds")
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1. Received: rounds={rounds}")
    try:
        from training.compression.artifacts import Compressor
        from training.compression.page import PAGE, collect, require_own_results
    except ImportError as error:
        install = "pip install -e '.[training,compression]'"
        raise ImportError(f"{error}; it comes with {install}") from error

    tuning = FineTuning(**settings)
    runs = find_runs(args.run)
    output = args.output or pathlib.Path(args.run[0]) / "compression"
    compressors = [Compressor(run, tuning, data_dir=args.data_dir, **splits) for run in runs]
    compressors = [each for each in compressors if any(map(each.applies, recipes))]
    if not compressors:
        raise ValueError(
            "`recipe` must have one that can be followed; branches are dropped of Multiception "
            f"alone. Received: recipe={' '.join(args.recipe)}"
        )
    require_own_results(output, compressors, recipes)
    for compressor in compressors:
        with compressor.run.lock():
            for recipe in filter(compressor.applies, recipes):
                result = compressor.make(recipe)
                accuracy, size = result["test"]["top1"], result["sizes"]["deflated"] / 1000
                print(f"{compressor.run.path} {recipe.name:<14}{accuracy:>8.2%}{size:>9.1f} KB")
                sys.stdout.flush()
    results = collect(compressors, recipes, rounds=rounds, note=args.note)
    results["command"] = command_of("training.compress", argv, _HOST_FLAGS)
    PAGE.write(results, output)
    print(f"The results are in {output}.md, .csv, .json and .png.")
    return 0


def _parser() -> Parser:
    parser = Parser("training.compress", __doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="say what each recipe does and stop")
    add("--run", nargs="+", metavar="DIR", help="folders of finished training runs, or of studies")
    add("--recipe", nargs="+", default=DEFAULT.split(), help=f"names, see --list ({DEFAULT})")
    settings = " ".join(f"{key}={value}" for key, value in _SETTINGS.items() if value != "")
    text = "of steps that train, splits other than the run's, rounds of timing"
    parser.add_changes(f"{text}; default: {settings}")
    parser.add_data_options("data_dir")
    parser.add_page_options("compression in the first --run")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
