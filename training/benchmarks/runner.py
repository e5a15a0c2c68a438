"""What a benchmark measures, and its runners: processes that take turns on the same cores.

A runner is an entry in `RUNNERS` and a module with a function `prepare(plan) -> Prepared`. It is
imported in a process of its own, so that no two frameworks share one. A package that a runner
lacks leaves its forms out.
"""

import dataclasses
import datetime
import importlib
import itertools
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import time
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from training.recipe import POLICIES, require_fields


class Runner(typing.NamedTuple):
    """A module, and the choices of `--forms` that it measures, each with its forms."""

    module: str
    choices: dict[str, tuple[str, ...]]


_KERAS_FORMS = ("plain", "fast", "separate", "merged", "dense", "auto", "saved_model")
RUNNERS = {
    "keras": Runner(
        "training.benchmarks.keras_runner",
        {form: (form,) for form in _KERAS_FORMS} | {"litert": ("litert", "litert_threads")},
    ),
    "torch": Runner(
        "training.benchmarks.torch_runner",
        {"torch": ("torch_channels_last", "torch_channels_first")},
    ),
}
CHOICES = {name: forms for runner in RUNNERS.values() for name, forms in runner.choices.items()}
RUNNER_OF = {
    form: name
    for name, runner in RUNNERS.items()
    for forms in runner.choices.values()
    for form in forms
}
TASKS = ("train_step", "fit", "inference")
_MEMORY_FORMS = ("plain", "fast", "torch_channels_last")


class Case(typing.NamedTuple):
    """One thing that is measured: a form of a network at a task, or a limit of the machine."""

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
    """What to measure, and how long."""

    models: tuple[str, ...]
    convs: tuple[str, ...]
    tasks: tuple[str, ...]
    forms: tuple[str, ...]
    batch_size: int = 128  # of a training step
    inference_batch_sizes: tuple[int, ...] = (1, 32, 128)
    steps: int = 5  # of one `fit`
    rounds: int = 7  # how often each case has its turn
    seconds: float = 0.3  # what a turn takes at least
    threads: int = 0  # cores that every process may use; 0 for all
    dtype_policy: str = "float32"  # of Keras; PyTorch's networks stay float32
    memory: bool = True  # whether to measure the memory of training steps too

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
        )
        require_fields(self, checks)

    def networks(self) -> list[tuple[str, str]]:
        """Return the pairs of a network and a type of convolution."""
        return list(itertools.product(self.models, self.convs))


@dataclasses.dataclass
class Prepared:
    """What a runner has ready: jobs, its machine, sentences on what it left out, and work.

    `work` goes from the first four fields of a `Case` to the `flop` and `bytes` that it takes.
    """

    jobs: dict[Case, Job]
    machine: dict[str, Any]
    left_out: list[str] = dataclasses.field(default_factory=list)
    work: dict[tuple, dict[str, float]] = dataclasses.field(default_factory=dict)


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the results, fit for JSON, each time that they have grown.

    All forms of a network at a task take turns, the order reversed every round, and so do the
    limits of the machine. `training.benchmarks.page.summarize` completes the results.
    """
    with ExitStack() as stack:
        runners, prepared, left_out = _start(stack, plan)
        groups: dict[tuple, list] = {}
        for name, each in prepared.items():
            for case in each.jobs:
                groups.setdefault(case[:4], []).append((name, case))
        limits = [pair for key in list(groups) if key[0] == "limit" for pair in groups.pop(key)]
        if not groups:
            raise ValueError(
                f"`forms` must leave something to measure: {'; '.join(left_out)}. "
                f"Received: forms={', '.join(plan.forms)}"
            )
        before = os.getloadavg()[0]
        results: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "plan": dataclasses.asdict(plan),
            "environments": {name: each.machine for name, each in prepared.items()},
            "left_out": left_out,
            "rows": [],
            "memory": [],
        }
        for number, (key, cases) in enumerate(groups.items(), 1):
            _tell(f"{number} of {len(groups)}: {' '.join(map(str, key))}")
            cases = sorted(cases, key=lambda pair: list(RUNNER_OF).index(pair[1].form))
            work = prepared["keras"].work.get(key) if "keras" in prepared else None
            for (name, case), seconds in _take_turns(plan, runners, limits + cases).items():
                row = {"side": name, "work": work, "seconds": seconds}
                results["rows"].append(case._asdict() | row)
            loads = [round(load, 2) for load in (before, os.getloadavg()[0])]
            yield results | {"load_before_and_after": loads}
    if plan.memory:
        forms = [
            form for form in _MEMORY_FORMS if form in plan.forms and RUNNER_OF[form] in runners
        ]
        results["memory"] = list(_measure_memory(plan, forms))
        yield results | {"load_before_and_after": loads}


def _start(
    stack: ExitStack, plan: Plan
) -> tuple[dict[str, Callable], dict[str, Prepared], list[str]]:
    """Start the runners of a plan's forms."""
    runners, prepared, left_out = {}, {}, []
    for name in RUNNERS:
        forms = tuple(form for form in plan.forms if RUNNER_OF[form] == name)
        if not forms:
            continue
        _tell(f"building: {name}")
        runner = stack.enter_context(_process(name, plan))
        try:
            own = dataclasses.replace(plan, forms=forms)
            prepared[name] = runner(_prepare, RUNNERS[name].module, own)
        except ImportError as error:
            left_out.append(f"{', '.join(forms)}: {error}")
            continue
        runners[name] = runner
        left_out += prepared[name].left_out
    return runners, prepared, left_out


@contextmanager
def _process(name: str, plan: Plan) -> Iterator[Callable]:
    """Start a runner's process, and give a function that calls others in it.

    What `prepare` may raise, a `ValueError` of the plan or an `ImportError`, comes as it is; any
    other failure of the process is a `RuntimeError`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _begin, (plan.threads,)) as pool:

        def call(function: Callable, *arguments: Any) -> Any:
            try:
                return pool.submit(function, *arguments).result()
            except (ValueError, ImportError):
                raise
            except Exception as error:
                raise RuntimeError(f"The process of the {name} runner failed: {error!r}") from error

        yield call


def _take_turns(
    plan: Plan, runners: dict[str, Callable], cases: list[tuple[str, Case]]
) -> dict[tuple[str, Case], list[float]]:
    seconds: dict = {pair: [] for pair in cases}
    for name, case in cases:
        runners[name](_measure, case, 0)  # warms up
    for number in range(plan.rounds):
        for name, case in cases if number % 2 == 0 else reversed(cases):
            seconds[name, case].append(runners[name](_measure, case, plan.seconds))
    return seconds


def _measure_memory(plan: Plan, forms: list[str]) -> Iterator[dict[str, Any]]:
    """Measure the memory of a training step of each form in a fresh process."""
    plan = dataclasses.replace(plan, tasks=("train_step",))
    for (model, conv), form in itertools.product(plan.networks(), forms):
        _tell(f"memory: {model} with {conv}, {form}")
        alone = dataclasses.replace(plan, models=(model,), convs=(conv,), forms=(form,))
        with _process(RUNNER_OF[form], alone) as runner:
            sizes = runner(_memory_of_a_step, RUNNERS[RUNNER_OF[form]].module, alone)
        if sizes:
            yield {"model": model, "conv": conv, "form": form} | sizes


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# What follows runs in the process of a runner.

_JOBS: dict[Case, Job] = {}


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _prepare(module: str, plan: Plan) -> Prepared:
    """Make everything to be measured; the jobs stay here, and only their cases are returned."""
    prepared = importlib.import_module(module).prepare(plan)
    _JOBS.update(prepared.jobs)
    return dataclasses.replace(prepared, jobs=dict.fromkeys(_JOBS))


def _measure(case: Case, seconds: float) -> float:
    return run_once(_JOBS[case], seconds)


def run_once(job: Job, seconds: float) -> float:
    """Do a job once without the clock, so that caches and memory are its own, then with it."""
    # as keras_multiception.machine, which loads Keras, and a runner may be of another framework
    job.call()
    calls, start, elapsed = 0, time.perf_counter(), 0.0
    while not calls or elapsed < seconds:
        job.call()
        calls += 1
        elapsed = time.perf_counter() - start
    return elapsed / (calls * job.units)


def _memory_of_a_step(module: str, plan: Plan) -> dict[str, int]:
    steps = [case for case in _prepare(module, plan).jobs if case.task != "limit"]
    if not steps:
        return {}
    before = _memory("VmRSS")
    run_once(_JOBS[steps[0]], 0)  # two steps
    return {"before": before, "peak": _memory("VmHWM")}


def _memory(name: str) -> int:
    """Read the resident memory of this process, now or at its highest, in bytes."""
    # the kernel's own mark of this program; `ru_maxrss` begins with that of the parent
    (size,) = re.findall(rf"{name}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return 1024 * int(size)
