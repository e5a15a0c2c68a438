"""What tests of the fast forms share: one pass through a layer, and what may differ."""

import contextlib

import numpy as np
import pytest

import keras_multiception as km

tf = pytest.importorskip("tensorflow")

# In training, a batch norm takes away what these add: their gradient is nothing but rounding.
SHIFTS = ("pointwise/bias", "depthwise_bn/beta")


def values(layer, seed=0):
    """Draw values for all variables of a layer."""
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(0.5, 2, v.shape) if "variance" in v.name else rng.normal(size=v.shape)
        for v in layer.variables
    ]


def step(layer, x, training, plain=False, compiled=False):
    """Return outputs, gradients and states of a layer by name, after one pass from `values`."""
    for variable, value in zip(layer.variables, values(layer), strict=True):
        variable.assign(value)

    def forward_backward():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            weights = tf.constant(np.random.default_rng(1).normal(size=y.shape), y.dtype)
            loss = tf.reduce_sum(tf.cast(y * weights, "float32"))
        sources = {"x": x} | {v.path: v.value for v in layer.trainable_variables}
        return y, tape.gradient(loss, sources)

    with km.kernels.plain_operations() if plain else contextlib.nullcontext():
        run = tf.function(forward_backward, jit_compile=True) if compiled else forward_backward
        y, gradients = run()
    states = {v.path: v.value for v in layer.non_trainable_variables}
    found = {"y": y} | {f"gradient of {k}": v for k, v in gradients.items()} | states
    return {
        name: np.asarray(tf.cast(value, "float32"))
        for name, value in found.items()
        if not (training and name.endswith(SHIFTS))
    }


def errors(found, expected):
    """Errors by the largest value of each array, or a hundredth of the largest gradient of all."""
    assert found.keys() == expected.keys()
    gradients = [np.abs(v).max() for name, v in expected.items() if name.startswith("gradient")]
    scales = {
        name: max(
            np.abs(value).max(), max(gradients) / 100 if name.startswith("gradient") else 1e-3
        )
        for name, value in expected.items()
    }
    return {name: np.abs(found[name] - expected[name]).max() / scales[name] for name in expected}


def assert_equal(fast, plain, tolerance=1e-5):
    for name, error in errors(fast, plain).items():
        assert error < tolerance, f"{name}: {error}"


def assert_as_exact(fast, plain, exact):
    """Errors against float64 under 1e-5, or what rounding alone does to the plain form.

    Where batch norm leaves almost nothing of a gradient, both forms are far from the exact one.

    Args:
        fast: Values from `step`.
        plain: List of values from `step` in float32, of images that differ by a rounding.
        exact: Values from `step` in float64.
    """
    rounding = [errors(each, exact) for each in plain]
    for name, error in errors(fast, exact).items():
        bound = 1e-5 + 8 * max(each[name] for each in rounding)
        assert error < bound, f"{name}: {error} of {bound}"


def images(*shape, dtype="float32"):
    return tf.constant(np.random.default_rng(2).normal(size=shape), dtype)
