"""What the commands of `serving` share: errors of one line, and exit codes."""

import pytest

from serving.command_line import run_command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("`x` must be\n1."), 2, "it: error: `x` must be 1.\n"),
        (ImportError("No x"), 2, "it: error: No x; it comes with pip install -e '.[serving]'\n"),
        (OSError("The disk is full."), 1, "it: error: The disk is full.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    def fail():
        raise error

    assert run_command("it", fail) == code
    assert capsys.readouterr().err == line
