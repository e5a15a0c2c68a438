"""Training where TensorFlow is not installed; this file, run as a script, is such a place."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SMALL = (
    "epochs=4",
    "train_split=train[:70]",
    "test_split=test[:50]",
    "filters=4",
    "batch_size=16",
    "accumulate_steps=2",
    "mixup=0.2",
    "ema=0.9",
)
DEADLINE = 900


def start(backend, workdir):
    recipe = ["--recipe", "resnet20_multiception_digits", "--workdir", str(workdir)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_without_tensorflow", *recipe, "--set", *SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )


def finish(process):
    try:
        output = process.communicate(timeout=DEADLINE)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def last_checkpoint(workdir):
    with np.load(workdir / "checkpoints" / "epoch_0004" / "variables.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_killed_and_resumed_equals_unbroken(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    finish(start(backend, unbroken))
    versions = json.loads((unbroken / "config.json").read_text())["versions"]
    assert backend in versions
    assert not (unbroken / "logs").exists()
    assert json.loads((unbroken / "metrics.json").read_text())["epochs"] == 4

    process = start(backend, killed)
    deadline = time.monotonic() + DEADLINE
    while not (killed / "checkpoints" / "epoch_0001").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert "Resuming after epoch" in finish(start(backend, killed))
    ours, theirs = last_checkpoint(killed), last_checkpoint(unbroken)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


class WithoutTensorFlow:
    """An entry of `sys.meta_path` that finds what another one finds, but no TensorFlow."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
            return None
        return self._finder.find_spec(name, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)
    from training.train import main

    sys.exit(main(sys.argv[1:]))
