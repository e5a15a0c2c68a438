"""Image files of many formats: the same pixels in training, in the client and in the graph."""

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
from keras_multiception.export.signatures import decode_images, read_orientation

SIZE = (24, 32)
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), "uint8")
SHADES = np.linspace(0, 65535, 24 * 32).reshape(SIZE).astype("uint16")
# Red, green, blue and white: no two of the eight orientations look the same.
CORNERS = np.kron([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255] * 3]], np.ones((16, 32, 1)))
decode = tf.function(
    lambda files: decode_images(files, SIZE), input_signature=[tf.TensorSpec([None], tf.string)]
)
orientation_of = tf.function(read_orientation, input_signature=[tf.TensorSpec([], tf.string)])


def encode(pixels, form="PNG", mode=None, **options):
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


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_the_color_of_transparent_pixels_is_the_stored_one(form):
    pixels = PIXELS if form not in ("BMP", "PPM") else PIXELS[..., :3]
    file = encode(pixels, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    png = images.to_png(file)
    assert png.startswith(images.GRAPH_FORMATS["PNG"])
    for same in (file, png):
        np.testing.assert_array_equal(images.decode(same), PIXELS[..., :3])


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_the_transparent_color_of_a_palette_is_shown(form):
    indices = np.arange(12, dtype="uint8").reshape(3, 4)
    palette = PIXELS[0, :12, :3]
    image, file = PIL.Image.fromarray(indices), io.BytesIO()
    image.putpalette(palette.tobytes())
    image.save(file, form, transparency=5, optimize=False)
    np.testing.assert_array_equal(images.decode(file.getvalue()), palette[indices])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(form, tmp_path):
    (tmp_path / "deep").write_bytes(encode(SHADES, form))
    decoded = images.decode(tmp_path / "deep")
    np.testing.assert_array_equal(decoded, np.repeat((SHADES >> 8)[..., None], 3, -1))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_unknown_range_is_refused(dtype):
    file = encode(np.ones((2, 2), dtype), "TIFF")
    with pytest.raises(ValueError, match=r"has no known range.*Received: file=\d+ bytes"):
        images.decode(file)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_images_are_turned_upright(form, orientation):
    exif = PIL.Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = encode(CORNERS.astype("uint8"), form, exif=exif)
    turns = {2: "flip", 3: "180", 4: "flip 180", 5: "flip 90", 6: "-90", 7: "flip -90", 8: "90"}
    words = turns.get(orientation, "").split() if form != "PNG" else []
    expected = CORNERS[:, ::-1] if "flip" in words else CORNERS
    quarters = {"180": 2, "90": 1, "-90": 3}.get(words[-1] if words else "", 0)
    expected = np.rot90(expected, quarters)
    decoded = images.decode(file)
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded[4::8, 4::8], expected[4::8, 4::8], atol=9)


@pytest.mark.parametrize("file", [b"", b"hello", b"GIF89a", encode(PIXELS)[:200]])
def test_damaged_files(file):
    with pytest.raises(ValueError, match=r"`file` must be an image .*Received: file=\d+ bytes"):
        images.decode(file)


def test_pixels_are_the_same_in_training_client_and_graph():
    files = [
        *(encode(PIXELS, "PNG", mode) for mode in ("RGBA", "RGB", "LA", "L", "P", "1")),
        encode(PIXELS[..., :3], "PNG", "P", transparency=5),
        encode(PIXELS[..., :3], "PNG", transparency=(1, 2, 3)),
        encode(SHADES),
        tf.io.encode_png(np.stack([SHADES, SHADES[::-1], SHADES.T.reshape(SIZE)], -1)).numpy(),
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
    np.testing.assert_allclose(decode([file])[0], resized(file), atol=1e-3)


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
    return file.replace(struct.pack(">HH", *CORNERS.shape[:2]), struct.pack(">HH", side, side), 1)


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
