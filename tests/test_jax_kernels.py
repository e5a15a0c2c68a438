"""The fast forms on JAX against its own convolutions: equal but for rounding."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_multiception as km

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")

sizes = st.sampled_from([1, 3, 5, 7])


def normal(*shape, seed=0):
    return jax.numpy.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def run(layer, x, training, plain):
    """Return outputs and states of a layer, and all gradients and some second ones."""
    trainable = [normal(*v.shape, seed=seed) for seed, v in enumerate(layer.trainable_variables)]
    states = [v.value for v in layer.non_trainable_variables]

    def forward(x, trainable):
        return layer.stateless_call(trainable, states, x, training=training)

    def loss(x, trainable):
        y, _ = forward(x, trainable)
        return (y * normal(*y.shape, seed=99)).sum()

    def steepness(x, trainable):
        return sum((g**2).sum() for g in jax.grad(loss, argnums=(0, 1))(x, trainable)[1][:-1])

    with km.kernels.plain_operations() if plain else contextlib.nullcontext():
        first = jax.grad(loss, argnums=(0, 1))(x, trainable)
        second = () if training else jax.grad(steepness, argnums=(0, 1))(x, trainable)
        return jax.tree.leaves((forward(x, trainable), first, second))


def assert_equal(layer, x, training=False):
    layer.build(x.shape)
    fast, plain = (run(layer, x, training, plain) for plain in (False, True))
    largest = max(np.abs(value).max() for value in plain)
    for ours, theirs in zip(fast, plain, strict=True):
        error = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
        assert error < 2e-5 * max(np.abs(theirs).max(), largest / 100)


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_multiception_equals_the_plain_form(kernel_sizes, strides, height, width, channels):
    layer = km.layers.MulticeptionConv2D(3, kernel_sizes, strides)
    assert_equal(layer, normal(2, height, width, channels))


@pytest.mark.parametrize("kernel_sizes", [(3, 5, 7), (3, 5), (3, 3)])
def test_sizes_of_the_paper_in_training(kernel_sizes):
    layer = km.layers.MulticeptionConv2D(16, kernel_sizes, strides=2)
    assert_equal(layer, normal(8, 16, 16, 12), training=True)


def operations(layer, x):
    return str(jax.make_jaxpr(lambda x: layer(x))(x))


def test_no_convolution_is_left_but_the_1x1():
    layer, x = km.layers.MulticeptionConv2D(3), normal(2, 8, 8, 4)
    layer(x)
    assert operations(layer, x).count("conv_general_dilated") == 1
    with km.kernels.plain_operations():
        assert operations(layer, x).count("conv_general_dilated") == 4


@pytest.mark.parametrize(
    "arguments", [{"dtype": "mixed_bfloat16"}, {"dilation_rate": 2}, {"kernel_sizes": (11, 13)}]
)
def test_what_does_not_fit_stays_plain(arguments):
    layer, x = km.layers.MulticeptionConv2D(3, **arguments), normal(2, 8, 8, 4)
    layer(x)
    assert operations(layer, x).count("conv_general_dilated") > 1
