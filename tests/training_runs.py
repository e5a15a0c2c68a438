"""Runs in processes of their own, and what these leave."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

DEADLINE = 900
TIMINGS = {"seconds", "images_per_second", "wall_seconds"}


def start(*arguments, module="training.train", **environment):
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def finish(*processes):
    """Wait for processes that have to succeed, and return what they printed."""
    outputs = []
    try:
        outputs = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def kill(process, workdir, epoch, watched=None):
    """Kill a process by SIGKILL after an epoch of a run, which another process may write."""
    deadline = time.monotonic() + DEADLINE
    while not (workdir / "checkpoints" / f"epoch_{epoch:04}").exists():
        assert (watched or process).poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def history(workdir):
    with (workdir / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def metrics(workdir):
    values = json.loads((workdir / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in TIMINGS}


def checkpoint(workdir, epoch):
    with np.load(workdir / "checkpoints" / f"epoch_{epoch:04}" / "variables.npz") as arrays:
        return dict(arrays)


def assert_same_arrays(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
