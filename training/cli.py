"""What the commands of this package share."""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from training.recipe import parse_changes


class Parser(argparse.ArgumentParser):
    """The arguments of a command, whose errors are one line and exit code 2."""

    def __init__(self, module: str, doc: str | None) -> None:
        super().__init__(prog=f"python -m {module}", description=(doc or "").partition("\n")[0])

    def error(self, message: str | Exception) -> NoReturn:
        """Exit with a message."""
        print(f"{self.prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
        sys.exit(2)

    def add_page_options(self, default: str) -> None:
        """Add `--output`, `--note` and `--render` of a command that writes a page of results."""
        text = f"files of the results, without suffix; default: {default}"
        self.add_argument("--output", type=page_path, help=text)
        self.add_argument("--note", default="", help="what readers must know")
        text = "make tables and figures again from a result file and stop"
        self.add_argument("--render", type=pathlib.Path, metavar="JSON", help=text)

    def add_data_options(self, *names: str) -> None:
        """Add the options that say where images are and to what they are resized."""
        for name in names:
            self.add_argument(f"--{name}", **_DATA_OPTIONS[name])

    def add_changes(self, help: str) -> None:
        """Add `--set`, which may come several times."""
        options: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "KEY=VALUE"}
        self.add_argument("--set", action="extend", **options, help=help)

    def attempt(self, action: Callable[[], int]) -> int:
        """Return the exit code of a command, and say in one line what went wrong.

        Bad usage, a `ValueError`, exits with 2; files, packages, processes and numbers that fail
        return 1, an interrupt 130.
        """
        try:
            return action()
        except BrokenPipeError:  # for `run_command`
            raise
        except ValueError as error:
            self.error(error)
        except (OSError, RuntimeError, ArithmeticError, ImportError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, ImportError) and "pip install" not in text:
                text += "; pip install -e '.[training,compression]' brings it"
            print(f"{self.prog}: error: {text}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted. The same command goes on from here.", file=sys.stderr)
            return 130


_DATA_OPTIONS: dict[str, dict[str, Any]] = {
    "data_dir": {"help": "directory of the data, prepared or images by class"},
    "archive_dir": {"help": "directory of the data set's original archives"},
    "image_size": {"type": int, "default": 0, "help": "pixels to resize to (default: as it is)"},
}


def run_command(main: Callable[[], int]) -> int:
    """Run a command as this process; 1 if its output could not be written.

    A reader that has closed the pipe, as in `... | head`, needs no message.
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


def positive(text: str) -> int:
    """Return an integer of at least 1, as the type of an argument."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def page_path(text: str) -> pathlib.Path:
    """Return a path to which suffixes can be added, as the type of an argument."""
    if not (path := pathlib.Path(text)).name:
        raise argparse.ArgumentTypeError(f"must be files without suffix, as results/mine: {text}")
    return path


def parse_settings(defaults: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return settings with the changes of `--set key=value`, each of its default's type."""
    kinds = {key: type(value) for key, value in defaults.items()}
    return defaults | parse_changes(changes, kinds)


def command_of(module: str, argv: Sequence[str] | None, left_out: Collection[str] = ()) -> str:
    """Return the command of a module as a reader can repeat it, without the flags `left_out`."""
    kept, skip = [], False
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith("--"):
            skip = word.partition("=")[0] in left_out
        if not skip:
            kept.append(shlex.quote(word))
    return " ".join((f"python -m {module}", *kept))
