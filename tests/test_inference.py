import keras
import numpy as np
import pytest

import keras_multiception as km

pytestmark = pytest.mark.backend


@pytest.fixture
def model():
    image = keras.Input((8, 8, 3))
    x = km.conv_bn(image, 6, strides=2, kernel_sizes=(3, 5))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, keras.layers.Dense(4)(x))


def images(count):
    return np.random.default_rng(count).normal(size=(count, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", [np.asarray, keras.ops.convert_to_tensor], ids=["array", "tensor"])
def test_answers_like_predict_whatever_comes_in(model, count, make):
    run = km.inference_function(model)
    answers = keras.ops.convert_to_numpy(run(make(images(count))))
    np.testing.assert_allclose(answers, model.predict(images(count), verbose=0), atol=1e-5)


def test_takes_the_type_that_the_model_takes(model):
    expected = model.predict(images(2), verbose=0)
    answers = km.inference_function(model)(images(2).astype("float64"))
    assert keras.backend.standardize_dtype(answers.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(answers), expected, atol=1e-5)


def test_uses_the_weights_of_the_moment(model):
    run = km.inference_function(model)
    before = keras.ops.convert_to_numpy(run(images(2)))
    model.set_weights([weight + 1 for weight in model.get_weights()])
    after = keras.ops.convert_to_numpy(run(images(2)))
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, model.predict(images(2), verbose=0), rtol=1e-4)


def test_keeps_the_structure_of_inputs_and_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", dtype="int32")
    total = keras.layers.Add()([a, keras.ops.cast(b, "float32")])
    model = keras.Model({"a": a, "b": b}, {"sum": total, "a": a})
    run = km.inference_function(model)
    answers = run({"a": np.ones((1, 4)), "b": np.full((1, 4), 2)})
    assert set(answers) == {"sum", "a"}
    np.testing.assert_allclose(keras.ops.convert_to_numpy(answers["sum"]), np.full((1, 4), 3.0))


@pytest.mark.parametrize("order", [1, -1])
def test_inputs_of_a_list_may_come_by_their_names(order):
    image, ids = keras.Input((4,), name="image"), keras.Input((4,), name="ids", dtype="int32")
    total = keras.layers.Add()([image, keras.ops.cast(ids, "float32")])
    model = keras.Model([image, ids][::order], total)
    batch = {"image": np.full((1, 4), 0.5, "float32"), "ids": np.full((1, 4), 2, "int32")}
    answers = keras.ops.convert_to_numpy(km.inference_function(model)(batch))
    np.testing.assert_allclose(answers, model.predict(batch, verbose=0))
    np.testing.assert_allclose(answers, np.full((1, 4), 2.5))


@pytest.mark.parametrize("model", [None, keras.Sequential([keras.layers.Dense(2)])])
def test_only_built_models_are_taken(model):
    with pytest.raises(ValueError, match="`model` must be a built"):
        km.inference_function(model)
