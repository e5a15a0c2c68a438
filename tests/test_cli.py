"""What the commands of `training` share."""

import pathlib

import pytest

from training import cli


def test_an_interrupted_command_says_so_in_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.run_command(interrupted) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    assert cli.run_command(lambda: 1) == 1


@pytest.mark.parametrize("output", [".", "/"])
def test_an_output_needs_a_name(output):
    with pytest.raises(ValueError, match=r"`output` must be a path of files.*Received: output="):
        cli.require_name(pathlib.Path(output))
    cli.require_name(pathlib.Path("results"))
