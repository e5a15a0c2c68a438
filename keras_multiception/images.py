"""Image files of any format as upright RGB pixels of 8 bits, by Pillow; TensorFlow is not needed.

Training and the client decode here. Exported graphs decode JPEG and PNG themselves, to the same
pixels: that is why a PNG is not turned by its EXIF data, why transparency is ignored (a transparent
pixel has the color that is stored for it), and why 16 bits lose their lower 8.
"""

import contextlib
import io
import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

# How the files start that an exported graph decodes.
GRAPH_FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
# The EXIF orientations that change height with width, right with left and, after that, top with
# bottom (Exif 2.3, CIPA DC-008-2012, section 4.6.4).
ORIENTATION = 0x0112
TRANSPOSED, MIRRORED, FLIPPED = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


def decode(file: bytes | str | os.PathLike) -> np.ndarray:
    """Decode an image file, or what is in it, to uint8 `(height, width, 3)`.

    Of an animation it is the first frame. A file that is damaged, of no known format, or of
    integers or floats of unknown range is a ValueError.
    """
    import PIL.Image

    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with PIL.Image.open(source) as image:
            orientation = _orientation(image)
            pixels = np.asarray(_to_rgb(image))
    except Exception as error:  # a damaged file fails in many ways
        known = not isinstance(error, PIL.UnidentifiedImageError)
        reason = (str(error) or type(error).__name__) if known else "unknown format"
        received = f"{len(file)} bytes" if isinstance(file, bytes) else file
        raise ValueError(
            f"`file` must be an image that can be decoded ({textwrap.shorten(reason, 160)}). "
            f"Received: file={received}"
        ) from error
    if orientation in TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in FLIPPED:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def to_png(file: bytes | str | os.PathLike) -> bytes:
    """Convert an image file, or what is in it, to a PNG for an exported graph."""
    import PIL.Image

    png = io.BytesIO()
    PIL.Image.fromarray(decode(file)).save(png, "PNG", compress_level=1)
    return png.getvalue()


def _orientation(image: "PIL.Image.Image") -> int | None:
    """Read the orientation of EXIF data alone; Pillow itself turns TIFF files.

    `PIL.ImageOps.exif_transpose` reads XMP data too, and fails where other fields are damaged.
    """
    import PIL.Image

    if image.format != "PNG":
        with contextlib.suppress(Exception):  # damaged data fail in many ways
            exif = PIL.Image.Exif()
            exif.load(image.info.get("exif", b""))
            return exif.get(ORIENTATION)
    return None


def _to_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    import PIL.Image

    mode = image.mode
    # Pillow reads gray PGM files of 16 bits, and once did PNG files, as 32-bit integers.
    is_16_bit = mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM"))
    if is_16_bit:
        depth = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # of a TIFF: 16 or 12 bits
        image = PIL.Image.fromarray((np.asarray(image) >> (depth - 8)).astype("uint8"))
    elif mode in ("I", "F"):
        raise ValueError(f"mode {mode} has no known range: convert it to 8 or 16 bits")
    image.info.pop("transparency", None)  # Pillow would warn that it is lost
    return image.convert("RGB")
