"""How many images go into a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Servers limit a request's size, and as JSON it is up to six times as long.
MAX_BATCH_BYTES = 8 * 2**20


def batches(images: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Puts encoded images together, in order, and takes them one by one.

    Args:
        images: The images.
        size: How many a batch has at most; large ones are fewer.

    Yields:
        The batches, none of them empty.
    """
    batch: list[bytes] = []
    batch_bytes = 0
    for image in images:
        if len(batch) == size or (batch and batch_bytes + len(image) > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(image)
        batch_bytes += len(image)
    if batch:
        yield batch


def array_batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Does as `batches` with the rows of an array."""
    fit = MAX_BATCH_BYTES // max(1, images[:1].nbytes)
    size = max(1, min(size, fit))
    for start in range(0, len(images), size):
        yield images[start : start + size]
