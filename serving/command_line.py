"""What the commands share: a parser, types of arguments and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable
from typing import NoReturn

MAX_PORT = 65535
_INSTALL = "pip install -e '.[serving]'"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on the standard error and exit code 2."""

    def __init__(self, module: str, description: str):
        super().__init__(prog=f"python -m {module}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Exits with a message."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole_number(least: int = 0, highest: float = math.inf) -> Callable[[str], int]:
    """The type of a flag that takes a whole number in a range."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        if not digits.isdecimal() or not least <= int(text) <= highest:
            limit = f"from {least} to {highest}" if highest < math.inf else f"at least {least}"
            raise argparse.ArgumentTypeError(f"must be {limit}, not {text!r}")
        return int(text)

    return parse


def number(positive: bool = False) -> Callable[[str], float]:
    """The type of a flag that takes a finite number, not negative or positive."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = float(text)
            if 0 <= value < math.inf and (value or not positive):
                return value
        kind = "a positive number" if positive else "a number, 0 or more"
        raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}")

    return parse


def boolean(text: str) -> bool:
    """The type of a flag that takes `true` or `false`."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text.lower() in ("true", "1")


def run_command(prog: str, action: Callable[[], int]) -> int:
    """Runs a command, with errors of one line; returns the exit code.

    It is the action's, 2 for bad usage, 1 for what failed on the way, 130 for Ctrl-C.
    """
    try:
        code = action()
        if sys.stdout:  # it may be closed
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 1
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        needs_package = isinstance(error, ImportError) and "pip install" not in str(error)
        hint = f"; it comes with {_INSTALL}" if needs_package else ""
        print(f"{prog}: error: {one_line(error)}{hint}", file=sys.stderr)
        return 2 if isinstance(error, (ImportError, ValueError)) else 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())
