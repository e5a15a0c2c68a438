"""A short soak: a real server, real clients, versions that change."""

import contextlib
import os

import pytest

from serving import soak as command
from serving.soak import Swaps, soak


@pytest.mark.slow
def test_no_answer_fails_or_is_wrong_while_versions_change():
    result = soak(seconds=20, clients=16, swap_seconds=4)
    assert result["right"] > 500
    assert result["swaps"] >= 3
    assert result.get("wrong", 0) == 0
    assert result.get("failed", 0) == 0, result["reasons"]
    first, *_, last = result["memory_mb"]
    assert last < first + 100


def test_the_soak_knows_wrong_answers(tmp_path):
    swaps = Swaps(tmp_path)
    swaps.next()
    assert swaps.is_right([2.0 + i for i in range(8)], newest_before=2)
    assert swaps.is_right([1.0 + i for i in range(8)], newest_before=2), "2 may still be loading"
    assert not swaps.is_right([9.0 + i for i in range(8)], newest_before=2)
    assert not swaps.is_right([2.0] * 8, newest_before=2)


@pytest.mark.parametrize("argument", ["--seconds=0", "--clients=0", "--swap_seconds=nan"])
def test_arguments_that_cannot_be(argument, capsys):
    assert command.main([argument]) == 2
    name, _, value = argument.removeprefix("--").partition("=")
    [line] = capsys.readouterr().err.splitlines()
    assert f"error: `{name}` must be above 0 and finite. Received: {name}={value}" in line


def test_a_server_that_does_not_start(monkeypatch, capsys):
    @contextlib.contextmanager
    def none(_):
        raise RuntimeError("The server did not start: see the message above.")
        yield

    monkeypatch.setattr(command, "running_server", none)
    assert command.main([]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("serving.soak: error: The server did not start: see the message above.")


def test_clients_end_when_it_is_interrupted(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def started(_):
        yield "http://127.0.0.1:1", "127.0.0.1:1", os.getpid()

    monkeypatch.setattr(command, "running_server", started)
    monkeypatch.setattr(command, "_resident_mb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        soak(seconds=60, clients=2, swap_seconds=0.1)
