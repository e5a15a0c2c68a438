"""A saved network in a process that knows nothing but `import keras_multiception`."""

import copy
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from test_floors import ROOT

import keras_multiception as km

pytestmark = pytest.mark.backend

LOAD = """
import sys
import keras, numpy
import keras_multiception
folder = sys.argv[1]
model = keras.models.load_model(f"{folder}/model.keras")
y = model.predict_on_batch(numpy.load(f"{folder}/x.npy"))
numpy.save(f"{folder}/loaded.npy", y)
"""


def network():
    """A network with each of our layers and our optimizer."""
    inputs = keras.Input((16, 16, 3))
    x = km.layers.MulticeptionConv2D(8, (3, (5, 3)), strides=2, activation="relu")(inputs)
    x = km.layers.MixConv2D(8, (3, 5))(x)
    x = km.layers.ShakeShake()([x, km.conv_bn(x, 8, conv="dsconv")])
    x = km.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    model.compile(km.optimizers.SGDL2(0.01), "mse")
    return model


class Gated(km.layers.MixConv2D):
    """A layer with a part and a variable of its own, without names."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gate = keras.layers.Dense(6)
        self.gate.build((None, 6))
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return super().call(x) * self.gate(x) * self.factor


def multiception(trainable=True):
    activation = keras.layers.PReLU(shared_axes=[1, 2])
    return km.layers.MulticeptionConv2D(6, (3, (5, 3)), activation=activation, trainable=trainable)


FROZEN = {  # a layer, and what of it gets the other `trainable`
    "norm": (multiception, lambda x: [x.depthwise_bn]),
    "parts": (multiception, lambda x: [x.depthwise_convs[1], x.pointwise_conv, x.activation]),
    "variables": (
        multiception,
        lambda x: [x.pointwise_conv.bias, x.depthwise_bn.gamma, x.activation.alpha],
    ),
    "all but": (lambda: multiception(False), lambda x: [x.pointwise_bn, x.pointwise_conv.bias]),
    "mix": (lambda: km.layers.MixConv2D(6, (3, 5), use_bias=True), lambda x: [x.convs[1]]),
    "bias": (
        lambda: km.layers.MixConv2D(6, (3, 5), use_bias=True),
        lambda x: [x.convs[0].bias, x.convs[1]],
    ),
    "derived": (lambda: Gated(6, (3, 5)), lambda x: [x.gate.bias, x.factor]),
    "batch norm": (km.layers.BatchNormalization, lambda x: [x.beta]),
}


def flags(layer):
    return [x.trainable for x in (*layer._flatten_layers(), *layer.weights)]


@pytest.mark.parametrize("case", FROZEN)
def test_what_is_frozen_inside_a_layer_stays_frozen(case, tmp_path):
    make, choose = FROZEN[case]
    layer = make()
    model = keras.Sequential([keras.Input((8, 8, 6)), layer])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype("float32")
    y = keras.ops.convert_to_numpy(model(x))
    everything = flags(layer)
    for part in choose(layer):
        part.trainable = not layer.trainable
    expected = flags(layer)
    assert expected != everything
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "all.weights.h5")
    with keras.saving.custom_object_scope({"Gated": Gated}):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        copies = [
            loaded,
            keras.models.clone_model(model),
            copy.deepcopy(model),
            km.replace_convolutions(model, verbose=False),
        ]
    fresh = type(layer).from_config(layer.get_config())  # some of its flags wait until it is built
    again = type(layer).from_config(fresh.get_config())
    copies += [keras.Sequential([keras.Input((4, 4, 6)), again])]
    if case != "batch norm":  # the class itself is that of Keras
        again = type(layer)(**layer.get_config())
        copies += [keras.Sequential([keras.Input((4, 4, 6)), again])]
    for other in copies:
        assert flags(other.layers[-1]) == expected
        assert len(other.trainable_variables) == len(model.trainable_variables)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(x)), y, rtol=1e-6)
    changed = type(layer).from_config(layer.get_config())
    changed.trainable = True  # undoes what was before
    layer.trainable = True
    other = keras.Sequential([keras.Input((8, 8, 6)), changed])
    assert flags(changed) == flags(layer)
    other.load_weights(tmp_path / "all.weights.h5")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(other(x)), y, rtol=1e-6)


def test_a_frozen_norm_inside_a_layer_keeps_its_statistics(tmp_path):
    layer = multiception()
    model = keras.Sequential([keras.Input((8, 8, 6)), layer])
    layer.depthwise_bn.trainable = False
    model.save(tmp_path / "model.keras")
    layer = keras.models.load_model(tmp_path / "model.keras").layers[-1]
    layer(np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32"), training=True)
    still, moved = layer.depthwise_bn.moving_mean, layer.pointwise_bn.moving_mean
    assert not np.any(keras.ops.convert_to_numpy(still))
    assert np.all(keras.ops.convert_to_numpy(moved))


def test_loads_in_a_fresh_process(tmp_path):
    model = randomize(network())
    model.optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    model.save(tmp_path / "model.keras")
    subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        check=True,
    )
    loaded = np.load(tmp_path / "loaded.npy")
    expected = model.predict_on_batch(x)
    np.testing.assert_allclose(loaded, expected, rtol=1e-6, atol=1e-6)
