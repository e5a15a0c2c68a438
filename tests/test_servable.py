"""The serving core on plain SavedModels: signatures, checks and errors."""

import numpy as np
import pytest
import tensorflow as tf

from serving.engine.errors import ServingError
from serving.engine.servable import Servable
from serving.engine.tensor_proto import write_tensor


def export_half_plus(path, offset):
    """Writes a SavedModel that computes x / 2 + offset for a batch of numbers."""
    module = tf.Module()
    module.offset = tf.Variable(float(offset))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half_plus(x):
        return {"y": x / 2 + module.offset}

    module.half_plus = half_plus
    tf.saved_model.save(module, str(path), half_plus)


def export_various(path):
    """Writes a SavedModel with many inputs, strings, an image decoder, and one without a batch."""
    module = tf.Module()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="x"),
            tf.TensorSpec([None], tf.int64, name="n"),
        ]
    )
    def pair(x, n):
        return {"total": tf.reduce_sum(x, axis=1), "next": n + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def pixels(image_bytes):
        decode = lambda data: tf.reduce_mean(  # noqa: E731
            tf.cast(tf.io.decode_image(data, channels=3, expand_animations=False), tf.float32)
        )
        return {"mean": tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="word")])
    def word(word):
        return {"word": word}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def finite(x):
        return {"y": tf.debugging.check_numerics(x, "no number")}

    functions = {"pixels": pixels, "scalar": scalar, "word": word, "finite": finite}
    signatures = {"serving_default": pair, **functions}
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(path), signatures)


@pytest.fixture(scope="module")
def various(tmp_path_factory):
    path = tmp_path_factory.mktemp("various") / "1"
    export_various(path)
    return Servable(path)


def test_signatures_have_named_specs(various):
    signature = various.signature("serving_default")
    assert signature.inputs["x"].dtype == tf.float32
    assert signature.inputs["x"].shape == (None, 2)
    assert signature.inputs["n"].dtype == tf.int64
    assert signature.outputs.keys() == {"total", "next"}
    assert various.signature("").name == "serving_default"


def test_predict_several_inputs_and_outputs(various):
    x, n = np.float32([[1, 2], [3, 4]]), np.int64([7, 8])
    outputs = various.predict("serving_default", {"x": x, "n": n})
    np.testing.assert_array_equal(outputs["total"], [3, 7])
    np.testing.assert_array_equal(outputs["next"], [8, 9])


def test_predict_without_a_batch(various):
    assert various.predict("scalar", {"x": np.float32(2)})["y"] == 3


def test_a_single_string_keeps_its_bytes(various):
    word = various.predict("word", {"word": np.array(b"a\0\xff\0\0", object)})["word"]
    assert word.tolist() == b"a\0\xff\0\0"
    message = write_tensor(word)
    assert list(message.string_val) == [b"a\0\xff\0\0"]
    assert not message.tensor_shape.dim


def test_predict_decodes_images(various):
    png = tf.io.encode_png(np.full((3, 5, 3), 40, np.uint8)).numpy()
    outputs = various.predict("pixels", {"image_bytes": np.array([png, png], object)})
    np.testing.assert_array_equal(outputs["mean"], [40, 40])


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("nope", {}, "'nope' not found.*'finite', 'pixels', 'scalar', 'serving_default'"),
        ("scalar", {}, r"takes the inputs \['x'\]. Received: inputs=\[\]"),
        ("scalar", {"x": np.float32(1), "z": np.float32(1)}, r"Received: inputs=\['x', 'z'\]"),
        ("scalar", {"x": np.float64(1)}, "`x` must be of dtype float32. Received: dtype=float64"),
        ("scalar", {"x": np.float32([1])}, r"`x` must be of shape \[\]. Received: shape=\[1\]"),
        (
            "serving_default",
            {"x": np.zeros([2, 3], np.float32), "n": np.int64([1, 2])},
            r"`x` must be of shape \[\?, 2\]. Received: shape=\[2, 3\]",
        ),
    ],
)
def test_inputs_that_do_not_fit(various, signature, inputs, words):
    with pytest.raises(ServingError, match=words) as caught:
        various.predict(signature, inputs)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_errors_inside_the_graph_are_one_short_sentence(various):
    with pytest.raises(ServingError, match=r"^Unknown image file format") as caught:
        various.predict("pixels", {"image_bytes": np.array([b"no image"], object)})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "\n" not in caught.value.message
    assert "{{" not in caught.value.message
    assert "Op:" not in caught.value.message


def test_errors_inside_the_graph_do_not_name_its_nodes(various):
    with pytest.raises(ServingError, match=r"^no number : Tensor had NaN values$"):
        various.predict("finite", {"x": np.float32(np.nan)})


def test_a_folder_without_a_saved_model(tmp_path):
    with pytest.raises(ServingError, match=r"no saved_model\.pb") as caught:
        Servable(tmp_path)
    assert caught.value.code == "NOT_FOUND"
