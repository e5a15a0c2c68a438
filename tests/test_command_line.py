"""Ctrl-C that meets a callback, where Python drops what is raised."""

import signal

import pytest

from serving.command_line import record_sigint


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


def test_it_is_raised_at_once_as_ever():
    with pytest.raises(KeyboardInterrupt), record_sigint():
        signal.raise_signal(signal.SIGINT)


def test_who_ignores_it_goes_on_to():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with record_sigint() as check:
        signal.raise_signal(signal.SIGINT)
        check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
