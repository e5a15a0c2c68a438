"""The seam of arrays on plain SavedModels: signatures, checks and errors; and image bombs."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from saved_models import export_half_plus, export_various, saved

from serving.engine.errors import ServingError
from serving.engine.messages import serialize_examples, write_tensor
from serving.engine.saved_model import SavedModelServable
from serving.engine.servable import check_image_size


@pytest.fixture(scope="module")
def various():
    return SavedModelServable(saved(export_various))


def test_signatures_have_named_specs(various):
    signature = various.signature("several")
    assert signature.inputs["signal"].dtype == tf.float32
    assert signature.inputs["signal"].shape == (None, 2)
    assert signature.inputs["sensor"].dtype == tf.int64
    assert signature.outputs.keys() == {"tag", "total", "sensor"}
    assert various.signature("").name == "serving_default"


SEVERAL = {
    "tag": np.array([b"a", b"b"], object),
    "signal": np.float32([[1, 2], [3, 4]]),
    "sensor": np.int64([[[7, 8]], [[0, 1]]]),
}


def test_predict_several_inputs_and_outputs(various):
    outputs = various.predict("several", SEVERAL)
    assert outputs["tag"].tolist() == [b"a", b"b"]
    np.testing.assert_array_equal(outputs["total"], [3, 7])
    np.testing.assert_array_equal(outputs["sensor"], SEVERAL["sensor"] + 1)
    assert list(various.predict("several", SEVERAL, ["total"])) == ["total"]


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


def test_predict_without_a_batch(various):
    assert various.predict("scalar", {"x": np.float64(2)})["y"] == 2


def test_a_single_string_keeps_its_bytes(various):
    word = various.predict("text", {"text": np.array(b"a\0\xff\0\0", object)})["text"]
    assert word.tolist() == b"a\0\xff\0\0"
    message = write_tensor(word)
    assert list(message.string_val) == [b"a\0\xff\0\0"]
    assert not message.tensor_shape.dim


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("nope", {}, "'nope' not found.*'finite', 'image_shape', 'scalar', 'serving_default'"),
        ("scalar", {}, r"takes the inputs \['x'\]. Received: inputs=\[\]"),
        ("scalar", {"x": np.float64(1), "z": np.float64(1)}, r"Received: inputs=\['x', 'z'\]"),
        ("scalar", {"x": np.float32(1)}, "`x` must be of dtype float64. Received: dtype=float32"),
        ("scalar", {"x": np.float64([1])}, r"`x` must be of shape \[\]. Received: shape=\[1\]"),
        (
            "several",
            SEVERAL | {"signal": np.zeros([2, 3], np.float32)},
            r"`signal` must be of shape \[\?, 2\]. Received: shape=\[2, 3\]",
        ),
    ],
)
def test_inputs_that_do_not_fit(various, signature, inputs, words):
    with pytest.raises(ServingError, match=words) as caught:
        various.predict(signature, inputs)
    assert caught.value.code == "INVALID_ARGUMENT"


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
