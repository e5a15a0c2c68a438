"""Keras 3 models as models of Keras 2."""

import ast
import subprocess
import sys

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from keras import layers, ops

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
from keras_multiception.compression import to_tf_keras  # noqa: E402

TYPES = ("standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception")


def network(conv="multiception"):
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(max_value=6)(km.conv_bn(x, 6, 2, conv=conv, name="a"))
    y, z = (km.conv_bn(x, 6, conv=conv, name=name) for name in "bc")
    x = layers.Add()([km.layers.ShakeShake(name="shake")([y, z]), x])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(10, activation="softmax", name="last")(x)
    return randomize(keras.Model(inputs, x, name="net"))


@pytest.fixture(scope="module")
def legacy():
    model = network()
    for name in ("a", "last"):
        model.get_layer(name).trainable = False
    return to_tf_keras(model)


@pytest.mark.parametrize("conv", TYPES)
def test_types_of_convolution(conv):
    model = network(conv)
    legacy = to_tf_keras(model)
    assert isinstance(legacy, tf_keras.Model)
    assert (legacy.name, legacy.layers[0].name) == ("net", "image")
    assert {"shake", "last"} <= {layer.name for layer in legacy.layers}
    assert legacy.count_params() == model.count_params()


def test_frozen_layers_stay_frozen(legacy):
    for layer in legacy.layers:
        is_frozen = layer.name.split("_")[0] in ("a", "last")
        assert not layer.weights or bool(layer.trainable_weights) != is_frozen


def test_both_train_alike():
    x = inputs = keras.Input((6, 6, 3))
    x = km.layers.MulticeptionConv2D(4, (3, 5), 2, activation="relu", name="conv")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    legacy = to_tf_keras(model)
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(4, 6, 6, 3)), rng.normal(size=(4, 4))
    for api, network in ((keras, model), (tf_keras, legacy)):
        network.compile(api.optimizers.SGD(0.1), "mse")
        network.fit(images, targets, epochs=2, verbose=0)
    for a, b in zip(
        legacy.get_layer("conv_pointwise").get_weights(),
        model.get_layer("conv").pointwise_conv.get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # moving variances differ: Keras 2 averages unbiased ones
    y = keras.ops.convert_to_numpy(model(images.astype("float32"), training=True))
    np.testing.assert_allclose(np.asarray(legacy(images, training=True)), y, atol=1e-4)


def test_nested_models_and_shared_layers():
    def inner(name):
        body = [layers.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", name="conv")]
        return keras.Sequential([*body, layers.BatchNormalization(name="bn")], name=name)

    a, b = keras.Input((8, 8, 4), name="a"), keras.Input((8, 8, 4), name="b")
    one, two = inner("one"), inner("two")
    outputs = {"sum": layers.Add()([one(a), one(b)]), "other": two(b)}
    model = randomize(keras.Model({"a": a, "b": b}, outputs))
    legacy = to_tf_keras(model)
    assert {"conv", "bn", "two_conv", "two_bn"} <= {layer.name for layer in legacy.layers}
    assert legacy.count_params() == model.count_params()
    assert set(legacy.output) == {"sum", "other"}


def test_nested_models_are_called_by_name():
    a, b = (keras.Input((8, 8, 4), name=name) for name in "ab")
    inner = keras.Model([b, a], layers.Add()([b, layers.ReLU()(a)]))
    p, q = (keras.Input((8, 8, 4), name=name) for name in "pq")
    model = keras.Model([p, q], inner({"b": p, "a": q}))
    images = [np.random.default_rng(i).normal(size=(2, 8, 8, 4)).astype("float32") for i in (0, 1)]
    np.testing.assert_allclose(np.asarray(to_tf_keras(model)(images)), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("LayerNormalization norm", layers.LayerNormalization(name="norm")),
        ("Conv2D conv with activation=relu6", layers.Conv2D(4, 1, activation="relu6", name="conv")),
        ("Dense d with activation=PReLU", layers.Dense(4, layers.PReLU(), name="d")),
        (
            "MulticeptionConv2D m with activation=selu",
            km.layers.MulticeptionConv2D(4, activation="selu", name="m"),
        ),
        *(("", f) for f in (ops.exp, lambda x: x * 2.0, lambda x: x + x)),
    ],
)
def test_unknown_layers_and_functions_are_named(name, call):
    inputs = keras.Input((6, 6, 4))
    message = rf"`model` must consist of layers.* Received: [A-Z]?.*{name}"
    with pytest.raises(ValueError, match=message):
        to_tf_keras(keras.Model(inputs, call(inputs)))


def test_dropout_that_stays_on_is_refused():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, layers.Dropout(0.5)(inputs, training=True))
    with pytest.raises(ValueError, match=r"`model` must .*training=True"):
        to_tf_keras(model)


CODE = """
import os
from keras_multiception.compression.tf_keras_bridge import import_tfmot
tfmot = import_tfmot()
import keras, tensorflow as tf
legacy = os.environ.get("TF_USE_LEGACY_KERAS")
same = [x.layers.Dense is keras.layers.Dense for x in (tf.keras, tf.compat.v2.keras)]
print([tfmot.__name__, legacy, *same])
"""


@pytest.mark.slow
def test_the_toolkit_leaves_keras_what_it_is():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert ast.literal_eval(last) == ["tensorflow_model_optimization", None, True, True]


def test_every_layer():
    x = inputs = keras.Input((12, 12, 4))
    y = layers.Conv2D(4, 3, padding="same", groups=2)(x)
    x = layers.Concatenate()([layers.Average()([x, y]), layers.Multiply()([x, y])])
    x = layers.Cropping2D(1)(layers.ZeroPadding2D((1, 2))(layers.Rescaling(2.0, offset=1.0)(x)))
    x = layers.SeparableConv2D(3, 3, dilation_rate=2)(layers.ReLU(6, 0.1, 0.2)(x))
    x = layers.MaxPooling2D()(layers.AveragePooling2D(3, 1)(x))
    x = layers.Reshape((2, 2))(layers.Dense(4, "tanh")(layers.GlobalMaxPooling2D()(x)))
    outputs = [layers.Softmax()(x), layers.Dense(5, "softmax", dtype="mixed_bfloat16")(x)]
    legacy = to_tf_keras(keras.Model(inputs, outputs))
    assert [tuple(y.shape) for y in legacy.outputs] == [tuple(y.shape) for y in outputs]


FAMILIES = ("resnet20", "seresnet20", "shakeshake26", "mobilenetv2")
DEEP = [(name, "multiception") for name in ("resnet110", "seresnet110")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "conv"), [*((name, conv) for name in FAMILIES for conv in TYPES), *DEEP]
)
def test_zoo(name, conv):
    if name == "mobilenetv2" and conv not in ("dsconv", "multiception"):
        pytest.skip("not a network of this convolution")
    narrow = {"shakeshake26": {"filters": 8}, "mobilenetv2": {"alpha": 0.35}}
    narrow = narrow.get(name, {"filters": 4})
    model = km.create_model(name, input_shape=(8, 8, 3), conv=conv, **narrow)
    to_tf_keras(randomize(model))
