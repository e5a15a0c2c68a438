"""The orientation of photographs: in the exported graph, the client and the training reader."""

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from keras_multiception.image_files import decode_images
from keras_multiception.image_orientation import read_orientation
from serving.clients import pixels
from training.readers import images

# red, green, blue and white: no two of its eight orientations look the same
CORNERS = np.kron(
    np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], "uint8"),
    np.ones((24, 32, 1), "uint8"),
)
read = tf.function(read_orientation, input_signature=[tf.TensorSpec([], tf.string)])
decode = tf.function(
    lambda files: decode_images(files, (12, 12)), input_signature=[tf.TensorSpec([None], tf.string)]
)


def photograph(orientation, byte_order=">", **options):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[ExifTags.Base.Make] = "a camera"
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(CORNERS).save(buffer, "JPEG", exif=exif, quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_everywhere(orientation, byte_order, tmp_path):
    file = photograph(orientation, byte_order)
    assert read(file) == orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    expected = np.asarray(upright.resize((12, 12), Image.Resampling.BILINEAR))
    (tmp_path / "x.jpg").write_bytes(file)
    np.testing.assert_allclose(decode([file])[0], expected, atol=6)
    np.testing.assert_allclose(pixels.decode([file], (12, 12))[0], expected, atol=6)
    np.testing.assert_array_equal(images.read_all([tmp_path / "x.jpg"], 12)[0], expected)


def test_sizes_that_are_not_square():
    wide = decode_images(tf.constant([photograph(6)]), (6, 18))
    expected = pixels.decode([photograph(6)], (6, 18))
    np.testing.assert_allclose(wide, expected, atol=6)


@pytest.mark.parametrize("orientation", [None, 0, 9, 300])
def test_without_an_orientation_it_stays(orientation):
    file = photograph(orientation)
    assert read(file) == 1
    np.testing.assert_allclose(decode([file])[0, 1, 1], [255, 0, 0], atol=6)


def test_behind_other_segments():
    """As of JFIF, and after bytes that fill."""
    start, rest = photograph(8)[:2], photograph(8)[2:]
    comment = b"\xff\xfe\x00\x05abc"
    assert read(start + comment + comment + b"\xff\xff" + rest) == 8
    assert read(start + b"\xff\xda" + rest) == 1  # after the pixels' header nothing is looked for


def test_only_what_exif_says_counts(tmp_path):
    """Pillow's own function also reads XMP data, and fails with a field of a wrong type."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    odd = bytearray(photograph(6))
    entry = odd.index(b"II*\0" if b"II*\0" in odd else b"MM\0*") + 10
    odd[entry + 2 : entry + 4] = b"\0\5"  # the camera's name as a fraction
    for file, upright in ((photograph(None, xmp=xmp), False), (bytes(odd), True)):
        (tmp_path / "x.jpg").write_bytes(file)
        expected = decode([file])
        np.testing.assert_allclose(
            expected[0, 1, 1], [0, 0, 255] if upright else [255, 0, 0], atol=6
        )
        np.testing.assert_allclose(pixels.decode([file], (12, 12)), expected, atol=6)
        np.testing.assert_allclose(images.read_all([tmp_path / "x.jpg"], 12), expected, atol=6)


def test_other_forms_are_as_they_are_stored(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(CORNERS).save(tmp_path / "x.png", exif=exif)
    file = (tmp_path / "x.png").read_bytes()
    for found in (
        decode([file]),
        pixels.decode([file], (12, 12)),
        images.read_all([tmp_path / "x.png"], 12),
    ):
        np.testing.assert_allclose(found[0][1, 1], [255, 0, 0], atol=1)


HEADER = photograph(6).index(b"Exif")
LENGTH = int.from_bytes(photograph(6)[HEADER - 2 : HEADER], "big") - 2


@given(st.integers(HEADER, HEADER + LENGTH - 8), st.binary(min_size=1, max_size=8))
@example(HEADER + 6, b"XX")  # neither byte order
@example(HEADER + 10, b"\xff\xff\xff\xff")  # a directory far away
@example(HEADER + 14, b"\xff\xff")  # more fields than bytes
def test_damaged_notes_do_no_harm(place, garbage):
    file = bytearray(photograph(6))
    file[place : place + len(garbage)] = garbage
    file = bytes(file)
    assert 1 <= read(file) <= 8
    assert np.isfinite(decode([file])).all()
    assert np.isfinite(pixels.decode([file], (12, 12))).all()
