"""What fusion, replacement, costs and scale analysis share: how they read and copy graphs."""

import keras
import numpy as np
import pytest
from fusion_checks import assert_unchanged, chain, fuse, randomize, train
from keras import layers, ops
from layer_checks import forward

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


def replace(model, where=None):
    return km.replace_convolutions(model, kernel_sizes=3, where=where, verbose=False)


def copy(model):
    """Rebuild a model, every layer as it is."""
    return replace(model, where=[])


def assert_same_answers(new, model, inputs):
    pairs = zip(*(keras.tree.flatten(forward(m, inputs)) for m in (new, model)), strict=True)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual.astype("float32"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [fuse, copy])
@pytest.mark.parametrize("call", [by_name, in_order, twice])
def test_nested_models_are_called_as_keras_does(call, function):
    model = outer_model(call)
    assert_same_answers(function(model), model, two_images())
    once = km.cost(outer_model(in_order)).multiply_adds
    assert km.cost(model).multiply_adds == once * (2 if call is twice else 1)


def test_layers_and_models_that_are_called_by_keyword():
    def model(argument):
        def call(layer, x):
            return layer(**{argument: x}) if argument else layer(x)

        x = inputs = keras.Input((8, 8, 3))
        x = call(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)], name="nested"), x)
        x = call(layers.BatchNormalization(name="bn"), x)
        x = call(km.layers.MulticeptionConv2D(4, name="a"), x)
        return keras.Model(inputs, call(km.layers.MixConv2D(4, name="b"), x))

    costs = [[x.multiply_adds for x in km.cost(model(name)).layers] for name in ("inputs", None)]
    assert costs[0] == costs[1]
    folded = fuse(model("inputs")).fusion_report.folded
    assert folded == ["a/depthwise_bn", "a/pointwise_bn", "bn"]


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize("function", [fuse, km.cost, replace])
@pytest.mark.parametrize(
    "make",
    [scaled, Subclassed, lambda: keras.Sequential([layers.Dense(2)]), lambda: layers.Dense(2), str],
)
def test_models_without_a_graph_are_refused(make, function):
    with pytest.raises(ValueError, match=r"`model` must be a Functional.* of Keras 3.*Received: "):
        function(make())


class Stubborn(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize("function", [fuse, copy])
def test_a_layer_that_cannot_be_rebuilt_is_named(function):
    with pytest.raises(ValueError, match=r"`model` must consist of layers .*'stubborn'"):
        function(chain(Stubborn(ops.abs, name="stubborn")))


@pytest.mark.parametrize("function", [fuse, km.cost, replace])
def test_the_model_stays_as_it_is(function):
    model = outer_model(by_name)
    weights, config = model.get_weights(), model.get_config()
    nodes = [len(layer._outbound_nodes) for layer in model.layers]
    result = function(model)
    assert model.get_config() == config
    assert [len(layer._outbound_nodes) for layer in model.layers] == nodes
    assert_unchanged(model, weights)
    assert not {*map(id, model.layers)} & {*map(id, result.layers)}


@pytest.mark.backend
@pytest.mark.parametrize("function", [fuse, replace])
@pytest.mark.parametrize("is_built", [False, True])
def test_activations_that_are_layers_are_copied(is_built, function):
    slopes = layers.PReLU(keras.initializers.Constant(0.3), shared_axes=[1, 2], name="slopes")
    x = inputs = keras.Input((6, 6, 8))
    for name in "ab":
        x = layers.Conv2D(8, 3, padding="same", activation=slopes, name=name)(x)
    x = km.layers.MixConv2D(8, (3, 5), activation=slopes, name="mix")(x)
    model = keras.Model(inputs, layers.Conv2DTranspose(2, 3, activation=layers.PReLU())(x))
    images = RNG.normal(size=(2, 6, 6, 8)).astype("float32")
    if is_built:
        model(images)
        slopes.alpha.assign(np.arange(8).reshape(1, 1, 8) / 8)
    expected = forward(model, images)
    new = function(model)
    received = forward(new, images)
    if function is fuse:
        np.testing.assert_allclose(received, expected, atol=1e-5)
    for copied in [x for x in new._flatten_layers() if x.name == "slopes"]:
        assert copied is not slopes
        np.testing.assert_allclose(*(ops.convert_to_numpy(x.alpha) for x in (copied, slopes)))
    train(new, images)
    np.testing.assert_array_equal(forward(model, images), expected)


@pytest.mark.backend
@pytest.mark.parametrize("function", [fuse, copy])
def test_lambdas_operations_and_state_survive(function):
    offset = 3.0
    x = keras.Input((8, 8, 3), name="image")
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(np.random.default_rng(0).normal(5, 2, (16, 8, 8, 3)))
    y = layers.Lambda(lambda x: x + offset, name="lambda")(normalization(x))
    y = layers.Conv2D(4, 3, name="conv")(y)
    y = ops.reshape(ops.relu(y[:, 1:]) * 0.5, (-1, 20, 6))
    y = ops.concatenate([y, ops.flip(y, axis=1)], axis=-1)
    y = layers.TimeDistributed(layers.Dense(2), name="dense")(ops.mean(y, axis=[1], keepdims=True))
    model = keras.Model(x, y)
    image = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    assert_same_answers(function(model), model, image)


def test_inputs_to_compare_with_may_be_given_by_name():
    b, a = (keras.Input((8, 8, size), name=name) for size, name in ((3, "b"), (5, "a")))
    model = keras.Model([b, a], layers.Concatenate()([layers.ReLU()(b), a]))
    images = {name: RNG.normal(size=(2, 8, 8, size)) for size, name in ((3, "b"), (5, "a"))}
    assert fuse(model, inputs=images).fusion_report.difference == 0
    with pytest.raises(ValueError, match="`inputs` must fit the model's"):
        fuse(model, inputs={"b": images["b"]})


@pytest.mark.parametrize("function", [fuse, copy])
def test_nested_models_with_a_call_of_their_own_stay(function):
    x = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same", name="other")(x)
    model = randomize(keras.Model(x, layers.BatchNormalization()(scaled()(y))))
    assert_same_answers(function(model), model, two_images()[0])
