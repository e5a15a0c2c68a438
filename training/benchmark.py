"""Measure how fast the networks train and answer, in every form, against plain Keras and PyTorch.

    python -m training.benchmark
    python -m training.benchmark --quick
    python -m training.benchmark --model resnet20 resnet50 --conv multiception --onednn both
    KERAS_BACKEND=jax python -m training.benchmark --forms plain separate dense
    python -m training.benchmark --render training/results/benchmark_resnet20.json

Everything takes turns, round by round, on the same cores, so that the ratios hold where absolute
times drift with the load of the machine. What stands for what is in the page that it writes.
"""

import os
import pathlib
import sys
from typing import Any

from training.benchmarks.plan import CHOICES, TASKS, Plan
from training.benchmarks.rounds import run
from training.cli import Parser, command_of, require_name, run_command
from training.recipe import POLICIES

CONVS = ("standard", "dsconv", "mixconv", "multiception")
_OF_THE_MACHINE = ("--output", "--note")
_QUICK: dict[str, Any] = {
    "conv": ["multiception"],
    "forms": ["plain", "fast", "separate", "torch"],
    "task": ["train_step", "inference"],
    "batch_size": 16,
    "inference_batch_sizes": [1],
    "rounds": 3,
    "seconds": 0.1,
    "memory": False,
}


def main(argv=None):
    """Measure from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if a process failed or a file could not be written. Bad usage exits
        with 2 and one line on the standard error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.quick:  # other defaults; what is given stays
        parser.set_defaults(**_QUICK)
        args = parser.parse_args(argv)
    try:
        if args.render:
            from training.benchmarks import pages  # imports Keras, which takes seconds

            pages.render(args.render)
            return 0
        require_name(args.output)
        plan = _plan(args)
        args.output.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than at the end
        results = run(plan, args.onednn, args.memory)
        results["command"] = command_of("training.benchmark", argv, _OF_THE_MACHINE)
        results["note"] = args.note
        from training.benchmarks import pages

        pages.write(results, args.output)
    except ValueError as error:
        parser.error(error)
    except (OSError, RuntimeError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"The results are in {args.output}.md, .csv, .json and .png.")
    return 0


def _plan(args):
    """Check the arguments and make a `Plan` of them."""
    cores = len(os.sched_getaffinity(0))
    own = ("quick", "memory", "onednn", "note", "output", "render")  # of the command alone
    values: dict[str, Any] = {k: value for k, value in vars(args).items() if k not in own}
    values["threads"] = values["threads"] or cores
    for name in ("batch_size", "rounds", "steps", "threads"):
        if values[name] < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={values[name]}")
    if values["threads"] > cores:
        raise ValueError(
            f"`threads` must be at most the number of cores that this process may use, {cores}. "
            f"Received: threads={values['threads']}"
        )
    if min(values["inference_batch_sizes"]) < 1:
        raise ValueError(
            "`inference_batch_sizes` must be at least 1 each. "
            f"Received: inference_batch_sizes={values['inference_batch_sizes']}"
        )
    if not 0 <= values["seconds"] <= 60:
        raise ValueError(
            f"`seconds` must be between 0 and 60. Received: seconds={values['seconds']}"
        )
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise ValueError(f"`KERAS_BACKEND` must be tensorflow or jax. Received: {backend}")
    if backend != "tensorflow" and args.onednn == "both":
        raise ValueError(f"`onednn` is about TensorFlow alone. Received: onednn=both on {backend}")
    chosen = values.pop("forms")
    forms = [form for name, parts in CHOICES.items() if name in chosen for form in parts]
    models, convs, tasks = (tuple(values.pop(name)) for name in ("model", "conv", "task"))
    return Plan(models, convs, tasks, tuple(forms), **values)


def _parser():
    parser = Parser(prog="python -m training.benchmark", description=__doc__.splitlines()[0])

    def several(name, default, help, **options):
        parser.add_argument(name, nargs="+", default=default, help=help, **options)

    several("--model", ["resnet20"], "networks, as of km.list_models(); default: %(default)s")
    several("--conv", list(CONVS), "types of convolution; default: all", choices=CONVS)
    tasks = [task for task in TASKS if task != "branches"]
    several("--task", tasks, "what to measure; default: all", choices=tasks)
    several("--forms", list(CHOICES), "default: all", choices=tuple(CHOICES))
    parser.add_argument("--batch_size", type=int, default=128, help="of training (%(default)s)")
    several("--inference_batch_sizes", [1, 32, 128], "default: %(default)s", type=int)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of one fit (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="a turn takes at least (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="cores for every process; default: all")
    parser.add_argument(
        "--dtype_policy",
        choices=POLICIES,
        default="float32",
        help="of the networks in Keras; PyTorch's stay float32 (%(default)s)",
    )
    parser.add_argument(
        "--onednn",
        choices=("on", "off", "both"),
        default="on",
        help="in TensorFlow on a CPU; both: the forms with it off beside them (%(default)s)",
    )
    parser.add_argument(
        "--no_memory", dest="memory", action="store_false", help="skip the memory of training steps"
    )
    parser.add_argument("--quick", action="store_true", help="a few things, in a minute or two")
    parser.add_argument("--note", default="", help="what readers must know")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/benchmark"),
        help="files to write, without suffix (%(default)s)",
    )
    parser.add_argument(
        "--render",
        type=pathlib.Path,
        metavar="JSON",
        help="make tables and figure again from a result file and stop",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
