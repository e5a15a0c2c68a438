"""A stopped run goes on where it was; also where TensorFlow is not installed.

This file, run as a script, trains a small network; on JAX and PyTorch without TensorFlow.
"""

import fcntl
import functools
import importlib.util
import json
import resource
import sys

import keras
import numpy as np
import pytest

from tests.commands import (
    assert_same_arrays,
    finish,
    history,
    kill_when,
    metrics,
    small_network,
    start,
)
from training.run_folder import RunFolder

SETTINGS = (  # everything that keeps state or draws at random
    *("epochs=9", "train_split=train[:160]", "test_split=test[:40]", "batch_size=16"),
    *("accumulate_steps=2", "warmup_epochs=1", "schedule_interval=step", "ema=0.9", "mixup=0.2"),
    "cutmix=1",
)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_killed_and_resumed_equals_unbroken_to_the_bit(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")

    def begin(workdir):
        arguments = ["--recipe", "resnet20_standard_digits", "--workdir", workdir]
        arguments += ["--set", *SETTINGS]
        return start(*arguments, module="tests.test_resume", KERAS_BACKEND=backend)

    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    finish(begin(unbroken))
    kill_when(killed / "checkpoints" / "epoch_0001", begin(killed))
    assert not (killed / "checkpoints" / "epoch_0009").exists()
    [output] = finish(begin(killed))
    assert "Resuming after epoch " in output
    assert "ran out of data" not in output
    last = [run / "checkpoints" / "epoch_0009" / "variables.npz" for run in (killed, unbroken)]
    assert_same_arrays(*last)
    assert history(killed) == history(unbroken)
    assert metrics(killed) == metrics(unbroken)
    assert backend in json.loads((unbroken / "config.json").read_text())["versions"]
    assert (unbroken / "logs").exists() == (backend == "tensorflow")  # TensorBoard's


def small_model():
    """A model with every kind of state: weights, moving averages, generators, optimizer."""
    inputs = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.5)(x)))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    return model


def fit(model):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)).astype("float32"), rng.integers(0, 3, 32)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def rows(count):
    return [{"epoch": epoch + 1, "loss": 0.1} for epoch in range(count)]


def test_checkpoint_holds_all_state(tmp_path):
    folder = RunFolder(tmp_path)
    unbroken = small_model()
    fit(unbroken)
    folder.save_checkpoint(unbroken, rows(1))
    fit(unbroken)

    keras.utils.set_random_seed(1)
    resumed = small_model()
    assert folder.load_checkpoint(resumed) == rows(1)
    fit(resumed)
    for ours, theirs in (
        (resumed.variables, unbroken.variables),
        (resumed.optimizer.variables, unbroken.optimizer.variables),
    ):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_last_checkpoints_are_kept(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    assert folder.load_checkpoint(model) == []
    for count in range(1, 5):
        folder.save_checkpoint(model, rows(count))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch_0003", "epoch_0004"]
    (tmp_path / "checkpoints" / ".partial-epoch_0005").mkdir()  # what a kill leaves
    assert folder.load_checkpoint(model) == rows(4)
    folder.save_checkpoint(model, rows(5))
    assert folder.load_checkpoint(model) == rows(5)


def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path, capsys):
    folder, model = RunFolder(tmp_path), small_model()
    for count in (1, 2):
        fit(model)
        folder.save_checkpoint(model, rows(count))
    last = tmp_path / "checkpoints" / "epoch_0002" / "variables.npz"
    last.write_bytes(last.read_bytes()[:500])
    assert folder.load_checkpoint(model) == rows(1)
    assert f"{last.parent}: damaged" in capsys.readouterr().err
    folder.save_checkpoint(model, rows(2))
    assert folder.load_checkpoint(model) == rows(2)
    for path in (tmp_path / "checkpoints").glob("*/history.json"):
        path.write_text("[")
    with pytest.raises(ValueError, match="`workdir` must have a checkpoint that can be read"):
        folder.load_checkpoint(model)


def test_full_disk_leaves_the_checkpoint_before(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    folder.save_checkpoint(model, rows(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            folder.save_checkpoint(model, rows(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_0001"]
    assert folder.load_checkpoint(model) == rows(1)


def test_history_follows_the_checkpoint(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    folder.save_checkpoint(model, rows(2))
    (tmp_path / "history.csv").write_text("epoch,loss\n1,0.1\n2,0.1\n3,0.1\n")
    folder.load_checkpoint(model)
    assert (tmp_path / "history.csv").read_text() == "epoch,loss\n1,0.1\n2,0.1\n"


def test_checkpoint_of_another_model_is_refused(tmp_path):
    folder, model = RunFolder(tmp_path), small_model()
    folder.save_checkpoint(model, rows(1))
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.compile("sgd", "mse")
    before = other.get_weights()
    with pytest.raises(ValueError, match="`workdir` has a checkpoint whose variables are not"):
        folder.load_checkpoint(other)
    np.testing.assert_array_equal(other.get_weights()[0], before[0])


def test_only_one_process_holds_a_folder(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by another"), RunFolder(tmp_path).lock():
            pass
    with RunFolder(tmp_path).lock():
        pass


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
    if keras.backend.backend() != "tensorflow":
        sys.meta_path[:] = map(WithoutTensorFlow, sys.meta_path)
    from training.loop import network
    from training.train import main

    network.build = functools.partial(small_network, dropout=0.5)
    sys.exit(main(sys.argv[1:]))
