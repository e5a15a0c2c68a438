"""The kernels in Pallas against JAX's own convolutions, interpreted; and that a GPU's compile."""

import keras
import numpy as np
import pytest

import keras_multiception as km

jax = pytest.importorskip("jax")
pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX"),
]
pallas_kernels = pytest.importorskip("keras_multiception.kernels.pallas_kernels")


def inputs(*shape, kernel_sizes=(3, 5, 7), dtype="float32"):
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(k, k, shape[-1], 1)) for k in kernel_sizes]
    return jax.tree.map(lambda a: jax.numpy.asarray(a, dtype), (rng.normal(size=shape), kernels))


def grouped(x, kernels):
    """A depthwise convolution for each kernel."""
    return [keras.ops.depthwise_conv(x, kernel, padding="same") for kernel in kernels]


def expected(x, kernels):
    outputs = grouped(x, kernels)
    moments = [[op(y, (0, 1, 2)) for op in (jax.numpy.mean, jax.numpy.var)] for y in outputs]
    return outputs, jax.numpy.asarray(moments)


def assert_equal(ours, theirs, tolerance):
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        a, b = (np.asarray(value, "float32") for value in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("shape", [(2, 32, 32, 16), (1, 1, 1, 2)])
def test_equal_to_convolutions_and_their_moments(shape):
    x, kernels = inputs(*shape)

    def loss(function):
        def weighted(x, kernels):
            values = jax.tree.leaves(function(x, kernels))
            rng = np.random.default_rng(1)
            return sum((value * rng.normal(size=value.shape)).sum() for value in values)

        return jax.jit(jax.grad(weighted, argnums=(0, 1)))(x, kernels)

    assert_equal(pallas_kernels.branches_and_moments(x, kernels), expected(x, kernels), 1e-5)
    assert_equal(loss(pallas_kernels.branches_and_moments), loss(expected), 1e-5)


@pytest.mark.slow
def test_derivatives_of_second_order():
    x, kernels = inputs(2, 8, 8, 4, kernel_sizes=(3, 5))

    def curvature(function):
        def slope(x, kernels):
            value = lambda x, kernels: sum((y**3).sum() for y in function(x, kernels))  # noqa: E731
            gradients = jax.grad(value, argnums=(0, 1))(x, kernels)
            return sum((g**2).sum() for g in jax.tree.leaves(gradients))

        return jax.jit(jax.grad(slope, argnums=(0, 1)))(x, kernels)

    assert_equal(curvature(pallas_kernels.branches), curvature(grouped), 1e-4)


def test_bfloat16_is_as_near_as_one_rounding():
    x, kernels = inputs(2, 8, 8, 4, dtype="bfloat16")
    ours, statistics = pallas_kernels.branches_and_moments(x, kernels)
    wide, _ = expected(*jax.tree.map(lambda a: a.astype("float32"), (x, kernels)))
    assert {y.dtype.name for y in ours} == {"bfloat16"}
    assert_equal(ours, wide, 2**-8)
    assert_equal(statistics, expected(x, kernels)[1], 2**-6)


def test_other_kernel_sets():
    x, kernels = inputs(2, 8, 4, 4, kernel_sizes=(1, 9))
    assert_equal(pallas_kernels.branches_and_moments(x, kernels), expected(x, kernels), 1e-5)


@pytest.mark.parametrize("function", ["branches", "branches_and_moments"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_becomes_kernels_of_a_gpu(monkeypatch, dtype, function):
    monkeypatch.setattr(pallas_kernels, "runs_here", lambda: True)
    branches = getattr(pallas_kernels, function)

    def loss(x, kernels):
        outputs = jax.tree.leaves(branches(x, kernels))
        return sum((y.astype("float32") ** 2).sum() for y in outputs)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    lowered = gradients.trace(*inputs(4, 32, 32, 16, dtype=dtype)).lower(
        lowering_platforms=("cuda",)
    )
    assert lowered.as_text().count("xla.gpu.triton") == 3


@pytest.mark.parametrize(
    ("shape", "sizes", "fits"),
    [
        ((128, 32, 32, 16), (3, 5, 7), True),
        ((1, 8, 8, 64), (3, 3), True),
        ((1, 1, 1, 1), (1,), True),
        ((2, 32, 32, 32), (3, 5, 7), False),  # wider than was tried
        ((2, 24, 24, 16), (3, 5), False),
        ((2**16, 8, 8, 8), (3, 5), False),
        ((2, 8, 8, 12), (3, 5), False),
        ((None, 32, 32, 16), (3, 5, 7), False),
        ((2, None, None, 16), (3, 5), False),
        ((2, 16, 16, 16), (11, 13), False),
    ],
)
def test_what_fits(shape, sizes, fits):
    assert pallas_kernels.takes(shape, [(k, k) for k in sizes]) == fits


@pytest.fixture
def on_gpu(monkeypatch):
    """Let the layers believe that there is a GPU, and count the calls; Pallas still interprets."""
    from keras_multiception.kernels import jax_kernels

    calls = []
    branches_of = pallas_kernels.branches
    monkeypatch.setattr(jax_kernels, "runs_here", lambda: True)
    monkeypatch.setattr(
        pallas_kernels, "branches", lambda x, ks: calls.append(x.shape) or branches_of(x, ks)
    )
    return calls


def test_layer_takes_them_in_bfloat16(on_gpu):
    layer = km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    ours = layer(x, training=True)
    assert (2, 8, 8, 4) in on_gpu
    with km.kernels.plain_operations():
        plain = layer(x, training=True)
    assert ours.dtype == plain.dtype == jax.numpy.bfloat16
    assert_equal([ours], [plain], 2**-6)


def test_layer_leaves_them_alone_otherwise(on_gpu, monkeypatch):
    x = np.zeros((2, 8, 8, 4), "float32")
    km.layers.MulticeptionConv2D(8, (3, 5))(x)  # float32
    wide = np.zeros((1, 16, 16, 64), "float32")
    km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")(wide)
    km.layers.MulticeptionConv2D(8, (3, 5), dilation_rate=2, dtype="mixed_bfloat16")(x)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "of several devices")
    km.layers.MulticeptionConv2D(8, (3, 5), dtype="mixed_bfloat16")(x)
    assert not on_gpu
