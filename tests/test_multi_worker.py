"""Two processes train together; this file, run as a script, is one of them."""

import json
import socket
import sys

import numpy as np
import pytest

from tests import commands
from tests.commands import finish, history

pytestmark = pytest.mark.slow

SMALL = (
    "epochs=3",
    "train_split=train[:70]",
    "test_split=test[:50]",
    "batch_size=16",
    "learning_rate=0.002",
    "sync_batch_norm=true",
    "ema=0.9",
    "clip_norm=5",
)
# Sums of several threads, and oneDNN's, have no fixed order: two whole jobs differ from each other
# by half a percent of the loss. So, they are equal to the bit.
ONE_ORDER = {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def start(workdir, dump, *arguments, **environment):
    recipe = ["--recipe", "resnet20_standard_digits", "--workdir", workdir, "--set", *SMALL]
    command = [dump, *recipe, *arguments]
    return commands.start(*command, module="tests.test_multi_worker", **ONE_ORDER, **environment)


def start_job(workdir):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        start(
            workdir,
            workdir.with_name(f"{workdir.name}.{index}.npz"),
            *("--strategy", "multi_worker"),
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(2)
    ]


def weights_of(path):
    with np.load(path) as arrays:
        return list(arrays.values())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "unbroken"
    chief, other = finish(*start_job(workdir))
    assert "Epoch 3/3" in chief
    assert "Epoch" not in other
    return workdir


def test_workers_end_with_the_same_weights(unbroken):
    commands.assert_same_arrays(*(unbroken.with_name(f"unbroken.{i}.npz") for i in range(2)))


def test_workers_equal_one_process(unbroken, tmp_path):
    finish(start(tmp_path / "one", tmp_path / "one.npz"))
    theirs, ours = history(tmp_path / "one"), history(unbroken)
    for one, other in zip(theirs, ours, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-2)
    first = weights_of(tmp_path / "one.npz")
    for one, other in zip(first, weights_of(unbroken.with_name("unbroken.0.npz")), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-2, atol=2e-3)


def test_job_that_lost_a_worker_resumes_to_the_same_end(unbroken, tmp_path):
    workdir = tmp_path / "killed"
    chief, other = start_job(workdir)
    commands.kill_when(workdir / "checkpoints" / "epoch_0001", other, watched=chief)
    try:
        output = chief.communicate(timeout=commands.DEADLINE)[0]
    finally:
        chief.kill()
    assert chief.returncode == 1, output
    assert "error: another worker is lost" in output.splitlines()[-1]
    assert not (workdir / "metrics.json").exists()

    output, _ = finish(*start_job(workdir))
    assert "Resuming after epoch " in output
    assert history(workdir) == history(unbroken)
    commands.assert_same_arrays(tmp_path / "killed.1.npz", unbroken.with_name("unbroken.1.npz"))


def main(dump, *arguments):
    from training import train
    from training.loop import network

    models = []

    def build_and_keep(*args, **kwargs):
        models.append(commands.small_network(*args, **kwargs))
        return models[-1]

    network.build = build_and_keep
    code = train.main(list(arguments))
    np.savez(dump, *models[0].get_weights())
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
