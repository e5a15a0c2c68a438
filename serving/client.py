"""Asks a TF Serving-compatible server what is in some images, over REST or gRPC.

    python -m serving.client --image FILE [FILE ...] --model_name NAME
    python -m serving.client --image FOLDER --url grpc://127.0.0.1:8500 --json > answers.json
    find . -name "*.png" | python -m serving.client --image -   # or one image file

REST works without TensorFlow; gRPC needs it.
"""

from __future__ import annotations

import io
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from serving.clients.batches import array_batches, batches
from serving.clients.command_line import CLIENT_FLAGS, parse, print_json, print_table
from serving.clients.image_files import named_images, read_image
from serving.clients.pixels import read_labels
from serving.clients.prediction import Prediction
from serving.clients.sender import Sender
from serving.clients.server_error import ServerError
from serving.clients.target import Target

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Client", "Prediction", "ServerError", "predict"]


class Client:
    """Asks one model of one server; connections stay open between requests.

    Threads may share it.

    Args:
        url: The server's URL: `http://HOST:PORT` for REST, `grpc://HOST:PORT` for gRPC.
        model_name: The model's name.
        version: The model's version; `None` for the latest.
        label: The version's label, in place of its number.
        signature_name: A signature that takes encoded images and gives `probabilities`, `class_id`
            and `label`. Where a model takes no files but float pixels, as a LiteRT one does, the
            images are decoded and resized here and sent to `serving_default`.
        labels: Names of the classes, or the path of a `labels.txt`, for a model that gives
            `probabilities` alone; the default is their numbers.
        timeout: Seconds for each request to be answered.
        retries: How often a request is sent again if the server cannot be reached, or answers
            that it has too much to do: HTTP's 429 and 503, gRPC's UNAVAILABLE and
            RESOURCE_EXHAUSTED. What failed otherwise is not sent again.
        backoff: Seconds before the second try; they double, and a random part comes to them.
        batch_size: How many images a request has at most.

    Raises:
        ValueError: If the URL or a number is none that can be used.

    Example:
        >>> with Client("grpc://127.0.0.1:8500", model_name="digits") as client:
        ...     for answer in client.stream(find_images("scans"), progress=None):
        ...         print(answer.label)
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
    ):
        for name, value, least in (
            ("retries", retries, 0),
            ("backoff", backoff, 0),
            ("batch_size", batch_size, 1),
        ):
            if not least <= value < float("inf"):
                raise ValueError(f"`{name}` must be {least} or more. Received: {name}={value}")
        target = Target(url, model_name, version, label, timeout)
        self._signature_name = signature_name
        self._batch_size = batch_size
        self._sender = Sender(target, read_labels(labels), retries, backoff, batch_size)

    def predict(
        self, images: Iterable[str | Path | bytes], progress: bool | None = False
    ) -> list[Prediction]:
        """Sends images, several in a request, and waits for all answers.

        Args:
            images: Files' paths, or encoded images as bytes: JPEG, PNG, GIF or BMP.
            progress: Whether to show a bar on the standard error; `None` for only on a terminal.

        Returns:
            A prediction for each image, in order.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If an image is none.
            ConnectionError: If the server cannot be reached.
            TimeoutError: If it does not answer in time.
            ServerError: If it answers with an error, or with something else than predictions.
        """
        return list(self.stream(images, progress))

    def stream(
        self, images: Iterable[str | Path | bytes], progress: bool | None = False
    ) -> Iterator[Prediction]:
        """Does as `predict`, but reads each file and yields each answer when it is its turn."""
        if isinstance(images, (str, Path, bytes)):
            raise ValueError(
                f"`images` must be a list of images. Received: images={reprlib.repr(images)}"
            )
        read = batches(map(read_image, images), self._batch_size)
        total = len(images) if isinstance(images, Sequence) else None
        return self._answers(read, self._signature_name, total, progress)

    def predict_arrays(self, images: np.ndarray, progress: bool | None = False) -> list[Prediction]:
        """Sends images as pixels: to `serving_uint8` if there is one, or to `serving_default`.

        Args:
            images: Array of shape `[N, H, W, C]` with values from 0 to 255.
            progress: As in `predict`.

        Returns:
            A prediction for each image.

        Raises:
            ValueError: If the array has another shape or dtype; else as `predict`.
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
        rows = array_batches(pixels, self._batch_size)
        return list(self._answers(rows, name, len(pixels), progress))

    def states(self) -> dict[int, str]:
        """Asks for the states of the model's versions, such as `{2: "AVAILABLE"}`."""
        return self._sender.states()

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

    def __exit__(self, *_) -> None:
        self.close()

    def _answers(
        self,
        requests: Iterable[list[bytes] | np.ndarray],
        signature_name: str,
        total: int | None,
        progress: bool | None,
    ) -> Iterator[Prediction]:
        disable = None if progress is None else not progress  # tqdm: `None` looks for a terminal
        with tqdm(total=total, unit="image", disable=disable) as bar:
            for batch in requests:
                yield from self._sender.predict(batch, signature_name)
                bar.update(len(batch))


def predict(
    images: Iterable[str | Path | bytes],
    url: str = "http://127.0.0.1:8501",
    *,
    model_name: str = "default",
    version: int | None = None,
    signature_name: str = "serving_bytes",
    labels: Sequence[str] | str | Path = (),
    timeout: float = 10.0,
) -> list[Prediction]:
    """Sends images to a server, by a `Client` of its own; see there for arguments and errors.

    Example:
        >>> [answer] = predict(["seven.png"], model_name="digits")
        >>> answer.label
        '7'
    """
    with Client(
        url,
        model_name=model_name,
        version=version,
        signature_name=signature_name,
        labels=labels,
        timeout=timeout,
    ) as client:
        return client.predict(images)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code: 0, 1 for an error, 130 if it was interrupted.
    """
    flags = parse(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()  # it may be closed
        named = named_images(flags.image, stdin)
        names, images = zip(*named, strict=True)
        with Client(flags.url, **{name: getattr(flags, name) for name in CLIENT_FLAGS}) as client:
            progress = flags.progress or (None if len(images) > flags.batch_size else False)
            answers = client.stream(images, progress)
            if flags.json:
                print_json(names, answers, tqdm.write)
            else:
                print_table(names, answers, flags.top, tqdm.write)
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `... | head` has enough
        return 1
    except (OSError, ValueError, ServerError) as error:
        print(f"serving.client: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
