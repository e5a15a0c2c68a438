"""The serving core on plain SavedModels: signatures, checks, errors and version management."""

import shutil
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from serving.servable import Servable, ServedModel, ServingError


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

    module.pair, module.pixels, module.scalar = pair, pixels, scalar
    tf.saved_model.save(
        module, str(path), {"serving_default": pair, "pixels": pixels, "scalar": scalar}
    )


@pytest.fixture(scope="module")
def half_plus(tmp_path_factory):
    """Two version folders to copy from: x / 2 + 1 and x / 2 + 2."""
    folder = tmp_path_factory.mktemp("half_plus")
    for version in (1, 2):
        export_half_plus(folder / str(version), version)
    return folder


@pytest.fixture(scope="module")
def various(tmp_path_factory):
    path = tmp_path_factory.mktemp("various") / "1"
    export_various(path)
    return Servable(path)


def publish(source, target):
    """Makes a version appear at once, as `serving.export` does."""
    hidden = target.with_name(f".{target.name}.tmp")
    shutil.copytree(source, hidden)
    hidden.rename(target)


def answer(model, x=2.0):
    return float(model.servable().predict("", {"x": np.float32([x])})["y"][0])


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def states(model):
    return [(status.version, status.state) for status in model.status()]


# ---- signatures and calls


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


def test_predict_decodes_images(various):
    png = tf.io.encode_png(np.full((3, 5, 3), 40, np.uint8)).numpy()
    outputs = various.predict("pixels", {"image_bytes": np.array([png, png], object)})
    np.testing.assert_array_equal(outputs["mean"], [40, 40])


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("nope", {}, "'nope' not found.*'pixels', 'scalar', 'serving_default'"),
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


def test_a_folder_without_a_saved_model(tmp_path):
    with pytest.raises(ServingError, match=r"no saved_model\.pb") as caught:
        Servable(tmp_path)
    assert caught.value.code == "NOT_FOUND"


# ---- versions


def test_the_latest_integer_version_is_served(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "9")
    publish(half_plus / "2", tmp_path / "0010")
    for other in ("11.tmp", ".12", "v13", "-14"):
        shutil.copytree(half_plus / "1", tmp_path / other)
    (tmp_path / "15").write_text("a file, not a folder")
    with ServedModel("half", tmp_path, 0) as model:
        assert model.servable().version == 10
        assert answer(model) == 3
        assert states(model) == [(10, "AVAILABLE")]
        with pytest.raises(ServingError, match=r"Specific\(half, 9\)") as caught:
            model.servable(9)
        assert caught.value.code == "NOT_FOUND"
        with pytest.raises(ServingError, match="version 11 of model half") as caught:
            model.status(11)
        assert caught.value.code == "NOT_FOUND"


def test_a_new_version_takes_over_and_the_old_one_finishes(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, 0) as model:
        in_flight = model.servable()
        publish(half_plus / "2", tmp_path / "2")
        model.poll()
        assert states(model) == [(2, "AVAILABLE"), (1, "UNLOADING")]
        assert answer(model) == 3
        assert in_flight.predict("", {"x": np.float32([2])})["y"] == 2
        del in_flight
        assert states(model) == [(2, "AVAILABLE"), (1, "END")]


def test_deleting_the_latest_version_rolls_back(tmp_path, half_plus):
    for version in (1, 2):
        publish(half_plus / str(version), tmp_path / str(version))
    with ServedModel("half", tmp_path, 0) as model:
        shutil.rmtree(tmp_path / "2")
        model.poll()
        assert answer(model) == 2
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.rmtree(tmp_path / "1")
        model.poll()
        assert answer(model) == 2, "an empty base path must not take the model away"


def test_a_broken_version_leaves_the_old_one_serving_until_it_is_repaired(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, 0) as model:
        publish(half_plus / "2", tmp_path / "2")
        shutil.move(tmp_path / "2" / "variables", tmp_path / "aside")
        model.poll()
        assert answer(model) == 2
        [broken] = model.status(2)
        assert (broken.state, broken.error_code) == ("END", "NOT_FOUND")
        assert "variables" in broken.error_message
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.move(tmp_path / "aside", tmp_path / "2" / "variables")
        model.poll()
        assert answer(model) == 3


def test_a_damaged_graph_file(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a protobuf message")
    with pytest.raises(ValueError, match=r"^Version 1 of model half does not load: "):
        ServedModel("half", tmp_path, 0).__enter__()


def test_calls_never_fail_while_versions_are_swapped(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    failures, done = [], threading.Event()

    def keep_calling():
        while not done.is_set():
            try:
                if answer(model) not in (2, 3):
                    failures.append("a wrong answer")
            except Exception as error:
                failures.append(error)

    with ServedModel("half", tmp_path, 0.05) as model:
        callers = [threading.Thread(target=keep_calling) for _ in range(4)]
        for caller in callers:
            caller.start()
        for version in range(2, 7):
            publish(half_plus / str(1 + version % 2), tmp_path / str(version))
            wait_for(lambda: model.status()[0].state == "AVAILABLE")
            wait_for(lambda version=version: model.servable().version == version)
        done.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert states(model)[0] == (6, "AVAILABLE")
    assert {state for _, state in states(model)[1:]} == {"END"}


@pytest.mark.parametrize("make", [lambda path: path / "missing", lambda path: path])
def test_a_base_path_with_nothing_to_serve(tmp_path, make):
    with pytest.raises(ValueError, match=r"`model_base_path` must .* Received: model_base_path="):
        ServedModel("half", make(tmp_path), 0).__enter__()


def test_a_negative_poll_interval(tmp_path):
    with pytest.raises(ValueError, match="Received: file_system_poll_wait_seconds=-1"):
        ServedModel("half", tmp_path, -1)
