"""Image files as pixels, for models that decode none: LiteRT ones."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

# By signature and input: the dtype as TensorFlow's protos name it, and the shape, -1 where open.
Signatures = Mapping[str, Mapping[str, tuple[str, Sequence[int]]]]

_DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class PixelInput:
    """What a model takes in place of image files.

    Args:
        signature_name: The signature.
        size: Height and width.
    """

    signature_name: str
    size: tuple[int, int]


def find_pixel_input(signatures: Signatures, signature_name: str) -> PixelInput | None:
    """Finds out whether a model has to be sent pixels.

    Args:
        signatures: The inputs of its signatures.
        signature_name: The signature that was meant to take files.

    Returns:
        That signature, or the default one if it is missing, if it takes float images of a known
        size; `None` if not, or if any signature takes strings.
    """
    if any(kind == "DT_STRING" for inputs in signatures.values() for kind, _ in inputs.values()):
        return None
    for name in (signature_name, _DEFAULT_SIGNATURE):
        if name in signatures:
            inputs = list(signatures[name].values())
            if len(inputs) != 1:
                return None
            [(dtype, shape)] = inputs
            if dtype != "DT_FLOAT" or len(shape) != 4 or shape[3] != 3 or min(shape[1:]) < 1:
                return None
            return PixelInput(name, (shape[1], shape[2]))
    return None


def decode(files: Iterable[bytes], size: tuple[int, int]) -> np.ndarray:
    """Decodes and resizes image files, as nearly as Pillow does what the SavedModel does.

    Both filter bilinearly, with a wider filter where they make an image smaller, and round to no
    whole numbers; JPEGs are turned upright by the orientation in their EXIF data. What is left of a
    difference comes from the decoders of JPEG, and from files in palettes or with an alpha channel.

    Args:
        files: JPEG, PNG, GIF or BMP files.
        size: Height and width.

    Returns:
        Array of float32 `[N, H, W, 3]`, pixels 0 to 255.

    Raises:
        ValueError: If a file is damaged.
    """
    import numpy as np
    from PIL import Image

    def pixels(file: bytes) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(file)) as opened:
                image = _upright(opened) if opened.format in ("JPEG", "MPO") else opened
                if image.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
                    image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
                channels = image.convert("RGB").split()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"An image cannot be decoded: {error}") from error
        width_first = size[::-1]
        resized = [c.convert("F").resize(width_first, Image.Resampling.BILINEAR) for c in channels]
        return np.stack([np.asarray(channel) for channel in resized], axis=-1)

    return np.clip(np.stack([pixels(file) for file in files]), 0, 255)


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turns a JPEG as the SavedModel does.

    `PIL.ImageOps.exif_transpose` reads XMP data too, and fails where other fields are damaged.
    """
    from PIL import Image

    orientation = None
    with contextlib.suppress(Exception):  # damaged data fail in many ways
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(0x0112)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def read_labels(labels: Sequence[str] | str | Path) -> list[str]:
    """Reads the names of classes.

    Args:
        labels: The names, or the path of a file with one a line, such as an export's `labels.txt`.

    Returns:
        The names.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not UTF-8 text.
    """
    if isinstance(labels, (str, Path)):
        try:
            return Path(labels).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"`labels` must be a file of UTF-8 text. Received: {labels}"
            ) from error
        except OSError as error:
            raise OSError(f"Cannot read {labels}: {error.strerror}.") from error
    return list(labels)
