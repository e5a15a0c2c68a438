import json
import subprocess
import sys

import pytest
from commands import usage_error

from training import train
from training.loop.strategies import Execution

CLUSTER = {"worker": ["127.0.0.1:0", "127.0.0.1:0"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "tpu"}, "`strategy` must be one of none, mirrored, multi_worker. Received"),
        ({"cpu_replicas": 2}, "`cpu_replicas` must be at least 0, and 0 unless `strategy` is mir"),
        ({"strategy": "mirrored", "cpu_replicas": -1}, "`cpu_replicas` must be at least 0"),
        ({"strategy": "mirrored", "jit": "true"}, "`jit` must be .* not true with a strategy"),
        ({"steps_per_execution": 0}, "`steps_per_execution` must be at least 1. Received: s"),
        ({"loop": "gpu"}, "`loop` must be keras or device"),
        ({"loop": "device", "strategy": "mirrored"}, "`loop` must be keras or device"),
    ],
)
def test_executions_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Execution(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps({"cluster": CLUSTER}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}),
    ],
)
def test_cluster_that_is_not_told_is_refused(monkeypatch, tmp_path, capsys, text):
    monkeypatch.setenv("TF_CONFIG", text)
    message = _error_of(tmp_path, capsys, "--strategy", "multi_worker")
    assert "`TF_CONFIG` must be set in the environment and have the form" in message
    assert f"Received: TF_CONFIG={text}" in message


def test_mirrored_needs_gpus(tmp_path, capsys, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    message = _error_of(tmp_path, capsys, "--strategy", "mirrored")
    assert '`strategy` must not be "mirrored" where TensorFlow sees no GPU' in message


def test_steps_per_execution_must_divide_an_epoch(tmp_path, capsys):
    message = _error_of(tmp_path, capsys, "--steps_per_execution", "3")
    assert "`steps_per_execution` must divide the 44 steps of an epoch" in message


def _error_of(tmp_path, capsys, *arguments):
    workdir = tmp_path / "run"
    recipe = ["--recipe", "resnet20_standard_digits", "--workdir", workdir]
    message = usage_error(capsys, train.main, [*recipe, *arguments])
    assert not workdir.exists()
    return message


@pytest.mark.slow
def test_batch_must_be_shared_evenly_by_the_replicas(tmp_path):
    command = [sys.executable, "-m", "training.train", "--recipe", "resnet20_standard_digits"]
    command += ["--workdir", str(tmp_path / "run"), "--strategy", "mirrored", "--cpu_replicas", "2"]
    result = subprocess.run([*command, "--set", "batch_size=31"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "must be a multiple of the number of replicas, 2" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
