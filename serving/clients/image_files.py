"""Which image files are meant, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
)
STDIN = "-"
# JPEG and PNG, which exported graphs decode: written here too because `keras_multiception.images`
# takes seconds to import.
_GRAPH_FORMATS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def find_images(path: str | Path) -> list[Path]:
    """Finds the image files in a folder and its subfolders, in the order of their names.

    Any other path is taken for an image file. Names that begin with a dot are left out.

    Raises:
        ValueError: If there is no image file in the folder.
        OSError: If a folder cannot be read.

    Example:
        >>> find_images("photos")
        [PosixPath('photos/cat.jpg'), PosixPath('photos/june/dog.png')]
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(
        Path(folder, name)
        for folder, _, names in os.walk(path, onerror=_raise)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    )
    found = [f for f in found if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    if not found:
        raise ValueError(f"There is no {', '.join(IMAGE_SUFFIXES)} file in the folder {path}.")
    return found


def named_images(paths: Sequence[str], stdin: BinaryIO) -> list[tuple[str, Path | bytes]]:
    """Finds the names and images of paths; `-` is the standard input: an image, or more paths."""
    found: list[tuple[str, Path | bytes]] = []
    for path in paths:
        if path == STDIN:
            data = stdin.read()
            if b"\0" in data:  # as in every image file, and in no path
                found.append((STDIN, data))
                continue
            lines = [os.fsdecode(line) for line in data.splitlines() if line.strip()]
            if not lines:
                raise ValueError("There is neither an image nor a path on the standard input.")
        else:
            lines = [path]
        found += [(str(file), file) for line in lines for file in find_images(line)]
    return found


def read_image(image: str | Path | bytes) -> bytes:
    """Reads an image file as JPEG or PNG; files of other formats are converted to PNG."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = image = bytes(image)
    else:
        data = Path(image).read_bytes()
    if data.startswith(_GRAPH_FORMATS):
        return data
    from keras_multiception.images import to_png

    return to_png(image)


def _raise(error: OSError) -> NoReturn:
    raise error
