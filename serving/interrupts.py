"""Ctrl-C that is not lost: Python drops what is raised in a callback, as packages have them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def noting_interrupts() -> Iterator[Callable[[], None]]:
    """Notes Ctrl-C while the context is open, besides raising `KeyboardInterrupt` as ever.

    Yields:
        A function without arguments that raises `KeyboardInterrupt` if Ctrl-C was pressed: for
        where going on would matter.
    """
    came = threading.Event()

    def note(*arguments) -> None:
        came.set()
        signal.default_int_handler(*arguments)

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check  # whoever handles or ignores it goes on to
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
