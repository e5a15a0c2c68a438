"""Decode and resize images with Pillow, the same on every backend."""

import concurrent.futures
import contextlib
import textwrap

import numpy as np
import PIL.Image

_TURNS = {  # by the orientation in EXIF data
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def read_all(paths, size):
    """Decode image files of any kind and size.

    A JPEG is turned upright by the orientation in its EXIF data; an image is converted to RGB
    (transparency is dropped, as `tf.io.decode_image` does) and resized, whatever its proportions.
    All this is what the exported models do with images that they are sent.

    Args:
        paths: Sequence of paths.
        size: Integer, height and width in pixels to resize to.

    Returns:
        An array of shape (images, size, size, 3), uint8.

    Raises:
        ValueError: If a file is no image or damaged.
    """
    images = np.empty((len(paths), size, size, 3), "uint8")

    def read(i):
        images[i] = _read(paths[i], size)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(paths))):
            pass
    return images


def resize_all(images, size):
    """Resize images.

    Args:
        images: Array of shape (images, height, width, 3), uint8.
        size: Integer, the new height and width in pixels.

    Returns:
        An array of shape (images, size, size, 3), uint8.
    """
    if images.shape[1:3] == (size, size):
        return images
    resized = np.empty((len(images), size, size, 3), "uint8")
    for i, image in enumerate(images):
        resized[i] = _resize(PIL.Image.fromarray(image), size)
    return resized


def _read(path, size):
    try:
        with PIL.Image.open(path) as file:
            image = _upright(file) if file.format in ("JPEG", "MPO") else file
            if image.mode.startswith("I;16"):  # Pillow would clip 16 bits, not scale them
                image = PIL.Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
            return _resize(image.convert("RGB"), size)
    except Exception as error:  # a damaged file fails in many ways
        reason = textwrap.shorten(str(error) or type(error).__name__, 120)
        raise ValueError(
            f"`data_dir` must hold nothing but images in its classes, and one file cannot be read "
            f"as an image ({reason}). Received: file={path}"
        ) from error


def _upright(image):
    """Turn a JPEG as the exported models do.

    `PIL.ImageOps.exif_transpose` reads XMP data too, and fails where other fields are damaged.
    """
    orientation = None
    with contextlib.suppress(Exception):  # damaged data fail in many ways
        exif = PIL.Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(0x0112)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _resize(image, size):
    return image.resize((size, size), PIL.Image.Resampling.BILINEAR)
