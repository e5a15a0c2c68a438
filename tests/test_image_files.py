import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_multiception.image_files import count_pixels, decode_images

RNG = np.random.default_rng(0)
count = tf.function(count_pixels, input_signature=[tf.TensorSpec([], tf.string)])
decode = tf.function(
    lambda files: decode_images(files, (8, 6)), input_signature=[tf.TensorSpec([None], tf.string)]
)


def image_file(form, width=7, height=5, frames=1):
    shape = (frames, height, width, 3)
    first, *others = map(Image.fromarray, RNG.integers(0, 256, shape, dtype="uint8"))
    buffer = io.BytesIO()
    extra = {"save_all": True, "append_images": others} if others else {}
    first.save(buffer, form, **extra)
    return buffer.getvalue()


def gif_of_zeros(width, height):
    """A small GIF whose screen is one pixel and whose only frame is large."""
    clear, end, first = 4, 5, 6
    codes, drawn = [], 0  # (code, bits)
    while drawn < width * height:
        codes += [(clear, 3), (0, 3)]
        drawn += 1
        for code in range(first, 4095):
            if drawn >= width * height:
                break
            codes.append((code, max(3, code.bit_length())))
            drawn += code - first + 2
    codes.append((end, 3))
    bits = np.concatenate([(code >> np.arange(size)) & 1 for code, size in codes])
    data = np.packbits(bits.astype("uint8"), bitorder="little").tobytes()
    blocks = [data[i : i + 255] for i in range(0, len(data), 255)]
    screen = struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02"
    sizes = [bytes([len(block)]) + block for block in blocks]
    return b"GIF89a" + screen + frame + b"".join(sizes) + b"\0;"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_pixels_are_counted_from_the_header(form):
    assert count(image_file(form, 7, 5)) == 35
    assert count(image_file(form, 300, 2)) == 600


def test_all_frames_of_a_gif_count():
    assert count(image_file("GIF", 70, 50, frames=5)) == 5 * 70 * 50
    assert count(gif_of_zeros(300, 200)) == 300 * 200


def test_other_files_have_no_pixels_to_count():
    for file in (b"", b"GIF", b"hello", b"\x89PNG", image_file("WEBP"), image_file("TIFF")):
        assert count(file) == -1


def bomb(form):
    """A small file of 65,500 x 65,500 pixels."""
    side = 65_500
    if form == "PNG":
        header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", side, side)
        return header + b"\x08\x02\0\0\0" + bytes(4)
    if form == "BMP":
        return b"BM" + bytes(16) + struct.pack("<ii", side, -side) + bytes(8)
    if form == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b";"
    file = image_file("JPEG", 7, 5)
    return file.replace(struct.pack(">HH", 5, 7), struct.pack(">HH", side, side), 1)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_bomb_is_refused_before_it_is_decoded(form):
    assert count(bomb(form)) == 65_500**2
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 33554432 pixels"):
        decode([image_file("PNG"), bomb(form)])


def test_a_frame_larger_than_the_screen_of_its_gif_is_refused():
    file = gif_of_zeros(6000, 6000)
    assert len(file) < 50_000
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 33554432 pixels"):
        decode([file])


def test_what_is_no_image_of_the_four_kinds_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be a JPEG, PNG, BMP or GIF"):
        decode([image_file("WEBP")])


def test_files_are_decoded_as_tensorflow_decodes_them():
    files = [image_file(form, 9, 11) for form in ("JPEG", "PNG", "BMP")]
    for file, received in zip(files, decode(files), strict=True):
        image = tf.io.decode_image(file, channels=3)
        expected = tf.clip_by_value(tf.image.resize(image, (8, 6), antialias=True), 0, 255)
        np.testing.assert_allclose(received, expected, atol=1e-3)
    first = decode([image_file("GIF", 6, 8, frames=3)])
    assert first.shape == (1, 8, 6, 3)


def bmp(mode):
    """A BMP of this mode of Pillow, and its pixels as RGB."""
    image = Image.fromarray(RNG.integers(0, 256, (8, 6, 3), dtype="uint8"))
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue(), np.asarray(image.convert("RGB"), "float32")


@pytest.mark.parametrize(("mode", "bits"), [("RGB", 24), ("RGBA", 32), ("L", 8), ("P", 8)])
def test_colors_of_a_bmp(mode, bits):
    file, expected = bmp(mode)
    assert struct.unpack_from("<H", file, 28) == (bits,)
    np.testing.assert_allclose(decode([file])[0], expected, atol=1e-3)


def test_colors_of_a_bmp_with_masks():
    file, expected = bmp("RGBA")
    pixels = file[struct.unpack_from("<I", file, 10)[0] :]

    def with_masks(*masks):
        size, start = len(pixels) + 66, 66
        header = b"BM" + struct.pack("<IIIIii", size, 0, start, 40, 6, 8)
        return header + struct.pack("<HHIIIIII", 1, 32, 3, 0, 0, 0, 0, 0) + bytes(masks) + pixels

    usual = (0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0)
    np.testing.assert_allclose(decode([with_masks(*usual)])[0], expected, atol=1e-3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="A BMP file must be uncompressed"):
        decode([with_masks(*usual[::-1])])


def test_a_bmp_that_tensorflow_would_read_wrongly_is_refused():
    (one_bit, _), (gray, _) = bmp("1"), bmp("L")
    run_lengths = gray[:30] + struct.pack("<I", 1) + gray[34:]
    for file in (one_bit, run_lengths):
        with pytest.raises(tf.errors.InvalidArgumentError, match="A BMP file must be uncompressed"):
            decode([file])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a"]),
    st.binary(max_size=64),
)
def test_junk_is_an_invalid_argument(start, rest):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode([start + rest])
