"""Commands killed at a moment, and what they say of wrong arguments."""

import subprocess
import time

import pytest


def kill_when(path, command):
    """Run a command until a file or folder is there, and kill it at once."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not path.exists():
            assert process.poll() is None, process.communicate()
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
