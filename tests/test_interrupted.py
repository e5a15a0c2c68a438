"""Ctrl-C in the commands of `serving`: one line and exit code 130."""

import pytest

from serving import benchmark, client, demo, export


@pytest.mark.parametrize(
    ("command", "arguments", "works"),
    [
        (benchmark, ["--model_base_path=."], "_run"),
        (client, ["--image=a.png"], "named_images"),
        (demo, ["--run=x", "--base_path=x", "--image=a.png"], "running_server"),
        (export, ["--run=x", "--base_path=x"], "load_run"),
    ],
)
def test_ctrl_c_is_one_line(monkeypatch, capsys, command, arguments, works):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, works, interrupted)
    assert command.main(arguments) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
