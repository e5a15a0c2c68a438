"""What the commands of `serving` share: exit codes and Ctrl-C."""

import signal

import pytest

from serving.command_line import record_sigint, run_command


class Interrupted:
    """An object in whose finalizer Ctrl-C arrives."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_dropped_is_raised_again():
    with record_sigint() as check:
        check()
        Interrupted()  # the exception is dropped here
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), record_sigint():  # at once, as ever
        signal.raise_signal(signal.SIGINT)


def test_who_ignores_it_goes_on_to():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with record_sigint() as check:
        signal.raise_signal(signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


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
