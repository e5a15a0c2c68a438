"""Train the cells of the paper's tables, or a grid of one's own, several seeds each.

    python -m training.study --table 1 5 --models resnet20 --quick --workdir runs/study
    python -m training.study --recipe resnet20_multiception_cifar10 --workdir runs/sizes \
        --grid kernel_sizes=3 kernel_sizes=3-5-7,3-5,3-3 learning_rate=0.1 learning_rate=0.05

It trains the runs that have no result yet. However it was stopped, the same command goes on, and
several studies may share a workdir, each with an --output of its own.
"""

import functools
import json
import os
import pathlib
import sys

from training.cli import Parser, command_of, require_name, run_command
from training.loop.strategies import LOOPS
from training.studies.plan import (
    check_networks,
    plan_conditions,
    plan_runs,
    recipes_of_tables,
)
from training.studies.runs import find_gpus, train_runs

_OF_THE_MACHINE = (
    "--workdir",
    "--data_dir",
    "--output",
    "--parallel",
    "--loop",
    "--note",
    "--summary_only",
)


def main(argv=None):
    """Run a study from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0 if every run has its result, 1 if not, 130 if it was interrupted. Bad
        usage exits with 2 and one line on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.render and not (args.workdir and (args.table or args.recipe)):
        parser.error("--workdir and --table or --recipe are needed, or --render")
    try:
        if args.render:
            _render(args.render)
            return 0
        names = [
            *recipes_of_tables(args.table, args.models, args.datasets),
            *args.recipe,
        ]
        conditions = plan_conditions(names, quick=args.quick, changes=args.set, grid=args.grid)
        runs = plan_runs(conditions, args.seeds, args.workdir)
        gpus = find_gpus()
        parallel = _parallel(args.parallel, gpus)
        # this process counts and draws; the GPUs are for those that train
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        check_networks(conditions)
        require_name(_output(args))
        _require_own_output(_output(args), runs, args.summary_only)
        summarize = functools.partial(_summarize, runs, args, argv)
        if not args.summary_only:
            train_runs(runs, gpus, parallel, args.data_dir, summarize, args.loop)
        summarize()
    except ValueError as error:
        parser.error(error)
    except OSError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    missing = [run for run in runs if not run.folder.metrics()]
    for run in missing:
        print(f"{run}: no result")
    print(f"The summary is in {_output(args)}.md, .csv, .json and .png.")
    return 1 if missing else 0


def _summarize(runs, args, argv):
    from training.studies.summary import summarize  # imports Keras, which takes seconds

    command = command_of("training.study", argv, _OF_THE_MACHINE)
    summarize(runs, args.workdir, _output(args), command=command, note=args.note)


def _require_own_output(output, runs, summary_only):
    """Raise a `ValueError` if there is a summary of what this study does not have."""
    path = output.with_name(f"{output.name}.json")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        others = {each["label"] for each in there} - {run.condition.label for run in runs}
        kept = {str(run) for run in runs if run.folder.metrics() or not summary_only}
        lost = [
            name
            for each in there
            for run in each["runs"]
            if (name := f"{each['label']}, seed {run['seed']}") not in kept
        ]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`output` must not be another file than a study's summary ({error!r}). "
            f"Received: output={path}"
        ) from error
    if others:
        raise ValueError(
            "`output` must not be the summary of other conditions; choose another name, or study "
            f"those too: {', '.join(sorted(others))}. Received: output={path}"
        )
    if lost:
        raise ValueError(
            "`output` must not be the summary of runs that this study does not have; choose another"
            f" name, or give their seeds and workdir: {'; '.join(lost)}. Received: output={path}"
        )


def _render(path):
    from training.studies.summary import render

    render(path)


def _output(args):
    return args.output or args.workdir / "study"


def _parser():
    parser = Parser(prog="python -m training.study", description=__doc__.splitlines()[0])
    several = functools.partial(parser.add_argument, action="extend", nargs="+", default=[])
    several("--table", type=int, help="numbers of the paper's tables, 1 to 5")
    several("--models", help="networks of the tables to keep")
    several("--datasets", help="data sets of the tables to keep")
    several("--recipe", help="names of recipes, or .json files, beside those of the tables")
    several(
        "--grid",
        metavar="KEY=VALUE",
        help="values of the recipes to try; a key may come several times",
    )
    several("--set", metavar="KEY=VALUE", help="values to change in every recipe")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the recipes' variants for a laptop")
    parser.add_argument("--workdir", type=pathlib.Path, help="folder of the run folders")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="files of the summary, without suffix; the default is study in the workdir",
    )
    parser.add_argument("--note", default="", help="what readers must know of the data")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument(
        "--parallel",
        default="auto",
        metavar="N",
        help="processes at a time; auto is one for each GPU, or one without any",
    )
    parser.add_argument(
        "--loop",
        choices=LOOPS,
        default="keras",
        help="as of training.train (%(default)s)",
    )
    parser.add_argument(
        "--summary_only", action="store_true", help="train nothing, only summarize what is there"
    )
    parser.add_argument(
        "--render",
        type=pathlib.Path,
        metavar="JSON",
        help="make tables and figure again from a result file and stop",
    )
    return parser


def _parallel(text, gpus):
    if text == "auto":
        return max(1, len(gpus))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"`parallel` must be auto or at least 1. Received: parallel={text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
