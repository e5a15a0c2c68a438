"""Image files in an exported graph: the pixels of `keras_multiception.images`, and no bombs."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags

from keras_multiception import images
from keras_multiception.export.image_decoding import decode_images, read_orientation

SIZE = (24, 32)
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), "uint8")
# Red, green, blue and white: no two of the eight orientations look the same.
CORNERS = np.kron([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255] * 3]], np.ones((12, 16, 1)))
decode = tf.function(
    lambda files: decode_images(files, SIZE), input_signature=[tf.TensorSpec([None], tf.string)]
)
orientation_of = tf.function(read_orientation, input_signature=[tf.TensorSpec([], tf.string)])


def encode(pixels, form, mode=None, **options):
    image, buffer = PIL.Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def photograph(orientation, byte_order=">", **options):
    exif = PIL.Image.Exif()
    exif.endian = byte_order
    exif[ExifTags.Base.Make] = "a camera"
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    return encode(CORNERS.astype("uint8"), "JPEG", exif=exif, quality=95, **options)


def resized(file):
    pixels = tf.image.resize(images.decode(file), SIZE, antialias=True)
    return tf.clip_by_value(pixels, 0, 255)


def test_pixels_are_the_same_in_training_client_and_graph():
    deep = np.linspace(0, 65535, 24 * 32).reshape(SIZE).astype("uint16")
    files = [
        *(encode(PIXELS, "PNG", mode) for mode in ("RGBA", "RGB", "LA", "L", "P", "1")),
        encode(PIXELS[..., :3], "PNG", "P", transparency=5),
        encode(PIXELS[..., :3], "PNG", transparency=(1, 2, 3)),
        encode(deep, "PNG"),
        tf.io.encode_png(np.stack([deep, deep[::-1], deep.T.reshape(SIZE)], -1)).numpy(),
        encode(PIXELS, "JPEG", "RGB"),
        encode(PIXELS, "JPEG", "L"),
        *(images.to_png(encode(PIXELS[..., :3], form)) for form in ("GIF", "BMP", "TIFF", "WEBP")),
    ]
    for received, file in zip(decode(files), files, strict=True):
        np.testing.assert_array_equal(received, images.decode(file))
    cmyk = encode(PIXELS, "JPEG", "CMYK")
    np.testing.assert_allclose(decode([cmyk])[0], images.decode(cmyk), atol=2)


def test_photographs_are_turned_upright():
    files = [photograph(number, order) for number in range(1, 9) for order in "<>"]
    assert [orientation_of(file).numpy() for file in files] == np.repeat(range(1, 9), 2).tolist()
    for received, file in zip(decode(files), files, strict=True):
        np.testing.assert_allclose(received, resized(file), atol=1e-3)


@pytest.mark.parametrize("orientation", [None, 0, 9, 300])
def test_without_an_orientation_they_stay(orientation):
    file = photograph(orientation)
    assert orientation_of(file) == 1
    np.testing.assert_array_equal(decode([file])[0], images.decode(file))


def test_exif_after_other_segments():
    """As of JFIF, and after bytes that fill."""
    start, rest = photograph(8)[:2], photograph(8)[2:]
    comment = b"\xff\xfe\x00\x05abc"
    assert orientation_of(start + comment + comment + b"\xff\xff" + rest) == 8
    assert orientation_of(start + b"\xff\xda" + rest) == 1  # what follows are pixels


def test_only_exif_counts():
    """Pillow's own function also reads XMP data, and fails with a field of a wrong type."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    odd = bytearray(photograph(6))
    entry = odd.index(b"II*\0" if b"II*\0" in odd else b"MM\0*") + 10
    odd[entry + 2 : entry + 4] = b"\0\5"  # the camera's name as a fraction
    for file, orientation in ((photograph(None, xmp=xmp), 1), (bytes(odd), 6)):
        assert orientation_of(file) == orientation
        np.testing.assert_allclose(decode([file])[0], resized(file), atol=1e-3)


EXIF = photograph(6).index(b"Exif")
LENGTH = int.from_bytes(photograph(6)[EXIF - 2 : EXIF], "big") - 2


@settings(max_examples=50)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.integers(EXIF, EXIF + LENGTH - 8), st.binary(min_size=1, max_size=8))
@example(EXIF + 6, b"XX")  # neither byte order
@example(EXIF + 10, b"\xff\xff\xff\xff")  # a directory far away
@example(EXIF + 14, b"\xff\xff")  # more fields than bytes
def test_damaged_exif_does_no_harm(place, garbage):
    file = bytearray(photograph(6))
    file[place : place + len(garbage)] = garbage
    assert 1 <= orientation_of(bytes(file)) <= 8
    assert np.isfinite(decode([bytes(file)])).all()
    assert images.decode(bytes(file)).dtype == "uint8"


def bomb(form):
    """A small file of 65,500 x 65,500 pixels."""
    side = 65_500
    if form == "PNG":
        header = struct.pack(">I4sII", 13, b"IHDR", side, side)
        return images.GRAPH_FORMATS["PNG"] + header + b"\x08\x02\0\0\0" + bytes(4)
    file = photograph(1)
    return file.replace(struct.pack(">HH", *SIZE), struct.pack(">HH", side, side), 1)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_bomb_is_refused_before_it_is_decoded(form):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"33554432 pixels.*4290250000"):
        decode([photograph(1), bomb(form)])


@pytest.mark.parametrize("form", ["BMP", "GIF", "WEBP", "TIFF"])
def test_other_formats_are_refused(form):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be a JPEG or PNG file"):
        decode([encode(PIXELS[..., :3], form)])


@settings(max_examples=100)
@given(st.sampled_from([b"", *images.GRAPH_FORMATS.values()]), st.binary(max_size=64))
def test_junk_is_an_invalid_argument(start, rest):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode([start + rest])
