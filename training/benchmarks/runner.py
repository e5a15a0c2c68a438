"""What a benchmark measures, and its runners: processes that take turns on the same cores.

A runner is a name and a module with a function `prepare(plan) -> Prepared`. It is imported in a
process of its own, so that no two frameworks share one. A package that a runner lacks leaves its
forms out.
"""

import dataclasses
import datetime
import importlib
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import time
import typing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

from training.recipe import POLICIES, require_fields

RUNNERS = {
    "keras": "training.benchmarks.keras_runner",
    "torch": "training.benchmarks.torch_runner",
}
TASKS = ("train_step", "fit", "inference")
# What --forms takes, with the forms that it stands for and the runner that measures them.
_KERAS_FORMS = ("plain", "fast", "separate", "merged", "dense", "auto", "saved_model")
CHOICES = {
    **{form: ("keras", (form,)) for form in _KERAS_FORMS},
    "litert": ("keras", ("litert", "litert_threads")),
    "torch": ("torch", ("torch_channels_last", "torch_channels_first")),
}
RUNNER_OF = {form: runner for runner, forms in CHOICES.values() for form in forms}
_ONEDNN = {"on": ["1"], "off": ["0"], "both": ["1", "0"]}
_MEMORY_FORMS = ("plain", "fast", "torch_channels_last")


class Case(typing.NamedTuple):
    """One thing that is measured: a form of a network at a task, or the machine's peak."""

    task: str
    model: str
    conv: str
    batch_size: int
    form: str


class Job(typing.NamedTuple):
    """A function that does it and waits for the end, and how many steps or calls that is."""

    call: Callable[[], object]
    units: float = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how long.

    Attributes:
        models: Names of networks.
        convs: Types of convolution.
        tasks: Some of `TASKS`.
        forms: Some of `RUNNER_OF`.
        batch_size: Images of a training step.
        inference_batch_sizes: Images of a call.
        steps: Steps of one `fit`.
        rounds: How often each case has its turn.
        seconds: What a turn takes at least.
        threads: Cores that every process may use; 0 for all.
        dtype_policy: Keras dtype policy of Keras' networks; PyTorch's stay float32.
        onednn: "on", "off" or "both": whether TensorFlow uses oneDNN on a CPU.
        memory: Whether to measure the memory of training steps too.
    """

    models: tuple[str, ...]
    convs: tuple[str, ...]
    tasks: tuple[str, ...]
    forms: tuple[str, ...]
    batch_size: int = 128
    inference_batch_sizes: tuple[int, ...] = (1, 32, 128)
    steps: int = 5
    rounds: int = 7
    seconds: float = 0.3
    threads: int = 0
    dtype_policy: str = "float32"
    onednn: str = "on"
    memory: bool = True

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        object.__setattr__(self, "threads", self.threads or cores)
        checks = (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("inference_batch_sizes", min(self.inference_batch_sizes) >= 1, "at least 1 each"),
            ("steps", self.steps >= 1, "at least 1"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("seconds", 0 <= self.seconds <= 60, "between 0 and 60"),
            ("threads", 1 <= self.threads <= cores, f"at most the number of cores, {cores}"),
            ("dtype_policy", self.dtype_policy in POLICIES, f"one of {', '.join(POLICIES)}"),
            ("onednn", self.onednn in _ONEDNN, f"one of {', '.join(_ONEDNN)}"),
        )
        require_fields(self, checks)

    def networks(self) -> list[tuple[str, str]]:
        """Return the pairs of a network and a type of convolution."""
        return [(model, conv) for model in self.models for conv in self.convs]


@dataclasses.dataclass
class Prepared:
    """What a runner has ready: jobs, its machine, sentences on what it left out, and work.

    `work` goes from the first four fields of a `Case` to the `flop` and `bytes` that it takes.
    """

    jobs: dict[Case, Job]
    machine: dict[str, Any]
    left_out: list[str] = dataclasses.field(default_factory=list)
    work: dict[tuple, dict[str, float]] = dataclasses.field(default_factory=dict)


class Runner:
    """A runner in a process of its own, idle except during its own turn.

    What `prepare` may raise, a `ValueError` of the plan or an `ImportError`, every method raises;
    any other failure of the process is a `RuntimeError`.
    """

    def __init__(self, name: str, plan: Plan, variables: dict[str, str] | None = None):
        self.name = name
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _begin, (plan, variables or {})
        )
        self._task = RUNNERS[name], plan

    def prepare(self) -> Prepared:
        """Make everything to be measured; the jobs, which stay in the process, come as `None`."""
        return self._call(_prepare, *self._task)

    def measure(self, case: Case, seconds: float) -> float:
        """Give a case its turn, and return the seconds of one unit of it."""
        return self._call(_measure, case, seconds)

    def memory(self) -> tuple[int, int]:
        """Return the bytes of memory in use now, and the most that have been."""
        return self._call(_memory)

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _call(self, function: Callable, *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except (ValueError, ImportError):
            raise
        except Exception as error:
            raise RuntimeError(
                f"The process of the {self.name} runner failed: {error!r}"
            ) from error


_JOBS: dict[Case, Job] = {}  # of the runner's process


def _begin(plan: Plan, variables: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    os.environ.update(variables)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: plan.threads])


def _prepare(module: str, plan: Plan) -> Prepared:
    prepared = importlib.import_module(module).prepare(plan)
    _JOBS.update(prepared.jobs)
    return dataclasses.replace(prepared, jobs=dict.fromkeys(_JOBS))


def _measure(case: Case, seconds: float) -> float:
    return run_once(_JOBS[case], seconds)


def _memory() -> tuple[int, ...]:
    """Read the resident memory of this process, now and at its highest.

    The kernel's own high-water mark of this program; `ru_maxrss` begins with that of the parent.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    kilobytes = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return tuple(1024 * int(kilobytes[name]) for name in ("VmRSS", "VmHWM"))


def run_once(job: Job, seconds: float) -> float:
    """Do a job once without the clock, so that caches and memory are its own, then with it."""
    # as keras_multiception.timing, which loads Keras, and a runner may be of another framework
    job.call()
    calls, start, elapsed = 0, time.perf_counter(), 0.0
    while not calls or elapsed < seconds:
        job.call()
        calls += 1
        elapsed = time.perf_counter() - start
    return elapsed / (calls * job.units)


def measure(plan: Plan) -> dict[str, Any]:
    """Measure each case once a round, in turns, the order reversed every time.

    The result is fit for JSON; `training.benchmarks.page.summarize` completes it.
    """
    settings = _ONEDNN[plan.onednn]
    with ExitStack() as stack:
        runners, prepared, left_out = _start(stack, plan, settings)
        cases = _in_order(prepared)
        if not any(case.task != "limit" for _, case in cases):
            raise ValueError(
                f"`forms` must leave something to measure: {'; '.join(left_out)}. "
                f"Received: forms={', '.join(plan.forms)}"
            )
        before = os.getloadavg()[0]
        seconds = _take_turns(plan, runners, cases)
        loads = [round(load, 2) for load in (before, os.getloadavg()[0])]
    rows = [
        {
            **case._asdict(),
            "side": name,
            "work": prepared["keras"].work.get(case[:4]) if "keras" in prepared else None,
            "seconds": seconds[name, case],
        }
        for name, case in cases
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "plan": dataclasses.asdict(plan),
        "environments": {name: each.machine for name, each in prepared.items()},
        "load_before_and_after": loads,
        "left_out": list(dict.fromkeys(left_out)),
        "rows": rows,
        "memory": _measure_memory(plan, settings[0]) if plan.memory else [],
    }


def _start(
    stack: ExitStack, plan: Plan, settings: list[str]
) -> tuple[dict[str, Runner], dict[str, Prepared], list[str]]:
    """Start the runners of a plan's forms, by label; Keras' a second time with oneDNN off."""
    runners, prepared, left_out = {}, {}, []
    for name in RUNNERS:
        forms = tuple(form for form in plan.forms if RUNNER_OF[form] == name)
        for setting in settings if name == "keras" else settings[:1]:
            label = name
            if setting != settings[0]:
                label = f"{name}, oneDNN off"
                # LiteRT has kernels of its own, with which oneDNN has nothing to do
                forms = tuple(form for form in forms if not form.startswith("litert"))
            if not forms:
                continue
            _tell(f"building: {label}")
            own = dataclasses.replace(plan, forms=forms)
            runner = stack.enter_context(Runner(name, own, {"TF_ENABLE_ONEDNN_OPTS": setting}))
            try:
                prepared[label] = runner.prepare()
            except ImportError as error:
                left_out.append(f"{', '.join(forms)}: {error}")
                continue
            runners[label] = runner
            left_out += prepared[label].left_out
    return runners, prepared, left_out


def _in_order(prepared: dict[str, Prepared]) -> list[tuple[str, Case]]:
    """Return pairs of a runner's label and a case, those to compare one after the other."""
    cases = [(name, case) for name, each in prepared.items() for case in each.jobs]
    groups = list(dict.fromkeys(case[:4] for _, case in cases))
    order = ["product", "stream", *RUNNER_OF]
    return sorted(cases, key=lambda pair: (groups.index(pair[1][:4]), order.index(pair[1].form)))


def _take_turns(
    plan: Plan, runners: dict[str, Runner], cases: list[tuple[str, Case]]
) -> dict[tuple[str, Case], list[float]]:
    seconds: dict = {pair: [] for pair in cases}
    _tell(f"{len(cases)} cases: warming up")
    for name, case in cases:
        runners[name].measure(case, 0)
    for number in range(plan.rounds):
        _tell(f"round {number + 1} of {plan.rounds}")
        for name, case in cases if number % 2 == 0 else reversed(cases):
            seconds[name, case].append(runners[name].measure(case, plan.seconds))
    return seconds


def _measure_memory(plan: Plan, setting: str) -> list[dict[str, Any]]:
    """Measure the memory of a training step of each form in a fresh process."""
    rows = []
    plan = dataclasses.replace(plan, tasks=("train_step",))
    for model, conv in plan.networks():
        for form in (form for form in _MEMORY_FORMS if form in plan.forms):
            _tell(f"memory: {model} with {conv}, {form}")
            alone = dataclasses.replace(plan, models=(model,), convs=(conv,), forms=(form,))
            variables = {"TF_ENABLE_ONEDNN_OPTS": setting}
            with Runner(RUNNER_OF[form], alone, variables) as runner:
                try:
                    steps = [case for case in runner.prepare().jobs if case.task != "limit"]
                except ImportError:
                    continue
                if steps:
                    before, _ = runner.memory()
                    runner.measure(steps[0], 0)  # two steps
                    row = {"model": model, "conv": conv, "form": form, "before": before}
                    rows.append(row | {"peak": runner.memory()[1]})
    return rows


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
