"""What the benchmark times is what it says: a training step, fit, forms of equal branches."""

import keras
import numpy as np
import pytest

from keras_multiception.machine import gpu_names
from training.benchmarks import branches, keras_side
from training.benchmarks.plan import Plan
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


@pytest.mark.parametrize("form", sorted(branches.FORMS.keys() - {"pallas"}))
def test_branches_have_equal_values(form):
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.normal(size=(2, 9, 8, 4)), "float32")
    kernels = [
        keras.ops.convert_to_tensor(rng.normal(size=(k, k, 4, 1)), "float32") for k in (3, 5, 7)
    ]
    pairs = zip(branches.FORMS[form](x, kernels), branches.grouped(x, kernels), strict=True)
    for y, expected in pairs:
        y, expected = map(keras.ops.convert_to_numpy, (y, expected))
        np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.skipif(bool(gpu_names()), reason="a GPU compiles them")
def test_kernels_that_would_be_interpreted_are_left_out():
    plan = Plan((), (), ("branches",), ("grouped", "pallas"), batch_size=1)
    jobs, left_out = keras_side.make_jobs(plan)
    assert {case.form for case in jobs} == {"grouped"}
    assert left_out == ["pallas: it needs Keras on JAX and a GPU"]


def test_work_of_branches_counts_the_images_once_and_every_output():
    counts = branches.work(Plan((), (), ("branches",), (), batch_size=2))
    what = ("branches", "branches 3-5-7, 32x32x16", "multiception", 2)
    numbers = 2 * 32 * 32 * 16
    assert counts[what] == {
        "flop": 3 * 2 * numbers * (9 + 25 + 49),
        "bytes": 3 * 4 * numbers * (1 + 3),  # three passes, float32
    }
    assert len(counts) == len(branches.STAGES) == 3
