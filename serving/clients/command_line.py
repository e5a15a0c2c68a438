"""What the client's command takes and how it prints answers."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import NoReturn

from serving.clients.prediction import Prediction

# Those that are arguments of `Client` of the same name.
CLIENT_FLAGS = (
    "model_name",
    "version",
    "label",
    "signature_name",
    "labels",
    "timeout",
    "retries",
    "batch_size",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The flags, with `url` made of host and port where it is not given.
    """
    parser = _Parser(
        prog="python -m serving.client",
        description="Ask a TF Serving-compatible server what is in some images.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--image",
        nargs="+",
        required=True,
        metavar="FILE",
        help="image files, folders of them, or - for the standard input: one image file, or paths "
        "of files and folders, one a line",
    )
    add("--host", default="127.0.0.1", help="the server's address (default: %(default)s)")
    add("--port", type=int, default=8501, help="the server's REST port (default: %(default)s)")
    add("--url", help="http://HOST:PORT or grpc://HOST:PORT, in place of --host and --port")
    add("--model_name", default="default", help="the model's name (default: %(default)s)")
    add("--version", type=int, help="the model's version; the latest if not given")
    add(
        "--labels",
        default=(),
        metavar="FILE",
        help="names of the classes, one a line, for a model that gives none, such as a LiteRT one",
    )
    add("--label", help="the version's label, in place of --version")
    add(
        "--signature_name",
        default="serving_bytes",
        help="the signature to call (default: %(default)s)",
    )
    add(
        "--timeout",
        type=float,
        default=10.0,
        help="seconds to wait for each request (default: %(default)s)",
    )
    add(
        "--retries",
        type=int,
        default=2,
        help="how often to send a request again to a server that is not reached or has too much "
        "to do (default: %(default)s)",
    )
    add("--batch_size", type=int, default=32, help="images per request (default: %(default)s)")
    add("--top", type=int, default=1, metavar="N", help="print the N likeliest classes")
    add("--json", action="store_true", help="print a JSON list, one image a line, not a table")
    add(
        "--progress",
        action="store_true",
        help="show a progress bar even if the standard error is no terminal",
    )
    flags = parser.parse_args(arguments)
    if not 0 < flags.port < 65536:
        parser.error(f"argument --port: must be from 1 to 65535, not {flags.port}")
    if not 0 < flags.timeout < float("inf"):
        parser.error(f"argument --timeout: must be a positive number, not {flags.timeout}")
    for name, least in (("retries", 0), ("batch_size", 1), ("top", 1)):
        if (value := getattr(flags, name)) < least:
            parser.error(f"argument --{name}: must be {least} or more, not {value}")
    if flags.version is not None and flags.label is not None:
        parser.error("argument --label: not allowed with argument --version")
    if flags.image.count("-") > 1:
        parser.error("argument --image: - may be given once")
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    flags.url = flags.url or f"http://{host}:{flags.port}"
    return flags


def print_table(
    names: Sequence[str],
    answers: Iterable[Prediction],
    top: int,
    print_line: Callable[[str], None],
) -> None:
    """Prints each answer as it comes, in columns.

    Args:
        names: The images' names.
        answers: What the server says of each.
        top: How many classes to print: the names are known of the likeliest only.
        print_line: Prints a line.
    """
    names = [_printable(name) for name in names]
    width = max(map(len, ("file", *names)))
    others = "  others" if top > 1 else ""
    headed = False
    for name, answer in zip(names, answers, strict=True):
        if not headed:
            print_line(f"{'file':<{width}}  {'label':<12}  {'class':<5}  probability{others}")
            headed = True
        label, class_id = answer.label, answer.class_id
        line = f"{name:<{width}}  {label:<12}  {class_id:<5}  {answer.probability:<11.4f}"
        print_line(f"{line}  {_others(answer, top)}".rstrip())


def _others(answer: Prediction, top: int) -> str:
    shares = answer.probabilities
    ranked = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)
    ranked = [class_id for class_id in ranked if class_id != answer.class_id][: top - 1]
    return " ".join(f"{class_id}:{shares[class_id]:.4f}" for class_id in ranked)


def print_json(
    names: Sequence[str], answers: Iterable[Prediction], print_line: Callable[[str], None]
) -> None:
    """Prints each answer as it comes, as an item of a JSON list; see `print_table`.

    The list ends well when the answers end with an error.
    """
    held = ""
    try:
        for name, answer in zip(names, answers, strict=True):
            print_line(f"{held}," if held else "[")
            held = json.dumps({"file": _printable(name), **asdict(answer)}, ensure_ascii=False)
    finally:
        if held:
            print_line(f"{held}\n]")


def _printable(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")
