"""The runs of a study, each in a process of its own, several at a time if that is asked for.

A study keeps no state but the run folders: a run with metrics is finished, any other one is
started or resumed. Beside each folder lies the log of its training, `seed_N.log`; whoever trains
the run holds a lock on it, so that two studies in one folder share the runs between them. A
training process ends with the study that started it, however that ends.
"""

import fcntl
import multiprocessing
import multiprocessing.connection
import os
import shutil
import subprocess
import sys
import threading
import time

_SPAWN = multiprocessing.get_context("spawn")


def find_gpus():
    """Return the GPUs as `CUDA_VISIBLE_DEVICES` names them, without occupying any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    return result.stdout.split() if result.returncode == 0 else []


def train_runs(runs, gpus, parallel, data_dir, on_finish, loop="keras"):
    """Train the runs that are not finished.

    Args:
        runs: List of `Run`, in the order to start them.
        gpus: Names of GPUs, which the processes get in turn; empty for the CPU.
        parallel: Integer, how many processes may train at a time; on a CPU they share its cores.
        data_dir: Directory of the data, as in `training.data.load`.
        on_finish: Function to call whenever a run has been finished.
        loop: As in `training.loop.strategies.Execution`.
    """
    waiting = [run for run in runs if not run.folder.metrics()]
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished.", flush=True)
    shared = parallel > max(1, len(gpus))
    places: list = _share(gpus, parallel) if gpus else _share_cores(parallel)
    busy: dict[_Training, str | set[int] | None] = {}
    try:
        while waiting or busy:
            if waiting and places:
                run = waiting.pop(0)
                log = _claim(run)
                if log:
                    place = places.pop(0)
                    busy[_Training(run, log, place, shared, data_dir, loop)] = place
                continue
            multiprocessing.connection.wait([training.process.sentinel for training in busy])
            for training in [each for each in busy if not each.process.is_alive()]:
                places.append(busy.pop(training))
                if training.report():
                    on_finish()
    finally:
        for training in busy:
            training.process.terminate()
            training.process.join()


def _share(gpus, parallel):
    """Return the GPU of each process."""
    return [gpus[slot % len(gpus)] for slot in range(parallel)]


def _share_cores(parallel):
    """Return the cores of each process: none for all of them.

    Two processes with a core each train more images a second than one on both.
    """
    if parallel == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * parallel
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[slot % len(cores) :: parallel]) for slot in range(parallel)]


def _claim(run):
    """Return the run's log, locked, or `None` if the run is finished or another study's."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    log = run.path.with_suffix(".log").open("a")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{run}: another study is training it", flush=True)
        return None
    return None if run.folder.metrics() else log


class _Training:
    """A run that is being trained in a process of its own."""

    def __init__(self, run, log, place, shared, data_dir, loop):
        print(f"{run}: {'resumed' if run.folder.config() else 'started'}", flush=True)
        self._run, self._log, self._begin = run, log, time.monotonic()
        arguments = ["--workdir", str(run.path), "--loop", loop, *run.arguments]
        if data_dir:
            arguments += ["--data_dir", str(data_dir)]
        self.process = _SPAWN.Process(target=_train, args=(arguments, log.name, place, shared))
        self.process.start()

    def report(self):
        """Say how the run ended, let go of it, and return whether it is finished."""
        self.process.join()
        metrics = self._run.folder.metrics()
        if metrics:
            minutes = (time.monotonic() - self._begin) / 60
            message = f"{100 * (1 - metrics['test']['top1']):.2f} % error, {minutes:.1f} minutes"
        else:
            with open(self._log.name, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file if line.strip()]
            message = (
                f"FAILED with exit code {self.process.exitcode}, others go on: "
                f"{lines[-1] if lines else 'no message'} (all of it in {self._log.name})"
            )
        print(f"{self._run}: {message}", flush=True)
        self._log.close()
        return metrics is not None


def _train(arguments, log, place, shared):
    """Run the train command in this new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    sys.stdout = sys.stderr  # which is not buffered
    if isinstance(place, str):
        os.environ["CUDA_VISIBLE_DEVICES"] = place
    elif place:
        os.sched_setaffinity(0, place)
    if shared:  # several processes on one GPU: each takes the memory that it needs
        os.environ |= {
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
    from training.train import main

    sys.exit(main(arguments))


def _end_with_parent():
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a process that `_Training` started
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
