"""Race a network in every form: Keras and our engines against PyTorch, and its ONNX in theirs.

    python -m training.benchmark
    python -m training.benchmark --quick
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m training.benchmark
    KERAS_BACKEND=jax python -m training.benchmark --conv standard multiception
    python -m training.benchmark --render training/results/benchmark_resnet20.json

PyTorch, ONNX Runtime, OpenVINO and NNCF come with `pip install -e '.[benchmark]'`; what is not
installed is left out. The two variables limit TensorFlow, PyTorch and OpenVINO to AVX2; but ONNX
Runtime and LiteRT have no such switch. The page is written each time that a case is done.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from training.benchmarks.runner import FORMS, TASKS, Plan, measure
from training.cli import Parser, command_of, parse_settings, run_command

CONVS = ("standard", "dsconv", "mixconv", "multiception")
_HOST_FLAGS = ("--output", "--note")
_SETTINGS = {
    field.name: field.default
    for field in dataclasses.fields(Plan)
    if field.default is not dataclasses.MISSING
}
_QUICK = {"forms": ["torch", "torch_openvino", "plain", "keras", "openvino", "openvino_int8"]}
_QUICK_SETTINGS = ["batch_size=16", "inference_batch_sizes=1,32", "rounds=3", "seconds=0.1"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line; 1 if a process failed or a file could not be written."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.quick:  # other defaults; what is given stays
        parser.set_defaults(**_QUICK)
        args = parser.parse_args(argv)
    return parser.attempt(lambda: _measure(args, argv))


def _measure(args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    from training.benchmarks import page  # imports Matplotlib

    if args.render:
        page.PAGE.render(args.render)
        return 0
    output = args.output or pathlib.Path("runs/benchmark")
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
    import keras_multiception as km  # Keras takes seconds

    if unknown := sorted(set(args.model) - set(km.list_models())):
        raise ValueError(
            f"`model` must be among {', '.join(km.list_models())}. "
            f"Received: model={', '.join(unknown)}"
        )
    forms = tuple(form for form in FORMS if form in args.forms)
    return Plan(tuple(args.model), tuple(args.conv), tuple(args.task), forms, **settings)


def _parser() -> Parser:
    parser = Parser("training.benchmark", __doc__)

    def several(name: str, default: list[str], text: str, choices: Sequence[str] | None) -> None:
        parser.add_argument(name, nargs="+", default=default, help=text, choices=choices)

    several("--model", ["resnet20"], "networks, as of km.list_models(); default: resnet20", None)
    several("--conv", ["multiception"], "types of convolution; default: multiception", CONVS)
    several("--task", list(TASKS), "what to measure; default: all", TASKS)
    several("--forms", list(FORMS), "default: all", FORMS)
    settings = " ".join(f"{key}={_write(value)}" for key, value in _SETTINGS.items())
    parser.add_changes(f"how to measure; default: {settings}, 0 threads being all cores")
    parser.add_argument("--quick", action="store_true", help="a few forms, in two minutes")
    parser.add_page_options("runs/benchmark")
    return parser


def _write(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main))
