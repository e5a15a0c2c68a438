"""The seam of arrays on plain SavedModels: signatures, checks and errors; and image bombs."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from saved_models import export_half_plus, export_various, saved

from serving.engine.backends import SavedModelServable
from serving.engine.errors import ServingError
from serving.engine.messages import serialize_examples, write_tensor
from serving.engine.servable import check_image_size


@pytest.fixture(scope="module")
def various():
    return SavedModelServable(saved(export_various))


def test_predict_takes_and_gives_named_arrays(various):
    signature = various.signature("several")
    assert signature.inputs["signal"].dtype == tf.float32
    assert signature.inputs["signal"].shape == (None, 2)
    tag, signal = np.array([b"a", b"b"], object), np.float32([[1, 2], [3, 4]])
    sensor = np.int64([[[7, 8]], [[0, 1]]])
    inputs = {"tag": tag, "signal": signal, "sensor": sensor}
    outputs = various.predict("several", inputs)
    assert outputs["tag"].tolist() == [b"a", b"b"]
    np.testing.assert_array_equal(outputs["total"], [3, 7])
    np.testing.assert_array_equal(outputs["sensor"], sensor + 1)
    assert list(various.predict("several", inputs, ["total"])) == ["total"]
    with pytest.raises(ServingError, match=r"must be of dtype float32\. Received: dtype=float64"):
        various.predict("several", inputs | {"signal": np.float64(signal)})


def test_classify_and_regress_are_arrays():
    servable = SavedModelServable(saved(export_half_plus, 1))
    examples = [tf.train.Example(), tf.train.Example()]
    shared = tf.train.Example()
    shared.features.feature["x"].float_list.value.append(2)
    examples = serialize_examples(examples, shared)
    labels, scores = servable.classify("classify_x_to_y", examples)
    assert labels.tolist() == [["y", "minus y"]] * 2
    np.testing.assert_array_equal(scores, np.float32([[2, -2]] * 2), strict=True)
    np.testing.assert_array_equal(
        servable.regress("regress_x_to_y", examples), np.float32([2, 2]), strict=True
    )
    labels, scores = servable.classify("scores", examples)
    assert (labels.tolist(), scores.tolist()) == ([[""]] * 2, [[2]] * 2)


def test_a_single_string_keeps_its_bytes(various):
    word = various.predict("text", {"text": np.array(b"a\0\xff\0\0", object)})["text"]
    assert word.tolist() == b"a\0\xff\0\0"
    message = write_tensor(word)
    assert list(message.string_val) == [b"a\0\xff\0\0"]
    assert not message.tensor_shape.dim


def test_errors_inside_the_graph_are_one_short_sentence(various):
    with pytest.raises(ServingError, match=r"^Unknown image file format") as caught:
        various.predict("image_shape", {"image_bytes": np.array([b"no image"], object)})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "\n" not in caught.value.message
    assert "{{" not in caught.value.message
    assert "Op:" not in caught.value.message


def test_errors_inside_the_graph_do_not_name_its_nodes(various):
    with pytest.raises(ServingError, match=r"^no number : Tensor had NaN values$"):
        various.predict("finite", {"x": np.float32(np.nan)})


def test_a_folder_without_a_saved_model(tmp_path):
    with pytest.raises(ServingError, match=r"no saved_model\.pb") as caught:
        SavedModelServable(tmp_path)
    assert caught.value.code == "NOT_FOUND"


# ---- image bombs


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0)


@pytest.mark.parametrize("size", [(9000, 9000), (2**31 - 1, 2**31 - 1), (60000, 60000)])
def test_a_bomb_is_refused(size):
    with pytest.raises(ServingError, match=r"at most 67108864 pixels\. Received: ") as caught:
        check_image_size([b"text", png_header(*size)])
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_of_a_usual_size_pass(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, kind)
    check_image_size([buffer.getvalue(), buffer.getvalue()[:20]])


def test_other_strings_pass():
    check_image_size([b"", b"\xff\xd8\xff", b"\x89PNG", "text", png_header(8000, 8000)])
