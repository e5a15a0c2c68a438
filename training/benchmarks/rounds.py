"""A whole benchmark: the workers, their turns, and what is left to count."""

import contextlib
import dataclasses
import datetime
import importlib.util
import os
import sys

from training.benchmarks.plan import FORMS, Case
from training.benchmarks.results import summarize
from training.benchmarks.worker import Worker


def run(plan, onednn="on", memory=True):
    """Measure everything, in turns: each case once a round, the order turned round every time.

    Args:
        plan: A `Plan`.
        onednn: `"on"`, `"off"` or `"both"`: whether TensorFlow uses oneDNN on a CPU.
        memory: Boolean, whether to measure the memory of training steps too.

    Returns:
        A dictionary fit for JSON, as `training.benchmarks.results.summarize` completes it.

    Raises:
        RuntimeError: If a process failed.
        ValueError: If there is nothing to measure.
    """
    settings = {"on": ["1"], "off": ["0"], "both": ["1", "0"]}[onednn]
    left_out: list[str] = []
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(*args))
            for name, args in _sides(plan, settings, left_out).items()
        }
        cases = _make(workers, left_out)
        if not any(case.task != "limit" for _, case in cases):
            raise ValueError(
                f"There is nothing to measure. Received: forms={', '.join(plan.forms)}; "
                + "; ".join(left_out)
            )
        environments = {name: worker.environment() for name, worker in workers.items()}
        work = workers["keras"].work() if "keras" in workers else {}
        load = os.getloadavg()
        seconds = _take_turns(plan, workers, cases)
    results = {
        "date": datetime.date.today().isoformat(),
        "plan": dataclasses.asdict(plan),
        "environments": environments,
        "load_before_and_after": [round(value[0], 2) for value in (load, os.getloadavg())],
        "left_out": list(dict.fromkeys(left_out)),
        "rows": [
            {
                **case._asdict(),
                "side": name,
                "work": work.get(case[:4]),
                "seconds": seconds[name, case],
            }
            for name, case in cases
        ],
        "memory": _memory(plan, settings[0]) if memory else [],
    }
    return summarize(results)


def _sides(plan, settings, left_out):
    """Return the arguments of a `Worker` by the name of each side."""
    torch_forms = [form for form in plan.forms if form.startswith("torch")]
    sides: dict[str, tuple] = {}
    if len(torch_forms) < len(plan.forms):
        names = ["keras", "keras, oneDNN off"]
        for name, setting in zip(names, settings, strict=False):
            sides[name] = ("keras", plan, {"TF_ENABLE_ONEDNN_OPTS": setting})
            # LiteRT has kernels of its own, with which oneDNN has nothing to do
            forms = tuple(form for form in plan.forms if not form.startswith("litert"))
            plan = dataclasses.replace(plan, forms=forms)
    if torch_forms:
        if importlib.util.find_spec("torch"):
            sides["torch"] = ("torch", plan)
        else:
            left_out.append(f"{', '.join(torch_forms)}: PyTorch is not installed")
    return sides


def _make(workers, left_out):
    """Return pairs of the name of a worker and a `Case`, those to compare one after the other."""
    cases = []
    for name, worker in workers.items():
        _tell(f"building: {name}")
        made, reasons = worker.make()
        cases += [(name, case) for case in made]
        left_out += reasons
    groups = list(dict.fromkeys(case[:4] for _, case in cases))
    order = list(FORMS)
    return sorted(
        cases,
        key=lambda pair: (
            groups.index(pair[1][:4]),
            order.index(pair[1].form) if pair[1].form in order else -1,
        ),
    )


def _take_turns(plan, workers, cases):
    seconds: dict = {pair: [] for pair in cases}
    _tell(f"{len(cases)} cases: warming up")
    for name, case in cases:
        workers[name].measure(case, 0)
    for number in range(plan.rounds):
        _tell(f"round {number + 1} of {plan.rounds}")
        for name, case in cases if number % 2 == 0 else reversed(cases):
            seconds[name, case].append(workers[name].measure(case, plan.seconds))
    return seconds


def _memory(plan, setting):
    """Measure the memory of a training step of each form in a fresh process."""
    rows = []
    sides = {"plain": "keras", "fast": "keras", "torch_channels_last": "torch"}
    for (model, conv), (form, side) in (
        (network, item) for network in plan.networks() for item in sides.items()
    ):
        if form not in plan.forms or (side == "torch" and not importlib.util.find_spec("torch")):
            continue
        _tell(f"memory: {model} with {conv}, {FORMS[form]}")
        alone = dataclasses.replace(
            plan, models=(model,), convs=(conv,), tasks=("train_step",), forms=(form,)
        )
        with Worker(side, alone, {"TF_ENABLE_ONEDNN_OPTS": setting}) as worker:
            steps = [case for case in worker.make()[0] if case.task != "limit"]
            if steps:
                before, _ = worker.memory()
                worker.measure(Case(*steps[0]), 0)  # two steps
                _, peak = worker.memory()
                rows.append(
                    {"model": model, "conv": conv, "form": form, "before": before, "peak": peak}
                )
    return rows


def _tell(text):
    print(text, file=sys.stderr, flush=True)
