"""The race: a process for each form of a network, which take turns on the same cores.

A process is stopped (SIGSTOP) while it is not its turn, so that threads that spin, as those of
ONNX Runtime and OpenMP do, take no time from the others. A form that cannot be prepared is left
out, with the reason.
"""

import contextlib
import ctypes
import dataclasses
import datetime
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from training.recipe import require_fields

PEERS = ("torch", "torch_compile", "torch_onnxruntime", "torch_openvino", "plain")
FLOAT = ("keras", "saved_model", "onnxruntime", "openvino", "litert")
INT8 = ("onnxruntime_int8", "openvino_int8")
FORMS = (*PEERS, *FLOAT, *INT8)
TASKS = ("train_step", "inference")
PACKAGES = ("tensorflow", "torch", "onnxruntime", "openvino", "nncf", "ai-edge-litert")
# what limits instruction sets and threads, noted where it is set
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
MODULES = {"torch": "training.benchmarks.torch_forms", "keras": "training.benchmarks.keras_forms"}
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG


class Case(typing.NamedTuple):
    """What is measured of a form of a network: a task on a batch."""

    task: str
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    models: tuple[str, ...]
    convs: tuple[str, ...]
    tasks: tuple[str, ...]
    forms: tuple[str, ...]
    batch_size: int = 128  # of a training step
    inference_batch_sizes: tuple[int, ...] = (1, 8, 32, 128)
    rounds: int = 7  # how often each form has its turn
    seconds: float = 0.3  # what a turn takes at least
    threads: int = 0  # cores that every process may use; 0 for all

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0))
        object.__setattr__(self, "threads", self.threads or cores)
        checks = (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("inference_batch_sizes", min(self.inference_batch_sizes) >= 1, "at least 1 each"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("seconds", 0 <= self.seconds <= 60, "between 0 and 60"),
            ("threads", 1 <= self.threads <= cores, f"at most the number of cores, {cores}"),
        )
        require_fields(self, checks)


def measure(plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the results, fit for JSON, each time that a case of a network is done.

    `training.benchmarks.page.summarize` completes the results.
    """
    with _process(plan) as call:
        machine = call(_describe)
    load = os.getloadavg()[0]
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "plan": dataclasses.asdict(plan),
        "machine": machine | {"threads": plan.threads},
        "left_out": [],
        "rows": [],
    }
    for model, conv in itertools.product(plan.models, plan.convs):
        with contextlib.ExitStack() as stack:
            races: dict[Case, dict[str, Callable]] = {}
            for form in plan.forms:
                _tell(f"{model} with {conv}: building {form}")
                call = stack.enter_context(_process(plan))
                try:
                    module = MODULES["torch" if form.startswith("torch") else "keras"]
                    cases = call(_prepare, module, form, model, conv, plan)
                except Exception as error:  # whatever a framework may raise
                    reason = " ".join(str(error).split()) or repr(error)
                    results["left_out"].append(f"{form} of {model} with {conv}: {reason}")
                    _tell(f"left out {results['left_out'][-1]}")
                    continue
                for case in cases:
                    races.setdefault(case, {})[form] = call
            for case, racers in races.items():
                _tell(f"{model} with {conv}: {case.task}, batch {case.batch_size}")
                for form, seconds in _take_turns(plan, case, racers).items():
                    row = {"model": model, "conv": conv, **case._asdict()}
                    results["rows"].append(row | {"form": form, "seconds": seconds})
                loads = [round(value, 2) for value in (load, os.getloadavg()[0])]
                yield results | {"load_before_and_after": loads}
    if not results["rows"]:
        raise ValueError(
            f"`forms` must leave something to measure: {'; '.join(results['left_out'])}. "
            f"Received: forms={', '.join(plan.forms)}"
        )


def _take_turns(plan: Plan, case: Case, racers: Mapping[str, Callable]) -> dict[str, list[float]]:
    """Time every form once a round, in the other order every other round."""
    seconds: dict[str, list[float]] = {form: [] for form in racers}
    for number in range(plan.rounds):
        for form in list(racers)[:: -1 if number % 2 else 1]:
            seconds[form].append(racers[form](_time, case, plan.seconds))
    return seconds


@contextlib.contextmanager
def _process(plan: Plan) -> Iterator[Callable]:
    """Start a process, and give a function that calls others in it; in between it is stopped."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _begin, (plan.threads,)) as pool:
        process = pool.submit(os.getpid).result()

        def send(what: signal.Signals) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, what)

        def call(function: Callable, *arguments: Any) -> Any:
            send(signal.SIGCONT)
            try:
                return pool.submit(function, *arguments).result()
            finally:
                send(signal.SIGSTOP)

        try:
            yield call
        finally:
            send(signal.SIGCONT)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# What follows runs in the process of a form.

_CALLS: dict[Case, Callable[[], object]] = {}


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process,
    ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)  # even if it is stopped
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _describe() -> dict[str, Any]:
    from keras_multiception.machine import describe

    machine = describe(PACKAGES)
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return machine["hardware"] | {"versions": machine["versions"], "variables": variables}


def _prepare(module: str, form: str, model: str, conv: str, plan: Plan) -> Sequence[Case]:
    """Make what is measured, and do it once, which compiles; it stays in this process."""
    for case, call in importlib.import_module(module).prepare(form, model, conv, plan):
        call()
        _CALLS[case] = call
    return list(_CALLS)


def _time(case: Case, seconds: float) -> float:
    """Return the mean time of calls for some seconds, after a fourth of that without the clock."""
    for limit in (seconds / 4, seconds):
        # as keras_multiception.machine, which loads Keras
        calls, start, elapsed = 0, time.perf_counter(), 0.0
        while not calls or elapsed < limit:
            _CALLS[case]()
            calls += 1
            elapsed = time.perf_counter() - start
    return elapsed / calls
