"""The client's own decoding, beside that of the exported graph."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_multiception.export.image_decoding import decode_images
from serving.client import Client
from serving.clients.pixels import PixelInput, decode, find_pixel_input, read_labels
from serving.clients.prediction import read_predictions

FLOATS, FILES = ("DT_FLOAT", [-1, 4, 6, 3]), ("DT_STRING", [-1])


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
def decoded_by_graph(files):
    return decode_images(files, (32, 32))


def encoded(shape, form, mode="RGB", **options):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    image = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(32, 32), (9, 13), (75, 130), (32, 200)])
@pytest.mark.parametrize(
    ("form", "mode", "tolerance"),
    [("PNG", "RGB", 0.01), ("PNG", "L", 0.01), ("JPEG", "RGB", 4)],
)
def test_pixels_are_those_of_the_graph(shape, form, mode, tolerance):
    file = encoded(shape, form, mode)
    expected = decoded_by_graph(tf.constant([file])).numpy()
    found = decode([file], (32, 32))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_sixteen_bits_are_scaled():
    shades = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype("uint16")
    buffer = io.BytesIO()
    Image.fromarray(shades).save(buffer, "PNG")
    file = buffer.getvalue()
    expected = decoded_by_graph(tf.constant([file])).numpy()
    np.testing.assert_allclose(decode([file], (32, 32)), expected, atol=1)


@pytest.mark.parametrize("file", [b"\x89PNG\r\n\x1a\n", b"GIF89a", encoded((9, 9), "JPEG")[:90]])
def test_damaged_files(file):
    with pytest.raises(ValueError, match="An image cannot be decoded"):
        decode([file], (4, 4))


@pytest.mark.parametrize(
    ("signatures", "expected"),
    [
        ({"serving_default": {"image": FLOATS}}, PixelInput("serving_default", (4, 6))),
        ({"own": {"x": FLOATS}, "other": {"x": FLOATS}}, PixelInput("own", (4, 6))),
        ({"serving_default": {"image": FLOATS}, "own": {"image_bytes": FILES}}, None),
        ({"serving_default": {"image": FLOATS}, "files": {"image_bytes": FILES}}, None),
        ({"other": {"image": FLOATS}}, None),
        ({"serving_default": {"x": FLOATS, "y": FLOATS}}, None),
        ({"serving_default": {"image": ("DT_FLOAT", [-1, -1, -1, 3])}}, None),
        ({"serving_default": {"image": ("DT_FLOAT", [-1, 4, 6, 1])}}, None),
        ({"serving_default": {"image": ("DT_INT8", [-1, 4, 6, 3])}}, None),
        ({"serving_default": {"x": ("DT_FLOAT", [-1])}}, None),
        ({}, None),
    ],
)
def test_which_models_take_pixels(signatures, expected):
    assert find_pixel_input(signatures, "own") == expected


def test_probabilities_alone_are_enough():
    for rows in ([[0.2, 0.7, 0.1]], [{"probabilities": [0.2, 0.7, 0.1]}]):
        [answer] = read_predictions(rows, 1, ["a", "b", "c"])
        assert (answer.label, answer.class_id, answer.probability) == ("b", 1, 0.7)
        assert read_predictions(rows, 1)[0].label == "1"
    own = {"probabilities": [0.2, 0.8], "class_id": 1, "label": "server's"}
    assert read_predictions([own], 1, ["a", "b"])[0].label == "server's"


def test_labels(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndög\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ["cat", "dög"]
    assert read_labels(("cat", "dög")) == ["cat", "dög"]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"UTF-8 text. Received: .*latin\.txt"):
        read_labels(tmp_path / "latin.txt")
    with pytest.raises(OSError, match=r"Cannot read .*none\.txt"):
        Client(labels=str(tmp_path / "none.txt"))
