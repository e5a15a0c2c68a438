"""What the commands of this package share."""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on the standard error and exit code 2."""

    def error(self, message: str | Exception) -> NoReturn:
        """Exit with a message; a `BrokenPipeError` is raised again, for `run_command`."""
        if isinstance(message, BrokenPipeError):
            raise message
        print(f"{self.prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
        sys.exit(2)


def run_command(main: Callable[[], int]) -> int:
    """Run a command as this process, and return its exit code.

    It is 1 if the output could not be written, which is said unless the reader has closed the pipe,
    as in `... | head`; and 130 if the command was interrupted.
    """
    try:
        try:
            return main()
        finally:
            if sys.stdout:  # it may be closed
                sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"error: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def require_name(output: pathlib.Path) -> None:
    """Raise a `ValueError` if a path, to which suffixes are added, has no last part for them."""
    if not output.name:
        raise ValueError(
            "`output` must be a path of files without their suffix, such as results/mine. "
            f"Received: output={output}"
        )


def parse_settings(defaults: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return settings with the changes of `--set key=value`, each of its default's type."""
    settings = dict(defaults)
    for change in changes:
        key, _, text = change.partition("=")
        if key not in defaults:
            raise ValueError(
                f"`set` must be of {', '.join(defaults)}, as key=value. Received: set={change}"
            )
        kind = type(defaults[key])
        try:
            if kind is tuple:
                settings[key] = tuple(map(int, text.split(",")))
            elif kind is bool:
                settings[key] = {"true": True, "false": False}[text.lower()]
            else:
                settings[key] = kind(text)
        except (ValueError, KeyError):
            raise ValueError(f"`{key}` must be as {defaults[key]!r}. Received: {change}") from None
    return settings


def command_of(module: str, argv: Sequence[str] | None, left_out: Collection[str] = ()) -> str:
    """Return the command of a module as a reader can repeat it, without the flags `left_out`."""
    kept, skip = [], False
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("--"):
            skip = word.partition("=")[0] in left_out
        if not skip:
            kept.append(shlex.quote(word))
    return " ".join((f"python -m {module}", *kept))
