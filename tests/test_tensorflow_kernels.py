"""The fused operations of TensorFlow against the plain ones of Keras: equal but for rounding."""

import contextlib
import threading

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import keras_multiception as km

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")

sizes = st.sampled_from([1, 3, 5, 7, 9, 11])
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
    """Errors against float64 are under 1e-5, or what rounding alone does to the plain form.

    Where batch norm leaves almost nothing of a gradient, both forms are far from the exact one;
    `plain` is a list, of images that differ by a rounding.
    """
    rounding = [errors(each, exact) for each in plain]
    for name, error in errors(fast, exact).items():
        bound = 1e-5 + 8 * max(each[name] for each in rounding)
        assert error < bound, f"{name}: {error} of {bound}"


def images(*shape, dtype="float32"):
    return tf.constant(np.random.default_rng(2).normal(size=shape), dtype)


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


def test_wide_kernels_are_fused():
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        *(({}, shape) for shape in ((4, 5, 5, 3), (1, 1, 1, 3), (4, 7))),
        ({"axis": 1}, (4, 5, 5, 3)),
        ({"momentum": 0.3, "epsilon": 0.1}, (4, 5, 5, 3)),
        *(({name: False}, (4, 5, 5, 3)) for name in ("scale", "center", "trainable")),
        ({"synchronized": True}, (4, 5, 5, 3)),
        *(({"dtype": dtype}, (4, 5, 5, 3)) for dtype in ("float64", "bfloat16", "float16")),
    ],
)
def test_batch_norm_is_that_of_keras(arguments, shape, training):
    ours, theirs = (
        x(**arguments) for x in (km.layers.BatchNormalization, keras.layers.BatchNormalization)
    )
    x = images(*shape, dtype=arguments.get("dtype", "float32"))
    for layer in (ours, theirs):
        layer.build(x.shape)
    fast, plain = step(ours, x, training), step(theirs, x, training)
    assert_equal(fast, dict(zip(fast, plain.values(), strict=True)))  # names of layers differ


def test_batch_norm_with_a_mask_is_that_of_keras():
    x, mask = images(4, 5, 5, 3), tf.constant(np.random.default_rng(0).random((4, 5, 5)) < 0.5)
    ours, theirs = km.layers.BatchNormalization(), keras.layers.BatchNormalization()
    y = [layer(x, training=True, mask=mask) for layer in (ours, theirs)]
    np.testing.assert_allclose(*y, rtol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-6)


def test_plain_operations_hold_in_replicas_and_in_no_other_thread():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    found = []

    def look():
        found.append(km.kernels.fused_ops() is None)

    strategy.run(look)
    with km.kernels.plain_operations():
        strategy.run(look)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    strategy.run(look)
    assert found == [False, True, False, False]
