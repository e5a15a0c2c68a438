"""The fused operations on JAX against its own convolutions: equal but for rounding.

On a CPU Pallas interprets its kernels; that they compile for a GPU is tested by lowering them.
"""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import assert_close

import keras_multiception as km

jax = pytest.importorskip("jax")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX"),
]
jax_kernels = pytest.importorskip("keras_multiception.kernels.jax_kernels")
pallas_kernels = pytest.importorskip("keras_multiception.kernels.pallas_kernels")

sizes = st.sampled_from([1, 3, 5])


def normal(*shape, seed=0, dtype="float32"):
    return jax.numpy.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def inputs(*shape, kernel_sizes=(3, 5, 7), dtype="float32"):
    kernels = [normal(k, k, shape[-1], 1, seed=k, dtype=dtype) for k in kernel_sizes]
    return normal(*shape, dtype=dtype), kernels


def grouped(x, kernels):
    """A depthwise convolution for each kernel."""
    return [keras.ops.depthwise_conv(x, kernel, padding="same") for kernel in kernels]


def assert_all_close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(np.asarray(a, "float32"), np.asarray(b, "float32"), tolerance)


def passed(layer, x, training, plain):
    """Return outputs, states and gradients of a layer with random weights."""
    trainable = [normal(*v.shape, seed=seed) for seed, v in enumerate(layer.trainable_variables)]
    states = [v.value for v in layer.non_trainable_variables]

    def loss(x, trainable):
        y, state = layer.stateless_call(trainable, states, x, training=training)
        return (y * normal(*y.shape, seed=99)).sum(), (y, state)

    with km.kernels.plain_operations() if plain else contextlib.nullcontext():
        step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        gradients, outputs = step(x, trainable)
    return jax.tree.leaves((outputs, gradients))


def assert_fused_equals_plain(layer, x, training=False):
    layer.build(x.shape)
    fused, plain = (passed(layer, x, training, plain) for plain in (False, True))
    largest = max(np.abs(value).max() for value in plain)
    for ours, theirs in zip(fused, plain, strict=True):
        error = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
        assert error < 2e-5 * max(np.abs(theirs).max(), largest / 100)


@settings(max_examples=4, deadline=None)
@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 5),
)
def test_multiception_equals_the_plain_form(kernel_sizes, strides, size, channels):
    layer = km.layers.MulticeptionConv2D(3, kernel_sizes, strides)
    assert_fused_equals_plain(layer, normal(2, *size, channels))


def test_sizes_of_the_paper_in_training():
    layer = km.layers.MulticeptionConv2D(16, (3, 5, 7), strides=2)
    assert_fused_equals_plain(layer, normal(8, 16, 16, 12), training=True)


def operations(layer, x):
    return str(jax.make_jaxpr(lambda x: layer(x))(x))


def test_no_convolution_is_left_but_the_1x1():
    layer, x = km.layers.MulticeptionConv2D(3), normal(2, 8, 8, 4)
    layer.build(x.shape)
    assert operations(layer, x).count("conv_general_dilated") == 1
    with km.kernels.plain_operations():
        assert operations(layer, x).count("conv_general_dilated") == 4


@pytest.mark.parametrize(
    "arguments", [{"dtype": "mixed_bfloat16"}, {"dilation_rate": 2}, {"kernel_sizes": (11, 13)}]
)
def test_what_is_not_supported_stays_plain(arguments):
    layer, x = km.layers.MulticeptionConv2D(3, **arguments), normal(2, 8, 8, 4)
    layer.build(x.shape)
    assert operations(layer, x).count("conv_general_dilated") > 1


@pytest.mark.parametrize(
    ("shape", "kernel_sizes"), [((2, 16, 16, 16), (1, 7)), ((1, 1, 1, 2), (3,))]
)
def test_pallas_equals_convolutions(shape, kernel_sizes):
    x, kernels = inputs(*shape, kernel_sizes=kernel_sizes)

    def gradients(function):
        def weighted(x, kernels):
            return sum((y * normal(*y.shape, seed=9)).sum() for y in function(x, kernels))

        return jax.jit(jax.grad(weighted, argnums=(0, 1)))(x, kernels)

    assert_all_close(pallas_kernels.branches(x, kernels), grouped(x, kernels), 1e-5)
    assert_all_close(gradients(pallas_kernels.branches), gradients(grouped), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jax_kernels", "pallas_kernels"])
def test_derivatives_of_second_order(module):
    branches = {
        "jax_kernels": jax_kernels.depthwise_branches,
        "pallas_kernels": pallas_kernels.branches,
    }[module]
    x, kernels = inputs(2, 8, 8, 4, kernel_sizes=(3, 5))

    def curvature(function):
        def slope(x, kernels):
            value = lambda x, kernels: sum((y**3).sum() for y in function(x, kernels))  # noqa: E731
            gradients = jax.grad(value, argnums=(0, 1))(x, kernels)
            return sum((g**2).sum() for g in jax.tree.leaves(gradients))

        return jax.jit(jax.grad(slope, argnums=(0, 1)))(x, kernels)

    assert_all_close(curvature(branches), curvature(grouped), 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pallas_becomes_kernels_of_a_gpu(monkeypatch, dtype):
    monkeypatch.setattr(pallas_kernels, "runs_here", lambda: True)

    def loss(x, kernels):
        return sum((y.astype("float32") ** 2).sum() for y in pallas_kernels.branches(x, kernels))

    arguments = inputs(4, 32, 32, 16, dtype=dtype)
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arguments)
    assert traced.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton") == 3


@pytest.fixture
def on_gpu(monkeypatch):
    """Let the layers believe that there is a GPU, and count the calls; Pallas still interprets."""
    calls, branches = [], pallas_kernels.branches
    monkeypatch.setattr(jax_kernels, "runs_here", lambda: True)
    monkeypatch.setattr(
        pallas_kernels, "branches", lambda x, ks: calls.append(x.shape) or branches(x, ks)
    )
    return calls


def test_layer_uses_pallas_in_bfloat16(on_gpu):
    layer = km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")
    x = normal(2, 8, 8, 4)
    ours = layer(x, training=True)
    assert (2, 8, 8, 4) in on_gpu
    with km.kernels.plain_operations():
        plain = layer(x, training=True)
    assert ours.dtype == plain.dtype == jax.numpy.bfloat16
    assert_all_close([ours], [plain], 2**-6)


def test_layer_leaves_pallas_alone_otherwise(on_gpu, monkeypatch):
    x = np.zeros((2, 8, 8, 4), "float32")
    km.layers.MulticeptionConv2D(8, (3, 5))(x)  # float32
    wide = np.zeros((1, 16, 16, 64), "float32")
    km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")(wide)
    km.layers.MulticeptionConv2D(8, (3, 5), dilation_rate=2, dtype="mixed_bfloat16")(x)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "of several devices")
    km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")(x)
    assert not on_gpu
