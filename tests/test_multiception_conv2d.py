import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import assert_close, check_layer, forward
from references import multiception

from keras_multiception.layers import MulticeptionConv2D

pytestmark = pytest.mark.backend
RNG = np.random.default_rng(0)
EXAMPLES = 6 if keras.backend.backend() == "jax" else 12  # JAX compiles each


def random_weights(layer):
    """Give a built layer random weights, with positive variances."""
    weights = [RNG.normal(size=w.shape) for w in layer.weights]
    for i, w in enumerate(layer.weights):
        if "variance" in w.path:
            weights[i] = np.abs(weights[i]) + 0.5
    layer.set_weights(weights)


def reference(layer, x):
    """The layer in inference by the NumPy form of Algorithm 1."""
    weights = {
        w.path.split(f"{layer.name}/")[-1]: keras.ops.convert_to_numpy(w) for w in layer.weights
    }

    def norm(name):
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        return [weights[f"{name}/{part}"] for part in parts]

    y = multiception(
        x,
        [weights[f"depthwise_{i}/kernel"] for i in range(len(layer.kernel_sizes))],
        norm("depthwise_bn"),
        weights["pointwise/kernel"],
        weights.get("pointwise/bias", 0.0),
        norm("pointwise_bn"),
        layer.strides,
        layer.dilation_rate,
    )
    return keras.ops.convert_to_numpy(layer.activation(keras.ops.convert_to_tensor(y)))


@pytest.mark.parametrize(
    ("arguments", "input_shape", "output_shape", "weights"),
    [
        ({"filters": 6}, (None, 8, 8, 4), (None, 8, 8, 6), (9, 4)),
        ({"filters": 5, "kernel_sizes": 3}, (2, 7, 9, 3), (2, 7, 9, 5), (7, 4)),
        (
            {"filters": 6, "kernel_sizes": [3, 3], "strides": 2, "activation": "relu"},
            (None, 9, 8, 4),
            (None, 5, 4, 6),
            (8, 4),
        ),
        (
            {"filters": 4, "kernel_sizes": [(3, 5), 3, 7], "strides": (2, 3), "use_bias": False},
            (2, 11, 10, 2),
            (2, 6, 4, 4),
            (8, 4),
        ),
        ({"filters": 4, "dilation_rate": 2, "strides": 2}, (2, 16, 16, 3), (2, 8, 8, 4), (9, 4)),
    ],
)
def test_layer(arguments, input_shape, output_shape, weights):
    check_layer(lambda: MulticeptionConv2D(**arguments), input_shape, output_shape, weights)


def test_every_argument_reaches_the_weights_and_the_config():
    arguments = {
        "filters": 4,
        "depthwise_initializer": keras.initializers.Constant(0.1),
        "pointwise_initializer": keras.initializers.Constant(0.2),
        "bias_initializer": "ones",
        "depthwise_regularizer": "l2",
        "pointwise_regularizer": keras.regularizers.L1(0.1),
        "bias_regularizer": "l2",
        "depthwise_constraint": "max_norm",
        "pointwise_constraint": "unit_norm",
        "bias_constraint": "non_neg",
        "momentum": 0.99,
        "epsilon": 1e-3,
        "padding": "same",
        "data_format": "channels_last",
    }
    layer = MulticeptionConv2D(**arguments)
    layer(np.zeros((2, 6, 6, 3), "float32"))
    assert len(layer.losses) == 5
    for conv in layer.depthwise_convs:
        np.testing.assert_allclose(keras.ops.convert_to_numpy(conv.kernel), 0.1)
        assert isinstance(conv.kernel.constraint, keras.constraints.MaxNorm)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.pointwise_conv.kernel), 0.2)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.pointwise_conv.bias), 1.0)
    assert isinstance(layer.pointwise_conv.kernel.constraint, keras.constraints.UnitNorm)
    assert isinstance(layer.pointwise_conv.bias.constraint, keras.constraints.NonNeg)
    assert layer.depthwise_bn.momentum == layer.pointwise_bn.momentum == 0.99
    assert layer.depthwise_bn.epsilon == layer.pointwise_bn.epsilon == 1e-3
    config = layer.get_config()
    assert set(arguments) <= set(config)
    assert MulticeptionConv2D.from_config(config).get_config() == config


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    kernel_sizes=st.lists(
        st.one_of(st.sampled_from([1, 3, 5, 7]), st.tuples(*[st.sampled_from([1, 3, 5])] * 2)),
        min_size=1,
        max_size=4,
    ),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 4),
    filters=st.integers(1, 5),
)
def test_equals_numpy_reference(kernel_sizes, strides, dilation, size, channels, filters):
    layer = MulticeptionConv2D(
        filters, kernel_sizes, strides, dilation_rate=dilation, activation="tanh"
    )
    x = RNG.normal(size=(2, *size, channels)).astype("float32")
    layer.build(x.shape)
    random_weights(layer)
    y = forward(layer, x)
    assert y.shape == layer.compute_output_shape(x.shape)
    assert_close(y, reference(layer, x), 1e-5)


def test_initial_values_are_those_of_the_paper():
    layer = MulticeptionConv2D(256, (3, 5, 5))
    layer.build((None, 8, 8, 512))
    kernels = [keras.ops.convert_to_numpy(conv.kernel) for conv in layer.depthwise_convs]
    for kernel in kernels:
        area = kernel.shape[0] * kernel.shape[1]
        assert kernel.std() == pytest.approx((2 / area) ** 0.5, rel=0.03)
        assert np.abs(kernel).max() > 2.5 * kernel.std()  # not truncated at two
    pointwise = keras.ops.convert_to_numpy(layer.pointwise_conv.kernel)
    assert pointwise.std() == pytest.approx((2 / (3 * 512)) ** 0.5, rel=0.03)
    bias = keras.ops.convert_to_numpy(layer.pointwise_conv.bias)
    assert 0.9 * (3 * 512) ** -0.5 < np.abs(bias).max() <= (3 * 512) ** -0.5
    assert np.any(kernels[1] != kernels[2])


@pytest.mark.parametrize("seed", [7, keras.random.SeedGenerator(7)])
def test_equal_kernel_sizes_start_different_with_a_seeded_initializer(seed):
    initializer = keras.initializers.HeNormal(seed)
    layer = MulticeptionConv2D(4, (3, 3), depthwise_initializer=initializer)
    layer.build((None, 8, 8, 4))
    first, second = (keras.ops.convert_to_numpy(conv.kernel) for conv in layer.depthwise_convs)
    assert np.any(first != second)


def test_unequal_strides_where_keras_has_channels_first_by_default():
    x = RNG.normal(size=(2, 8, 8, 6)).astype("float32")
    before = keras.backend.image_data_format()
    layer = MulticeptionConv2D(4, (3, 5), strides=(1, 2), dilation_rate=2)
    layer.build(x.shape)
    random_weights(layer)
    keras.config.set_image_data_format("channels_first")
    try:
        y = keras.ops.convert_to_numpy(layer(x))
    finally:
        keras.config.set_image_data_format(before)
    assert_close(y, reference(layer, x), 1e-5)


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"]
)
def test_dtype_policies(policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless told so for the whole process")
    layer = MulticeptionConv2D(4, (3, 5), dtype=policy)
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    layer.build(x.shape)
    random_weights(layer)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    expected = "float32" if policy.startswith("mixed") else policy
    assert {w.dtype for w in layer.weights} == {expected}
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
    assert_close(y, reference(layer, x), 1e-5 if policy == "float64" else 5e-2)


@pytest.mark.parametrize(
    "sizes",
    [(), [], None, 2, 0, -3, (3, 4), "357", ((3, 5, 7),), (3.0,), [True], 2.5, np.array(4)],
)
def test_bad_kernel_sizes(sizes):
    assert MulticeptionConv2D(4, np.int64(3)).kernel_sizes == ((3, 3),)
    with pytest.raises(ValueError, match=r"`kernel_sizes` must .* Received: kernel_sizes="):
        MulticeptionConv2D(4, sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": 0},
        {"filters": 2.5},
        {"filters": True},
        {"strides": (1, 2, 3)},
        {"dilation_rate": 0},
        {"padding": "valid"},
        {"data_format": "channels_first"},
        {"momentum": 1.0},
        {"epsilon": 0},
    ],
)
def test_bad_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}.*Received: {name}="):
        MulticeptionConv2D(**{"filters": 4, **arguments})


def test_bad_inputs():
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        MulticeptionConv2D(4)(np.zeros((8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="last axis"):
        MulticeptionConv2D(4)(keras.Input((8, 8, None)))
    layer = MulticeptionConv2D(4)
    layer(np.zeros((1, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(np.zeros((1, 8, 8, 2), "float32"))
