import keras
import numpy as np
import pytest

import keras_multiception as km

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


@pytest.mark.parametrize("model", [None, keras.Sequential([keras.layers.Dense(2)])])
def test_only_built_models_are_taken(model):
    with pytest.raises(ValueError, match="`model` must be a built"):
        km.inference_function(model)
