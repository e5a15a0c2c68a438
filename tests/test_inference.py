import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception.inference import Pool

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def model():
    image = keras.Input((4, 4, 3))
    x = km.conv_bn(image, 2, strides=2, kernel_sizes=(3, 5))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(4)(x))


@pytest.fixture(scope="module")
def run(model):
    return km.inference_function(model)


def images(count):
    return np.random.default_rng(count).normal(size=(count, 4, 4, 3)).astype("float32")


def check(run, model, batch):
    answers = run(batch)
    assert keras.backend.standardize_dtype(answers.dtype) == "float32"
    expected = model(keras.ops.cast(batch, "float32"), training=False)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (answers, expected)), atol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [images(1), images(3), keras.ops.convert_to_tensor(images(1)), images(1).astype("float64")],
    ids=["one", "three", "tensor", "float64"],
)
def test_answers_like_the_model_whatever_comes_in(run, model, batch):
    check(run, model, batch)


def test_uses_the_weights_of_the_moment(run, model):
    before = keras.ops.convert_to_numpy(run(images(1)))
    model.set_weights([weight + 1 for weight in model.get_weights()])
    assert not np.allclose(before, keras.ops.convert_to_numpy(run(images(1))))
    check(run, model, images(1))


@pytest.mark.parametrize("as_list", [False, True])
def test_inputs_of_a_list_or_a_dictionary_may_come_by_their_names(as_list):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", dtype="int32")
    total = keras.layers.Add()([a, keras.ops.cast(b, "float32")])
    model = keras.Model([b, a] if as_list else {"a": a, "b": b}, {"sum": total, "a": a})
    answers = km.inference_function(model)({"a": np.full((1, 4), 0.5), "b": np.full((1, 4), 2)})
    assert set(answers) == {"sum", "a"}
    np.testing.assert_allclose(keras.ops.convert_to_numpy(answers["sum"]), np.full((1, 4), 2.5))


engines = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs TensorFlow")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def fast(request, model):
    return km.inference_function(model, engine=request.param, threads=2)


@engines
def test_an_engine_answers_like_the_model_from_many_threads(fast, model):
    batches = [images(count) for count in (1, 3, 1, 8) * 8]
    expected = [model(batch, training=False) for batch in batches]
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(fast, batches))
    largest = max(np.abs(y).max() for y in expected)
    for pair in zip(answers, expected, strict=True):
        np.testing.assert_allclose(*pair, atol=1e-6 * largest)


def test_a_pool_hands_out_first_come_first_served():
    pool, order = Pool([1]), []

    def wait(number):
        with pool.borrow():
            order.append(number)

    with ThreadPoolExecutor(4) as executor:
        with pool.borrow():
            for number in range(4):
                executor.submit(wait, number)
                time.sleep(0.1)
        wait("the one that gave it back")
    assert order == [*range(4), "the one that gave it back"]


@engines
def test_an_engine_has_the_weights_of_when_it_was_made(fast, model):
    before, old = fast(images(1)), model.get_weights()
    model.set_weights([weight + 1 for weight in old])
    np.testing.assert_array_equal(fast(images(1)), before)
    model.set_weights(old)


@engines
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_an_engine_takes_and_gives_the_structures_of_the_model(engine, capsys):
    a, b = keras.Input((4,), name="b"), keras.Input((4,), name="a", dtype="int32")
    total = keras.layers.Add()([a, keras.ops.cast(b, "float32")])
    model = keras.Model([a, b], {"sum": total, "parts": [a * 2, b]})
    run = km.inference_function(model, engine=engine, batch_size=3)
    halves, twos = np.full((1, 4), 0.5), np.full((1, 4), 2)
    for inputs in ([halves, twos], {"b": halves, "a": keras.ops.convert_to_tensor(twos)}):
        answers = run(inputs)
        np.testing.assert_allclose(answers["sum"], np.full((1, 4), 2.5))
        np.testing.assert_allclose(answers["parts"][0], np.full((1, 4), 1.0))
        np.testing.assert_array_equal(answers["parts"][1], np.full((1, 4), 2))
    assert all((name in capsys.readouterr().out) == (engine == "auto") for name in ["openvino"])


@engines
def test_openvino_reports_nothing_to_its_makers(tmp_path):
    """Its telemetry would make a number for this machine in the home folder, then send events."""
    code = """
import keras, numpy as np, keras_multiception as km
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
km.inference_function(model, engine="openvino")(np.zeros((1, 4)))
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"engine": "tensorrt"}, ValueError, "`engine`"),
        ({"engine": "openvino", "threads": 0}, ValueError, "`threads`"),
        ({"threads": 2}, ValueError, "`threads`"),
        ({"engine": "auto", "batch_size": 0}, ValueError, "`batch_size`"),
    ],
)
def test_arguments_out_of_range(model, arguments, error, words):
    with pytest.raises(error, match=words):
        km.inference_function(model, **arguments)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow has the engines")
def test_engines_need_the_tensorflow_backend(model, capsys):
    with pytest.raises(RuntimeError, match="TensorFlow backend"):
        km.inference_function(model, engine="openvino")
    run = km.inference_function(model, engine="auto")
    np.testing.assert_allclose(
        run(images(1)), keras.ops.convert_to_numpy(model(images(1))), atol=1e-5
    )


@pytest.mark.parametrize("model", [None, keras.Sequential([keras.layers.Dense(2)])])
def test_only_built_models_are_taken(model):
    with pytest.raises(ValueError, match="`model` must be a built"):
        km.inference_function(model)
