"""Batch norm by TensorFlow's fused operation against that of Keras."""

import keras
import numpy as np
import pytest
from kernel_checks import assert_equal, images, step

import keras_multiception as km

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_mixed_precision(policy, training):
    layer = km.layers.BatchNormalization(dtype=policy)
    x = images(8, 6, 6, 5)
    layer.build(x.shape)
    fast, plain = step(layer, x, training), step(layer, x, training, plain=True)
    # both compute in float32; rounding to the shorter type may fall to either side
    assert_equal(fast, plain, 2 ** (-7 if policy == "mixed_bfloat16" else -10))
    for name in ("moving_mean", "moving_variance"):
        ours, theirs = (
            value for each in (fast, plain) for key, value in each.items() if key.endswith(name)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (4, 5, 5, 3)),
        ({}, (1, 1, 1, 3)),
        ({}, (4, 7)),
        ({"axis": 1}, (4, 5, 5, 3)),
        ({"scale": False}, (4, 5, 5, 3)),
        ({"center": False}, (4, 5, 5, 3)),
        ({"momentum": 0.3, "epsilon": 0.1}, (4, 5, 5, 3)),
        ({"trainable": False}, (4, 5, 5, 3)),
        ({"synchronized": True}, (4, 5, 5, 3)),
        ({"dtype": "float64"}, (4, 5, 5, 3)),
        ({"dtype": "bfloat16"}, (4, 5, 5, 3)),
        ({"dtype": "float16"}, (4, 5, 5, 3)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_keras(arguments, shape, training):
    ours = km.layers.BatchNormalization(**arguments)
    theirs = keras.layers.BatchNormalization(**arguments)
    x = images(*shape, dtype=arguments.get("dtype", "float32"))
    for layer in (ours, theirs):
        layer.build(x.shape)
    fast, plain = step(ours, x, training), step(theirs, x, training)
    plain = dict(zip(fast, plain.values(), strict=True))  # names of layers differ
    assert_equal(fast, plain)


def test_batch_norm_with_a_mask_is_that_of_keras():
    x, mask = images(4, 5, 5, 3), tf.constant(np.random.default_rng(0).random((4, 5, 5)) < 0.5)
    ours, theirs = km.layers.BatchNormalization(), keras.layers.BatchNormalization()
    y = [layer(x, training=True, mask=mask) for layer in (ours, theirs)]
    np.testing.assert_allclose(*y, rtol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-6)


def test_models_are_saved_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 2)), km.layers.BatchNormalization()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is km.layers.BatchNormalization
