"""What the commands of this package share."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on the standard error and exit code 2."""

    def error(self, message):
        """Exit with a message, a string or an exception.

        A `BrokenPipeError` is raised again, for `run_command`.
        """
        if isinstance(message, BrokenPipeError):
            raise message
        print(f"{self.prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
        sys.exit(2)


def run_command(main):
    """Run a command as this process.

    Args:
        main: Function without arguments that returns the exit code.

    Returns:
        The exit code; 1 if what it printed could not be written, and 130 if it was interrupted,
        which is said in one line. A reader that has enough, as in `... | head`, is no error to
        speak of.
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


def require_name(output):
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


def command_of(module, argv, left_out=()):
    """Return a command as a reader can repeat it, without what belongs to one machine.

    Args:
        module: String, the module that runs it.
        argv: List of its arguments; `None` for the process's.
        left_out: Flags that belong to a machine, left out with their values.

    Returns:
        A string.
    """
    kept, skip = [], False
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("--"):
            skip = word.partition("=")[0] in left_out
        if not skip:
            kept.append(shlex.quote(word))
    return " ".join((f"python -m {module}", *kept))
