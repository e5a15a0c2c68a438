"""The fast forms of layers against the plain operations of Keras: equal but for rounding."""

import contextlib
import threading

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_checks import assert_as_exact, assert_equal, images, step

import keras_multiception as km

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")

sizes = st.sampled_from([1, 3, 5, 7, 9, 11])


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_multiception_equals_the_plain_form(
    kernel_sizes, strides, height, width, channels, use_bias, training
):
    # of a single weight a channel, or a single channel, batch norm leaves nothing but the sign
    assume(not training or ((1, 1) not in kernel_sizes and channels * len(kernel_sizes) > 1))
    layer, double = (
        km.layers.MulticeptionConv2D(
            3, kernel_sizes, strides, use_bias=use_bias, name="layer", dtype=dtype
        )
        for dtype in ("float32", "float64")
    )
    x = images(4, height, width, channels)
    layer.build(x.shape)
    double.build(x.shape)
    signs = np.random.default_rng(3).choice([-1, 0, 1], (3, *x.shape))
    assert_as_exact(
        step(layer, x, training),
        [
            step(layer, tf.cast(x * (1 + each * 2**-23), "float32"), training, plain=True)
            for each in (0, *signs)
        ],
        step(double, tf.cast(x, "float64"), training, plain=True),
    )


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("strides", [(1, 2), (2, 1), (2, 2)])
def test_gradient_of_the_pointwise_kernel(strides, plain):
    """The output is linear in that kernel: gradient times kernel is what the kernel adds."""
    layer = km.layers.MulticeptionConv2D(3, strides=strides)
    x, conv = images(4, 8, 6, 5), layer.pointwise_conv

    with km.kernels.plain_operations() if plain else contextlib.nullcontext():
        with tf.GradientTape() as tape:
            y = layer(x, training=False)
            weights = np.random.default_rng(1).normal(size=y.shape).astype("float32")
            total = tf.reduce_sum(y * weights)
        adds = tf.reduce_sum(tape.gradient(total, conv.kernel.value) * conv.kernel)
        conv.kernel.assign(tf.zeros_like(conv.kernel))
        without = tf.reduce_sum(layer(x, training=False) * weights)
    np.testing.assert_allclose(adds, total - without, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [16, 20])
@pytest.mark.parametrize("kernel_sizes", [(3, 5, 7), (3, 5), (3, 3)])
def test_sizes_of_the_paper(kernel_sizes, channels, training):
    layer = km.layers.MulticeptionConv2D(16, kernel_sizes, strides=2)
    x = images(8, 16, 16, channels)
    layer.build(x.shape)
    assert_equal(step(layer, x, training), step(layer, x, training, plain=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("policy", "digits"), [("mixed_bfloat16", 8), ("mixed_float16", 11)])
@pytest.mark.parametrize("strides", [1, 2])
def test_half_precision_is_as_exact_as_the_plain_form(policy, digits, strides, training):
    layer, double = (
        km.layers.MulticeptionConv2D(16, strides=strides, name="layer", dtype=dtype)
        for dtype in (policy, "float64")
    )
    x = tf.cast(images(8, 16, 16, 20), layer.compute_dtype)
    layer.build(x.shape)
    double.build(x.shape)
    signs = np.random.default_rng(3).choice([-1, 0, 1], (2, *x.shape))
    rounded = [
        tf.cast(tf.cast(x, "float32") * (1 + each * 2.0 ** (1 - digits)), x.dtype)
        for each in (0, *signs)
    ]
    assert_as_exact(
        step(layer, x, training),
        [step(layer, each, training, plain=True) for each in rounded],
        step(double, tf.cast(x, "float64"), training, plain=True),
    )


def test_wide_kernels_take_the_fast_form():
    layer = km.layers.MulticeptionConv2D(3)
    x = images(2, 8, 8, 4)
    layer(x)

    def operations(**context):
        with km.kernels.plain_operations() if context else contextlib.nullcontext():
            graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x).graph
        return {operation.type for operation in graph.get_operations()}

    fast, plain = operations(), operations(plain=True)
    assert {"FusedBatchNormV3", "MatMul"} <= fast
    assert "FusedBatchNormV3" not in plain
    assert "ConcatV2" in plain


def test_unknown_sizes_and_a_compiled_graph():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, km.layers.MulticeptionConv2D(3, (3, 5), strides=2)(inputs))
    for size in (6, 9):
        x = images(2, size, size + 1, 4)
        assert_equal(step(model, x, True, compiled=True), step(model, x, True, plain=True), 2e-5)


def test_second_derivatives_equal_the_plain_form():
    layer = km.layers.MulticeptionConv2D(3, (3, 5))
    x = images(2, 6, 6, 4)
    layer.build(x.shape)

    def penalty():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x, training=False) ** 2)
            slope = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return [slope, *outer.gradient(slope, [x, layer.depthwise_convs[1].kernel.value])]

    fast = penalty()
    with km.kernels.plain_operations():
        plain = penalty()
    for ours, theirs in zip(fast, plain, strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_plain_operations_of_two_threads_end():
    """One enters, the other enters, one leaves, the other leaves: fast again, as it was before."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with km.kernels.plain_operations():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second():
        first_in.wait(10)
        with km.kernels.plain_operations():
            second_in.set()
            first_out.wait(10)

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert km.kernels.fused_ops() is not None
