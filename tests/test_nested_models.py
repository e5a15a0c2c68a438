"""Models in models, read as Keras calls them: by name, with a cast, with a `call` of their own."""

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from keras import layers, ops

import keras_multiception as km

RNG = np.random.default_rng(0)


def inner_model():
    """A model of two inputs that are not alike; the alphabet has them the other way round."""
    a, b = (keras.Input((8, 8, 4), name=name) for name in "ab")
    x = km.layers.MulticeptionConv2D(6, (3, 5), name="wide")(b)
    y = layers.Conv2D(6, 3, padding="same", name="narrow")(a)
    return keras.Model([b, a], layers.Subtract()([x, y]), name="inner")


def outer_model(call):
    """A model that calls another on its two inputs by `call(model, first, second)`."""
    p, q = (keras.Input((8, 8, 4), name=name) for name in "pq")
    y = call(inner_model(), layers.ReLU()(p), layers.ReLU()(q))
    return randomize(keras.Model([p, q], y))


def by_name(model, first, second):
    return model({"b": first, "a": second})


def in_order(model, first, second):
    return model([first, second])


def two_images():
    return [RNG.normal(size=(2, 8, 8, 4)).astype("float32") for _ in range(2)]


def twice(model, first, second):
    return layers.Add()([by_name(model, first, second), by_name(model, second, first)])


class Scaled(keras.Model):
    """A Functional model whose answers are not those of its graph."""

    def call(self, inputs, **kwargs):
        return 5 * super().call(inputs, **kwargs)


def scaled():
    x = keras.Input((8, 8, 4))
    return Scaled(x, layers.Conv2D(4, 3, padding="same", name="conv")(x), name="scaled")


def assert_same_answers(new, model, inputs):
    expected, actual = (ops.convert_to_numpy(ops.cast(m(inputs), "float32")) for m in (model, new))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("call", [by_name, in_order, twice])
def test_fused(call):
    model = outer_model(call)
    assert_same_answers(km.fuse(model, verbose=False), model, two_images())


def test_inputs_to_compare_with_may_be_given_by_name():
    b, a = (keras.Input((8, 8, size), name=name) for size, name in ((3, "b"), (5, "a")))
    model = keras.Model([b, a], layers.Concatenate()([layers.ReLU()(b), a]))
    images = {name: RNG.normal(size=(2, 8, 8, size)) for size, name in ((3, "b"), (5, "a"))}
    assert km.fuse(model, inputs=images, verbose=False).fusion_report.difference == 0
    with pytest.raises(ValueError, match="`inputs` must fit those of the model"):
        km.fuse(model, inputs={"b": images["b"]}, verbose=False)


@pytest.mark.parametrize("call", [by_name, in_order, twice])
def test_replaced(call):
    model = outer_model(call)
    new = km.replace_convolutions(model, where=[], verbose=False)
    assert_same_answers(new, model, two_images())


def test_costs_of_inputs_by_name():
    named, ordered = (km.cost(outer_model(call)) for call in (by_name, in_order))
    assert named.multiply_adds == ordered.multiply_adds
    assert [layer.output_shape for layer in named.layers] == [
        layer.output_shape for layer in ordered.layers
    ]


def test_scales_of_inputs_by_name():
    def shares(call):
        x = keras.Input((8, 8, 4))
        model = keras.Model(x, call(inner_model(), x, layers.Rescaling(2.0)(x)))
        for w in model.trainable_weights:
            w.assign(np.random.default_rng(1).normal(size=w.shape))
        (only,) = km.scale_analysis.energy_shares(model, images)
        return only.branches

    images = two_images()[0]
    np.testing.assert_allclose(shares(by_name), shares(in_order), rtol=1e-5)


def test_a_cast_at_the_border_stays():
    x = keras.Input((8, 8, 4), dtype="int32")
    y = layers.Conv2D(4, 3, padding="same")(ops.cast(x, "float32"))
    whole = keras.Model(x, y, name="whole_numbers")
    x = keras.Input((8, 8, 4))
    model = randomize(keras.Model(x, whole(layers.Rescaling(3.0)(x))))
    assert_same_answers(km.fuse(model, verbose=False), model, two_images()[0])
    assert km.cost(model).multiply_adds == 8 * 8 * 9 * 4 * 4


def test_mixed_precision_is_no_border():
    x = keras.Input((8, 8, 4))
    body = keras.Model(x, km.conv_bn(x, 4, name="body"), name="nested")
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")(x)
    model = randomize(keras.Model(x, body(y)))
    assert "nested" not in [layer.name for layer in km.fuse(model, verbose=False).layers]


@pytest.mark.parametrize("function", [km.fuse, km.cost, km.replace_convolutions])
def test_models_with_a_call_of_their_own_are_refused(function):
    with pytest.raises(ValueError, match="`model` must be a Functional model"):
        function(scaled())


@pytest.mark.parametrize("function", [km.fuse, km.replace_convolutions])
def test_nested_models_with_a_call_of_their_own_stay(function):
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same", name="other")(x)
    y = layers.BatchNormalization()(scaled()(y))
    model = randomize(keras.Model(x, y))
    kwargs = {} if function is km.fuse else {"where": []}
    assert_same_answers(function(model, verbose=False, **kwargs), model, two_images()[0])
