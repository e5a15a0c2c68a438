import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import assert_close, check_layer
from references import mixconv

from keras_multiception.layers import MixConv2D

pytestmark = pytest.mark.backend
RNG = np.random.default_rng(0)
EXAMPLES = 6 if keras.backend.backend() == "jax" else 10  # JAX compiles each


@pytest.mark.parametrize(
    ("arguments", "input_shape", "output_shape", "weights"),
    [
        ({}, (None, 8, 8, 7), (None, 8, 8, 7), (3, 0)),
        ({"filters": 14, "strides": 2, "use_bias": True}, (2, 9, 8, 7), (2, 5, 4, 14), (6, 0)),
        ({"kernel_sizes": [(3, 5), 3], "dilation_rate": 2}, (2, 8, 8, 4), (2, 8, 8, 4), (2, 0)),
        ({"kernel_sizes": 5, "activation": "tanh"}, (2, 8, 8, 4), (2, 8, 8, 4), (1, 0)),
        ({"filters": 10, "depthwise": False, "strides": 2}, (2, 8, 8, 4), (2, 4, 4, 10), (3, 0)),
        ({"filters": 9, "depthwise": False}, (None, 8, 8, 7), (None, 8, 8, 9), (3, 0)),
    ],
)
def test_layer(arguments, input_shape, output_shape, weights):
    check_layer(lambda: MixConv2D(**arguments), input_shape, output_shape, weights)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    kernel_sizes=st.lists(st.sampled_from([1, 3, 5, (3, 5)]), min_size=1, max_size=4),
    strides=st.integers(1, 3),
    depthwise=st.booleans(),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(4, 7),
    multiple=st.integers(1, 2),
)
def test_equals_numpy_reference(kernel_sizes, strides, depthwise, size, channels, multiple):
    layer = MixConv2D(channels * multiple, kernel_sizes, strides, depthwise=depthwise)
    x = RNG.normal(size=(2, *size, channels)).astype("float32")
    y = keras.ops.convert_to_numpy(layer(x))
    kernels = [keras.ops.convert_to_numpy(conv.kernel) for conv in layer.convs]
    assert y.shape == layer.compute_output_shape(x.shape)
    assert_close(y, mixconv(x, kernels, depthwise, (strides, strides)), 1e-5)


def test_remainder_goes_to_the_first_group():
    layer = MixConv2D(10, depthwise=False)
    layer.build((None, 8, 8, 8))
    assert [conv.kernel.shape[2:] for conv in layer.convs] == [(4, 4), (2, 3), (2, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "`filters` must be a positive integer"),
        ({"filters": 2}, "`filters` must be at least the number of kernel sizes"),
        ({"depthwise": False}, "`filters` must be given"),
        ({"strides": (1, 2)}, "`strides` must be the same"),
        ({"strides": 2, "dilation_rate": 2}, "cannot both be above 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixConv2D(**arguments)


def test_bad_inputs():
    with pytest.raises(ValueError, match="at least 3 channels"):
        MixConv2D()(np.zeros((1, 8, 8, 2), "float32"))
    with pytest.raises(ValueError, match="multiple of the input's 4 channels"):
        MixConv2D(6)(np.zeros((1, 8, 8, 4), "float32"))
    with pytest.raises(ValueError, match="expected ndim=4"):
        MixConv2D()(np.zeros((8, 8, 4), "float32"))
