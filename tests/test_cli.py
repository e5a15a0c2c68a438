"""What the commands of `training` share."""

import os
import subprocess
import sys

import pytest

from training import cli


def test_an_interrupted_command_says_so_in_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.Parser("it", "").attempt(interrupted) == 130
    assert capsys.readouterr().err.startswith("Interrupted.")


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("output", "message"),
    [(closed_pipe, ""), (full_disk, "error: [Errno 28] No space left on device\n")],
)
def test_what_cannot_be_printed_is_at_most_one_line(output, message, unbuffered):
    with os.fdopen(output(), "wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "training.train", "--list"],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (done.returncode, done.stderr) == (1, message)


def test_a_reader_that_has_enough_is_no_error():
    def close():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        cli.Parser("it", "").attempt(close)
