"""Measure how fast the networks train and answer, in every form, against plain Keras and PyTorch.

    python -m training.benchmark
    python -m training.benchmark --quick
    TF_ENABLE_ONEDNN_OPTS=0 python -m training.benchmark --model resnet50 --set rounds=9
    KERAS_BACKEND=jax python -m training.benchmark --forms plain separate dense
    python -m training.benchmark --render training/results/benchmark_resnet20.json

All forms of a network at a task take turns on the same cores, so that their ratios hold where
absolute times drift with the load of the machine; the page is written each time that one is done.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from training.benchmarks.runner import CHOICES, TASKS, Plan, measure
from training.cli import (
    Parser,
    add_changes,
    add_page_options,
    attempt,
    command_of,
    parse_settings,
    require_name,
    run_command,
)

CONVS = ("standard", "dsconv", "mixconv", "multiception")
_HOST_FLAGS = ("--output", "--note")
_SETTINGS = {
    field.name: field.default
    for field in dataclasses.fields(Plan)
    if field.default is not dataclasses.MISSING
}
_QUICK: dict[str, Any] = {
    "conv": ["multiception"],
    "forms": ["plain", "fast", "separate", "torch"],
    "task": ["train_step", "inference"],
}
_QUICK_SETTINGS = ["batch_size=16", "inference_batch_sizes=1", "rounds=3", "seconds=0.1"]
_QUICK_SETTINGS += ["memory=false"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line; 1 if a process failed or a file could not be written."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.quick:  # other defaults; what is given stays
        parser.set_defaults(**_QUICK)
        args = parser.parse_args(argv)
    return attempt(parser, lambda: _measure(args, argv))


def _measure(args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    from training.benchmarks import page  # imports Matplotlib

    if args.render:
        page.PAGE.render(args.render)
        return 0
    output = args.output or pathlib.Path("runs/benchmark")
    require_name(output)
    plan = _plan(args)
    output.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than at the end
    command = command_of("training.benchmark", argv, _HOST_FLAGS)
    for results in measure(plan):
        results |= {"command": command, "note": args.note}
        page.PAGE.write(page.summarize(results), output)
    print(f"The results are in {output}.md, .csv, .json and .png.")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    settings = parse_settings(_SETTINGS, [*(_QUICK_SETTINGS if args.quick else []), *args.set])
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise ValueError(f"`KERAS_BACKEND` must be tensorflow or jax. Received: {backend}")
    forms = [form for name, parts in CHOICES.items() if name in args.forms for form in parts]
    return Plan(tuple(args.model), tuple(args.conv), tuple(args.task), tuple(forms), **settings)


def _parser() -> Parser:
    parser = Parser(prog="python -m training.benchmark", description=(__doc__ or "").split("\n")[0])

    def several(name: str, default: list[str], text: str, choices: Sequence[str] | None) -> None:
        parser.add_argument(name, nargs="+", default=default, help=text, choices=choices)

    several("--model", ["resnet20"], "networks, as of km.list_models(); default: resnet20", None)
    several("--conv", list(CONVS), "types of convolution; default: all", CONVS)
    several("--task", list(TASKS), "what to measure; default: all", TASKS)
    several("--forms", list(CHOICES), "default: all", tuple(CHOICES))
    settings = " ".join(f"{key}={_write(value)}" for key, value in _SETTINGS.items())
    add_changes(parser, f"how to measure; default: {settings}, 0 threads being all cores")
    parser.add_argument("--quick", action="store_true", help="a few things, in a minute or two")
    add_page_options(parser, "runs/benchmark")
    return parser


def _write(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main))
