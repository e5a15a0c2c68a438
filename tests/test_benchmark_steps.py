"""What the benchmark times is what it says: a training step and fit."""

import keras
import numpy as np
import pytest

from training.benchmarks.training_steps import make_fit, make_step

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(
        keras.backend.backend() == "torch", reason="the benchmark is for TensorFlow and JAX"
    ),
]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 3, 6)


def classifier():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy"
    )
    return model


def test_fit_takes_as_many_steps_as_it_says(batch):
    ours, expected = classifier(), classifier()
    make_fit(ours, *batch, steps=3)()
    for _ in range(3):
        expected.train_on_batch(*batch)
    for a, b in zip(ours.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_bare_step_has_the_losses_of_keras(batch):
    step, expected = make_step(classifier(), *batch), classifier()
    for _ in range(3):
        np.testing.assert_allclose(step(), expected.train_on_batch(*batch), rtol=1e-5)
