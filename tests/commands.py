"""Commands in processes of their own, with a small network, and what they say and leave."""

import csv
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_multiception.layers import MulticeptionConv2D

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


def kill_when(path, process, watched=None):
    """Kill a process by SIGKILL once a file or folder is there, which another one may write."""
    deadline = time.monotonic() + DEADLINE
    while not path.exists():
        assert (watched or process).poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()


def usage_error(capsys, main, arguments):
    """Return the one line that a command says of arguments it does not take, with exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    return line


def small_network(recipe, spec, activation=None, dropout=0.0):
    """Build what takes less time than the networks of recipes, as `network.build`."""
    inputs = keras.Input(spec.image_shape)
    x = MulticeptionConv2D(4, (3, 5), strides=4)(inputs)
    x = keras.layers.ReLU()(keras.layers.Dropout(dropout)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation)(x))


def history(workdir):
    with (workdir / "history.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def metrics(workdir):
    values = json.loads((workdir / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in TIMINGS}


def assert_same_arrays(*paths):
    """Assert that two .npz files hold the same arrays, to the bit."""
    ours, theirs = map(np.load, paths)
    with ours, theirs:
        assert ours.files == theirs.files
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
