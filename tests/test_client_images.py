"""Which images the client means, what it sends of them, and what it reads in an answer."""

import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from keras_multiception import images
from keras_multiception.export.signatures import decode_images
from serving.client import Client
from serving.clients.image_batches import (
    MAX_BATCH_BYTES,
    array_batches,
    batches,
    decode,
    read_labels,
)
from serving.clients.image_files import named_images, read_image


def encoded(pixels, form, **options):
    buffer = io.BytesIO()
    pixels = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    pixels.save(buffer, form, **options)
    return buffer.getvalue()


COLORS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype="uint8")
SHADES = np.linspace(0, 65535, 35).reshape(5, 7).astype("uint16")


def transparent_gif():
    image = Image.fromarray(np.arange(35, dtype="uint8").reshape(5, 7) % 4, "P")
    image.putpalette([*(200, 10, 10), *(10, 200, 10), *(10, 10, 200), *(9, 9, 9)])
    return encoded(image, "GIF", transparency=1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_the_standard_input_may_be_an_image(form):
    data = encoded(COLORS, form)
    assert named_images(["-"], io.BytesIO(data)) == [("-", data)]
    sent = read_image(data)
    assert sent == read_image(bytearray(data)) == read_image(memoryview(data))
    assert (sent == data) == (form in ("PNG", "JPEG"))


@pytest.mark.parametrize(
    "file",
    [
        encoded(COLORS, "GIF"),
        transparent_gif(),
        encoded(COLORS, "BMP") + b"after the pixels",
        encoded(COLORS, "WEBP", lossless=True),
        encoded(SHADES, "PPM"),
        encoded(SHADES, "TIFF"),
        encoded(np.dstack([COLORS, COLORS[..., 0]]), "TIFF"),
    ],
    ids=["GIF", "transparent GIF", "BMP", "WebP", "16-bit PGM", "16-bit TIFF", "TIFF with alpha"],
)
def test_other_formats_reach_the_graph_as_training_reads_them(tmp_path, file):
    (tmp_path / "image").write_bytes(file)
    trained_on = images.decode(tmp_path / "image")
    for sent in (read_image(file), read_image(tmp_path / "image")):
        decoded = decode_images(tf.constant([sent]), trained_on.shape[:2])[0]
        np.testing.assert_array_equal(decoded, trained_on)


@pytest.mark.parametrize("shape", [(9, 13), (75, 130)])
@pytest.mark.parametrize(("form", "tolerance"), [("PNG", 0.01), ("JPEG", 4)])
def test_pixels_are_those_of_the_graph(shape, form, tolerance):
    file = encoded(Image.fromarray(COLORS).resize(shape[::-1], Image.Resampling.BICUBIC), form)
    expected = decode_images(tf.constant([file]), (32, 32)).numpy()[0]
    found = decode(file, (32, 32))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("file", [b"\x89PNG\r\n\x1a\n", b"GIF89a", encoded(COLORS, "JPEG")[:90]])
def test_damaged_files(file):
    with pytest.raises(ValueError, match="an image that can be decoded"):
        decode(file, (4, 4))


def test_labels(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndög\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dög"]
    assert read_labels(("cat", "dög")) == ["cat", "dög"]
    with pytest.raises(OSError, match=r"none\.txt"):
        Client(labels=str(tmp_path / "none.txt"))


@given(
    sizes=st.lists(st.integers(0, MAX_BATCH_BYTES * 3 // 2), max_size=20), size=st.integers(1, 6)
)
def test_batches_keep_all_images_within_the_limits(sizes, size):
    whole = memoryview(bytes(MAX_BATCH_BYTES * 3 // 2))  # slices of it take no room
    files = [("name", whole[:length]) for length in sizes]
    made = [[image for _, image in batch] for batch in batches(files, size)]
    assert [len(image) for batch in made for image in batch] == sizes
    for batch in made:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or sum(map(len, batch)) <= MAX_BATCH_BYTES
    for batch, after in itertools.pairwise(made):
        # a batch ends only where the next image does not fit
        assert len(batch) == size or sum(map(len, [*batch, after[0]])) > MAX_BATCH_BYTES


def test_arrays_are_cut_within_the_limits():
    for row_bytes, lengths in ((1, [5, 5, 2]), (MAX_BATCH_BYTES // 2, [2] * 6)):
        array = np.broadcast_to(np.uint8(0), (12, row_bytes))
        assert [len(batch) for batch in array_batches(array, 5)] == lengths
