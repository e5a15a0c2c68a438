"""What the commands of `training` share."""

import os
import pathlib
import subprocess
import sys

import pytest

from training import cli


def test_an_interrupted_command_says_so_in_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.run_command(interrupted) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    assert cli.run_command(lambda: 1) == 1


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
@pytest.mark.parametrize(
    "command",
    ["train --list", "compress --list"],
)
def test_what_cannot_be_printed_is_at_most_one_line(command, output, message, unbuffered):
    module, *arguments = command.split()
    with os.fdopen(output(), "wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", f"training.{module}", *arguments],
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
        cli.attempt(cli.Parser(), close)


@pytest.mark.parametrize("output", [".", "/"])
def test_an_output_needs_a_name(output):
    with pytest.raises(ValueError, match=r"`output` must be a path of files.*Received: output="):
        cli.require_name(pathlib.Path(output))
    cli.require_name(pathlib.Path("results"))
