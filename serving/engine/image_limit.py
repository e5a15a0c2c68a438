"""Refuses images that are small to send and huge to decode, by their header alone."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from serving.engine.errors import ServingError

MAX_IMAGE_PIXELS = 2**26
# The formats that TensorFlow decodes, by how their files start.
_FORMATS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}


def refuse_image_bombs(values: Iterable[bytes | str]) -> None:
    """Refuses encoded images of too many pixels; anything else is let through.

    Args:
        values: Strings of any kind.

    Raises:
        ServingError: INVALID_ARGUMENT, if one is an image of more than `MAX_IMAGE_PIXELS`.
    """
    for value in values:
        if isinstance(value, bytes) and (format_name := _format_of(value)):
            try:
                width, height = _size(value, format_name)
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
                continue  # TensorFlow will say what is wrong with it
            if width * height > MAX_IMAGE_PIXELS:
                raise _too_large(f"{width} x {height}")


def _format_of(value: bytes) -> str | None:
    return next((name for start, name in _FORMATS.items() if value.startswith(start)), None)


def _size(value: bytes, format_name: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(value), formats=[format_name]) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise _too_large(str(error)) from error


def _too_large(received: str) -> ServingError:
    return ServingError(
        "INVALID_ARGUMENT",
        f"An image must have at most {MAX_IMAGE_PIXELS} pixels. Received: {received}",
    )
