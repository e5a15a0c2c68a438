"""Sends a batch of images in the form that the model takes, and again where that may help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from serving.clients.batches import array_batches
from serving.clients.pixels import PixelInput, decode, find_pixel_input
from serving.clients.prediction import Prediction, read_predictions
from serving.clients.rest_client import RestClient
from serving.clients.retries import retried
from serving.clients.server_error import ServerError
from serving.clients.target import Target

if TYPE_CHECKING:
    import numpy as np

# How a server says that a request does not fit its signatures; the last two are gRPC's numbers.
_MISFITS = (HTTPStatus.BAD_REQUEST, 3, 9)


class Sender:
    """Sends batches to one model. Threads may share it.

    Args:
        target: What is asked.
        labels: Names of the classes for a model that gives none.
        retries: How often a request is sent again.
        backoff: Seconds before the second try.
        batch_size: How many images a request has at most.
    """

    def __init__(
        self, target: Target, labels: Sequence[str], retries: int, backoff: float, batch_size: int
    ):
        self._labels, self._batch_size = labels, batch_size
        self._retries, self._backoff = retries, backoff
        self._pixel_input: PixelInput | None = None
        if target.scheme == "grpc":
            from serving.clients.grpc_client import GrpcClient

            self.client: RestClient | GrpcClient = GrpcClient(target)
        else:
            self.client = RestClient(target)

    def predict(
        self, batch: Sequence[bytes] | np.ndarray, signature_name: str
    ) -> Iterator[Prediction]:
        """Sends a batch; if the model takes float pixels only, as those.

        Args:
            batch: Encoded images, or an array of pixels.
            signature_name: The signature.

        Yields:
            A prediction for each image.

        Raises:
            OSError: If the server cannot be reached or does not answer in time.
            ValueError: If a file cannot be decoded here.
            ServerError: If it answers with an error, or with something else than predictions.
        """
        if self._pixel_input is None:
            try:
                yield from self._ask(batch, signature_name)
                return
            except ServerError as error:
                self._pixel_input = self._find_pixel_input(batch, signature_name, error)
        name, size = self._pixel_input.signature_name, self._pixel_input.size
        pixels = decode(batch, size) if isinstance(batch, Sequence) else batch.astype("float32")
        for rows in array_batches(pixels, self._batch_size):
            yield from self._ask(rows, name)

    def states(self) -> dict[int, str]:
        """Asks for the states of the model's versions."""
        return retried(self.client.states, self._retries, self._backoff)

    def _ask(self, batch: Sequence[bytes] | np.ndarray, signature_name: str) -> list[Prediction]:
        send = partial(self.client.predict, batch, signature_name)
        rows = retried(send, self._retries, self._backoff)
        return read_predictions(rows, len(batch), self._labels)

    def _find_pixel_input(self, batch, signature_name: str, error: ServerError) -> PixelInput:
        """Asks what the model takes, and raises the error if it does not come from that."""
        found = None
        if error.status in _MISFITS:
            try:
                found = find_pixel_input(self.client.signatures(), signature_name)
            except (OSError, ServerError):
                raise error from None
        is_pixels = not isinstance(batch, Sequence)
        if found is None or (is_pixels and found.signature_name == signature_name):
            raise error
        return found
