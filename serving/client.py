"""Asks a TF Serving-compatible server what is in some images, over REST or gRPC.

    python -m serving.client --image FILE [FILE ...] --model_name NAME
    python -m serving.client --image FOLDER --url grpc://127.0.0.1:8500 --json > answers.json
    find . -name "*.png" | python -m serving.client --image -   # or one image file

REST works without TensorFlow; gRPC needs it.
"""

from __future__ import annotations

import argparse
import inspect
import io
import itertools
import json
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from serving.clients.endpoint import Endpoint, ServerError
from serving.clients.image_batches import (
    Answer,
    BatchSender,
    ImageError,
    Prediction,
    array_batches,
    batches,
    read_labels,
)
from serving.clients.image_files import named_images, read_image
from serving.command_line import MAX_PORT, Parser, number, one_line, run_command, whole_number

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Client", "Prediction", "ServerError", "predict"]

_MODULE = "serving.client"


class Client:
    """Asks one model of one server; connections stay open between requests.

    Threads may share it.

    Args:
        url: `http://HOST:PORT` for REST, `grpc://HOST:PORT` for gRPC; `https://` and `grpcs://`
            over TLS. gRPC asks all addresses of a name in turns.
        model_name: The model's name.
        version: The model's version; `None` for the latest.
        label: The version's label, in place of its number.
        signature_name: A signature from encoded images to `probabilities`, `class_id` and `label`.
            For a model that takes float pixels only, as a LiteRT one, images are decoded and
            resized here and sent to `serving_default`.
        labels: Names of the classes, or the path of a `labels.txt`, for a model that gives
            `probabilities` alone; the default is their numbers.
        timeout: Seconds for each request to be answered.
        retries: How often a request is sent again if the server cannot be reached or is overloaded
            (HTTP's 429 and 503, gRPC's UNAVAILABLE and RESOURCE_EXHAUSTED).
        backoff: Seconds before the first retry; they double each time, up to 10, plus a random
            part. A server's `Retry-After` may make the wait longer.
        batch_size: The most images in a request.
        ca_certificate: A PEM file of certificates to trust, in place of the default ones.
        client_certificate: A PEM file of a certificate for servers that verify their clients.
        client_key: The PEM file of its key; `None` if that is in the same file.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> with Client(url, model_name="digits") as client:  # such as "grpc://127.0.0.1:8500"
        ...     for answer in client.stream(["digit.png", "photo.jpg"]):
        ...         print(answer.label if isinstance(answer, Prediction) else answer)
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8501",
        *,
        model_name: str = "default",
        version: int | None = None,
        label: str | None = None,
        signature_name: str = "serving_bytes",
        labels: Sequence[str] | str | Path = (),
        timeout: float = 10.0,
        retries: int = 2,
        backoff: float = 0.25,
        batch_size: int = 32,
        ca_certificate: str | Path | None = None,
        client_certificate: str | Path | None = None,
        client_key: str | Path | None = None,
    ):
        self._endpoint = Endpoint(
            *(url, model_name, version, label, timeout, retries, backoff, batch_size),
            *(ca_certificate, client_certificate, client_key),
        )
        self._signature_name = signature_name
        self._sender = BatchSender(self._endpoint, read_labels(labels))

    def predict(
        self, images: Iterable[str | Path | bytes], progress: bool | None = False
    ) -> list[Prediction]:
        """Sends images, several in a request, and waits for all answers.

        Args:
            images: Files' paths, or encoded images as bytes. JPEG and PNG are sent as they are,
                other formats as PNG.
            progress: Whether to show a progress bar; `None` for only on a terminal.

        Returns:
            A prediction for each image, in order.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If a file is not an image.
            ConnectionError: If the server cannot be reached.
            TimeoutError: If it does not answer in time.
            ServerError: If it answers with an error, or with something else than predictions.
        """
        answers = []
        for answer in self.stream(images, progress):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def stream(
        self, images: Iterable[str | Path | bytes], progress: bool | None = False
    ) -> Iterator[Answer]:
        """Does as `predict`, but reads each file and yields each answer when it is its turn.

        For a bad image it yields the error, which names the image. Errors of the server are raised.
        """
        if isinstance(images, (str, Path, bytes)):
            raise ValueError(
                f"`images` must be a list of images. Received: images={reprlib.repr(images)}"
            )
        return self._answers(images, progress)

    def predict_arrays(self, images: np.ndarray, progress: bool | None = False) -> list[Prediction]:
        """Sends images as pixels: to `serving_uint8` if there is one, or to `serving_default`.

        Args:
            images: Array of shape `[N, H, W, C]`, uint8 or floats from 0 to 255.
            progress: As in `predict`.

        Returns:
            A prediction for each image. Errors are raised as by `predict`.
        """
        import numpy as np

        images = np.asarray(images)
        if images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
            raise ValueError(
                "`images` must be an array [N, H, W, C] of uint8 or floats. "
                f"Received: images of shape {images.shape} and dtype {images.dtype}"
            )
        pixels = np.ascontiguousarray(images, None if images.dtype == np.uint8 else np.float32)
        name = "serving_uint8" if pixels.dtype == np.uint8 else "serving_default"
        answers: list[Prediction] = []
        with _progress_bar(len(pixels), progress) as bar:
            for batch in array_batches(pixels, self._endpoint.batch_size):
                answers += self._sender.predict_pixels(batch, name)
                bar.update(len(batch))
        return answers

    def states(self) -> dict[int, str]:
        """Asks for the states of the model's versions, for example `{2: "AVAILABLE"}`."""
        return self._endpoint.retried(self._sender.client.states)

    def is_ready(self) -> bool:
        """Asks once whether a version can answer; an error is a no."""
        try:
            return "AVAILABLE" in self._sender.client.states().values()
        except (OSError, ServerError):
            return False

    def close(self) -> None:
        """Closes the connections."""
        self._sender.client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(
        self, images: Iterable[str | Path | bytes], progress: bool | None
    ) -> Iterator[Answer]:
        total = len(images) if isinstance(images, Sequence) else None
        with _progress_bar(total, progress) as bar:
            named = map(_read, itertools.count(), images)
            for batch in batches(named, self._endpoint.batch_size):
                files = [file for _, file in batch if not isinstance(file, Exception)]
                answers = self._sender.predict_files(files, self._signature_name)
                for name, file in batch:
                    answer = file if isinstance(file, Exception) else next(answers)
                    if isinstance(answer, Exception) and name not in str(answer):
                        answer.args = (f"{name}: {answer}",)
                    bar.update()
                    yield answer


def _read(index: int, image: str | Path | bytes) -> tuple[str, bytes | ImageError]:
    name = f"image {index}" if isinstance(image, (bytes, bytearray, memoryview)) else str(image)
    try:
        return name, read_image(image)
    except (OSError, ValueError) as error:
        return name, error


def _progress_bar(total: int | None, progress: bool | None) -> tqdm:
    disable = None if progress is None else not progress  # tqdm: `None` looks for a terminal
    return tqdm(total=total, unit="image", disable=disable)


def predict(
    images: Iterable[str | Path | bytes], url: str = "http://127.0.0.1:8501", **options: Any
) -> list[Prediction]:
    """Sends images to a server once; `options` are the other arguments of `Client`.

    Example:
        >>> [answer] = predict(["digit.png"], url, model_name="digits")
        >>> answer.label, answer.probability
        >>> try:
        ...     predict(["digit.png"], url, model_name="letters")
        ... except ServerError as error:
        ...     print(error.status)
        404
    """
    with Client(url, **options) as client:
        return client.predict(images)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(_MODULE, "Ask a TF Serving-compatible server what is in some images.")
    add, default = parser.add_argument, "(default: %(default)s)"
    add(
        "--image",
        nargs="+",
        required=True,
        metavar="FILE",
        help="image files, folders of them, or - for the standard input: one image file, or paths "
        "of files and folders, one a line",
    )
    add("--host", default="127.0.0.1", help=f"the server's address {default}")
    add("--port", type=whole_number(1, MAX_PORT), default=8501, help=f"its REST port {default}")
    url_help = "http://HOST:PORT or grpc://HOST:PORT, https:// and grpcs:// over TLS"
    add("--url", help=f"{url_help}, in place of --host and --port")
    add("--ca_certificate", metavar="FILE", help="certificates to trust over TLS, a PEM file")
    client_help = "a certificate for servers that verify clients, a PEM file, with its key or"
    add("--client_certificate", metavar="FILE", help=f"{client_help} with --client_key")
    add("--client_key", metavar="FILE", help="the PEM file of that certificate's key")
    add("--model_name", default="default", help=f"the model's name {default}")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, help="the model's version; the latest if not given")
    version.add_argument("--label", help="the version's label, in place of --version")
    labels_help = "names of the classes, one a line, for a model that gives none, as a LiteRT one"
    add("--labels", default=(), metavar="FILE", help=labels_help)
    signature_help = f"the signature to call {default}"
    add("--signature_name", default="serving_bytes", help=signature_help)
    add("--timeout", type=number(True), default=10.0, help=f"seconds for each request {default}")
    retries_help = f"how often to send a request again to an overloaded server {default}"
    add("--retries", type=whole_number(), default=2, help=retries_help)
    add("--batch_size", type=whole_number(1), default=32, help=f"images per request {default}")
    add("--top", type=whole_number(1), default=1, metavar="N", help="print the N likeliest classes")
    add("--json", action="store_true", help="print a JSON list, one image a line, not a table")
    add("--progress", action="store_true", help="show a progress bar without a terminal too")
    flags = parser.parse_args(arguments)
    if flags.image.count("-") > 1:
        parser.error("argument --image: - may be given once")
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    flags.url = flags.url or f"http://{host}:{flags.port}"
    return flags


def _ask(flags: argparse.Namespace) -> int:
    """Prints each answer as it comes; returns 1 if an image has none."""
    stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()  # it may be closed
    found = named_images(flags.image, stdin)
    names = [os.fsencode(name).decode(errors="replace") for name, _ in found]
    own = inspect.signature(Client).parameters
    with Client(**{name: value for name, value in vars(flags).items() if name in own}) as client:
        progress = flags.progress or (None if len(found) > flags.batch_size else False)
        answers = client.stream([image for _, image in found], progress)
        if flags.json:
            return _print_json(names, answers)
        return _print_table(names, answers, flags.top)


def _print_table(names: Sequence[str], answers: Iterable[Answer], top: int) -> int:
    """Prints columns; of `top` classes only the likeliest has a name."""
    width, code = max(map(len, ("file", *names))), 0
    header = f"{'file':<{width}}  {'label':<12}  {'class':<5}  probability"
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Exception):
            code = _print_error(answer)
            continue
        if header:
            tqdm.write(header + ("  others" if top > 1 else ""))
            header = ""
        label, class_id, shares = answer.label, answer.class_id, answer.probabilities
        others = sorted(set(range(len(shares))) - {class_id}, key=shares.__getitem__, reverse=True)
        more = " ".join(f"{other}:{shares[other]:.4f}" for other in others[: top - 1])
        line = f"{name:<{width}}  {label:<12}  {class_id:<5}  {answer.probability:<11.4f}  {more}"
        tqdm.write(line.rstrip())
    return code


def _print_json(names: Sequence[str], answers: Iterable[Answer]) -> int:
    """Prints a JSON list, one image a line, which ends well if the server fails."""
    held, code = "", 0
    try:
        for name, answer in zip(names, answers, strict=True):
            tqdm.write(f"{held}," if held else "[")
            if isinstance(answer, Exception):
                code = _print_error(answer)
                row = {"error": one_line(answer)}
            else:
                row = asdict(answer)
            held = json.dumps({"file": name, **row}, ensure_ascii=False)
    finally:
        if held:
            tqdm.write(f"{held}\n]")
    return code


def _print_error(error: Exception) -> int:
    tqdm.write(f"{_MODULE}: error: {one_line(error)}", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parse(arguments)
    return run_command(_MODULE, lambda: _ask(flags))


if __name__ == "__main__":
    sys.exit(main())
