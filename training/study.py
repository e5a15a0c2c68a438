"""Train the cells of the paper's tables, or a grid of one's own, several seeds each.

    python -m training.study --table 1 5 --models resnet20 --quick --workdir runs/study
    python -m training.study --recipe resnet20_multiception_cifar10 --workdir runs/sizes \
        --grid kernel_sizes=3 kernel_sizes=3-5-7,3-5,3-3 learning_rate=0.1 learning_rate=0.05

It trains the runs that have no result yet. However it was stopped, the same command goes on, and
several studies may share a workdir, each with an --output of its own.
"""

import argparse
import functools
import os
import pathlib
import sys
from collections.abc import Sequence

from training.cli import Parser, command_of, positive, run_command
from training.loop.strategies import LOOPS
from training.study_page import PAGE, collect, require_own_results
from training.study_runs import find_gpus, plan_conditions, plan_runs, recipes_of_tables, train_runs

# What readers of the page choose themselves: where and how it is run.
_HOST_FLAGS = {"--workdir", "--data_dir", "--output", "--note", "--summary_only"}
_HOST_FLAGS |= {"--parallel", "--loop"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study from the command line; 1 if a run has no result, 130 if it was interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.render and not (args.workdir and (args.table or args.recipe)):
        parser.error("--workdir and --table or --recipe are needed, or --render")
    return parser.attempt(lambda: _study(args, argv))


def _study(args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    if args.render:
        PAGE.render(args.render)
        return 0
    names = [*recipes_of_tables(args.table, args.models, args.datasets), *args.recipe]
    conditions = plan_conditions(names, quick=args.quick, changes=args.set, grid=args.grid)
    runs = plan_runs(conditions, args.seeds, args.workdir)
    gpus = find_gpus()
    # this process counts and draws; the GPUs are for those that train
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    output = args.output or args.workdir / "study"
    require_own_results(output, runs, args.summary_only)
    command = command_of("training.study", argv, _HOST_FLAGS)

    def summarize() -> None:
        PAGE.write(collect(runs, command=command, note=args.note), output)

    if not args.summary_only:
        options = ["--loop", args.loop, *(["--data_dir", args.data_dir] if args.data_dir else [])]
        parallel = max(1, len(gpus)) if args.parallel == "auto" else args.parallel
        train_runs(runs, gpus, parallel, options, summarize)
    summarize()
    missing = [run for run in runs if not run.folder.metrics()]
    for run in missing:
        print(f"{run}: no result")
    print(f"The summary is in {output}.md, .csv, .json and .png.")
    return 1 if missing else 0


def _parser() -> Parser:
    parser = Parser("training.study", __doc__)
    several = functools.partial(parser.add_argument, action="extend", nargs="+", default=[])
    several("--table", type=int, help="numbers of the paper's tables, 1 to 5")
    several("--models", help="networks of the tables to keep")
    several("--datasets", help="data sets of the tables to keep")
    several("--recipe", help="names of recipes, or .json files, beside those of the tables")
    grid = "values of the recipes to try; a key may come several times"
    several("--grid", metavar="KEY=VALUE", help=grid)
    parser.add_changes("values to change in every recipe")
    add = parser.add_argument
    add("--seeds", type=positive, default=3, help="how many, from 0 (%(default)s)")
    add("--quick", action="store_true", help="the recipes' variants for a laptop")
    add("--workdir", type=pathlib.Path, help="folder of the run folders")
    parser.add_page_options("study in the workdir")
    parser.add_data_options("data_dir")
    parallel = "processes at a time; auto is one for each GPU, or one without any"
    add("--parallel", type=_parallel, default="auto", metavar="N", help=parallel)
    add("--loop", choices=LOOPS, default="keras", help="as of training.train (%(default)s)")
    add("--summary_only", action="store_true", help="train nothing, only summarize what is there")
    return parser


def _parallel(text: str) -> int | str:
    return text if text == "auto" else positive(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
