"""Batches of images: how large they are, in which form a model takes them, what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.clients.endpoint import Endpoint, ServerError, Signatures
from serving.clients.rest_client import RestClient

if TYPE_CHECKING:
    import numpy as np

# Servers limit a request's size, and as JSON it is up to six times as long.
MAX_BATCH_BYTES = 8 * 2**20
_DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        label: The name of the likeliest class.
        class_id: Its number.
        probability: Its probability.
        probabilities: The probabilities of all classes.
    """

    label: str
    class_id: int
    probability: float
    probabilities: tuple[float, ...]


ImageError = OSError | ValueError | ServerError
Answer = Prediction | ImageError


# The signature and the image size of a model that takes float pixels in place of files.
PixelInput = tuple[str, tuple[int, int]]


class BatchSender:
    """Sends batches to one model. Threads may share it."""

    def __init__(self, endpoint: Endpoint, labels: Sequence[str]):
        self._endpoint, self._labels = endpoint, labels
        self._pixel_input: PixelInput | None = None
        if endpoint.scheme.startswith("grpc"):
            from serving.clients.grpc_client import GrpcClient

            self.client: RestClient | GrpcClient = GrpcClient(endpoint)
        else:
            self.client = RestClient(endpoint)

    def predict_files(self, files: Sequence[bytes], signature_name: str) -> Iterator[Answer]:
        """Sends encoded images, or their pixels; yields predictions, and errors of bad images."""
        if self._pixel_input is None:
            try:
                yield from self._ask(files, signature_name)
                return
            except ServerError as error:
                signatures = self._signatures_after(error)
                self._pixel_input = find_pixel_input(signatures, signature_name)
                if self._pixel_input is None:
                    inputs = signatures.get(signature_name, {}).values()
                    if not any(dtype == "DT_STRING" for dtype, _ in inputs):
                        raise
                    yield from self._halves(files, signature_name, error)
                    return
        yield from self._predict_decoded(files, *self._pixel_input)

    def predict_pixels(self, pixels: np.ndarray, signature_name: str) -> list[Prediction]:
        """Sends pixels; as floats if that is what the model takes."""
        if self._pixel_input is None:
            try:
                return self._ask(pixels, signature_name)
            except ServerError as error:
                found = find_pixel_input(self._signatures_after(error), signature_name)
                if found is None or found[0] == signature_name:
                    raise
                self._pixel_input = found
        name, _ = self._pixel_input
        rows = array_batches(pixels.astype("float32"), self._endpoint.batch_size)
        return [answer for batch in rows for answer in self._ask(batch, name)]

    def _ask(self, batch: Sequence[bytes] | np.ndarray, signature_name: str) -> list[Prediction]:
        rows = self._endpoint.retried(partial(self.client.predict, batch, signature_name))
        return read_predictions(rows, len(batch), self._labels)

    def _signatures_after(self, error: ServerError) -> Signatures:
        """Asks what the model takes, or raises the error if it does not come from that."""
        if error.is_refusal:
            try:
                return self.client.signatures()
            except (OSError, ServerError):
                pass
        raise error

    def _halves(
        self, files: Sequence[bytes], signature_name: str, error: ServerError
    ) -> Iterator[Answer]:
        """Sends the halves of a refused batch, and their halves, until each bad image is alone."""
        if len(files) == 1:
            yield error
            return
        middle = len(files) // 2
        for half in (files[:middle], files[middle:]):
            try:
                yield from self._ask(half, signature_name)
            except ServerError as refused:
                if not refused.is_refusal:
                    raise
                yield from self._halves(half, signature_name, refused)

    def _predict_decoded(
        self, files: Sequence[bytes], signature_name: str, size: tuple[int, int]
    ) -> Iterator[Answer]:
        import numpy as np

        images: list[np.ndarray | ValueError] = []
        for file in files:
            try:
                images.append(decode(file, size))
            except ValueError as error:
                images.append(error)
        good = [image for image in images if not isinstance(image, ValueError)]
        rows = array_batches(np.stack(good), self._endpoint.batch_size) if good else ()
        answers = (answer for batch in rows for answer in self._ask(batch, signature_name))
        for image in images:
            yield image if isinstance(image, ValueError) else next(answers)


def batches(
    images: Iterable[tuple[str, bytes | ImageError]], size: int
) -> Iterator[list[tuple[str, bytes | ImageError]]]:
    """Puts at most `size` names and images, or their errors, together, fewer of large ones."""
    batch: list[tuple[str, bytes | ImageError]] = []
    batch_bytes = 0
    for name, image in images:
        image_bytes = 0 if isinstance(image, Exception) else len(image)
        if len(batch) == size or (batch and batch_bytes + image_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append((name, image))
        batch_bytes += image_bytes
    if batch:
        yield batch


def array_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cuts the rows of an array into batches."""
    fit = MAX_BATCH_BYTES // max(1, images[:1].nbytes)
    size = max(1, min(size, fit))
    for start in range(0, len(images), size):
        yield images[start : start + size]


def find_pixel_input(signatures: Signatures, signature_name: str) -> PixelInput | None:
    """Finds the signature, or else the default one, of a model that takes float images alone."""
    if any(dtype == "DT_STRING" for inputs in signatures.values() for dtype, _ in inputs.values()):
        return None
    name = signature_name if signature_name in signatures else _DEFAULT_SIGNATURE
    inputs = list(signatures.get(name, {}).values())
    if len(inputs) != 1:
        return None
    [(dtype, shape)] = inputs
    if dtype != "DT_FLOAT" or len(shape) != 4 or shape[3] != 3 or min(shape[1:]) < 1:
        return None
    return name, (shape[1], shape[2])


def decode(file: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decodes and resizes an image file as the exported graph does: float32, pixels 0 to 255."""
    import numpy as np
    from PIL import Image

    from keras_multiception import images

    channels = Image.fromarray(images.decode(file)).split()
    resized = [c.convert("F").resize(size[::-1], Image.Resampling.BILINEAR) for c in channels]
    return np.clip(np.stack([np.asarray(channel) for channel in resized], axis=-1), 0, 255)


def read_labels(labels: Sequence[str] | str | Path) -> list[str]:
    """Reads the names of classes: a list, or the path of a file with one a line."""
    if isinstance(labels, (str, Path)):
        return Path(labels).read_text(encoding="utf-8").splitlines()
    return list(labels)


def read_predictions(rows: Any, count: int, labels: Sequence[str] = ()) -> list[Prediction]:
    """Reads the server's answer in row format; `labels` are for a model that gives none."""
    try:
        found = [_prediction(row, labels) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        text = "The answer has no `label`, `class_id`, `probabilities`: does it classify images?"
        raise ServerError(text, 200) from error
    if len(found) != count:
        raise ServerError(f"The server answered for {len(found)} images instead of {count}.", 200)
    return found


def _prediction(row: Any, labels: Sequence[str]) -> Prediction:
    outputs = row if isinstance(row, dict) else {"probabilities": row}  # REST names several only
    shares = outputs["probabilities"]
    if outputs.keys() == {"probabilities"}:
        class_id = max(range(len(shares)), key=shares.__getitem__)
        label = labels[class_id] if class_id < len(labels) else str(class_id)
    else:
        class_id, label = int(outputs["class_id"]), str(outputs["label"])
    return Prediction(label, class_id, float(max(shares)), tuple(shares))
