"""A saved network in a process that knows nothing but `import keras_multiception`."""

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


@pytest.mark.parametrize(
    "layer",
    [
        km.layers.MulticeptionConv2D(4, (3, 5), trainable=False),
        km.layers.MixConv2D(6, (3, 5), trainable=False),
    ],
)
def test_frozen_layers_stay_frozen(layer, tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 6)), layer])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
    for other in (
        model,
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert not other.trainable_variables
        before = other.get_weights()
        other(x, training=True)  # with the moving statistics, which stay
        for now, then in zip(other.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)
        other.layers[-1].trainable = True
        assert len(other.trainable_variables) >= 2


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
