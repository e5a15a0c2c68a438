import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_multiception as km
from keras_multiception import equations

sizes = st.sampled_from([1, 3, 5, 7, (3, 5), (7, 1)])
kernels = st.lists(sizes, min_size=1, max_size=4)
widths = st.integers(1, 24)
lengths = st.integers(1, 12)


def count(shape, conv, filters, kernel_sizes, strides=1):
    """The weights in the kernels of a convolution of the graph, and its multiply-adds."""
    x = keras.Input(shape)
    model = keras.Model(x, km.conv_bn(x, filters, strides, kernel_sizes, conv))
    kernels = sum(math.prod(w.shape) for w in model.trainable_weights if len(w.shape) > 1)
    return kernels, km.cost(model).multiply_adds


def test_equations_of_the_paper_by_hand():
    assert equations.standard_parameters(16, 32, 3) == 16 * 9 * 32
    assert equations.standard_multiply_adds(8, 4, 16, 32, 3) == 8 * 4 * 16 * 9 * 32
    assert equations.dsconv_parameters(16, 32, 3) == 16 * (9 + 32)
    assert equations.dsconv_multiply_adds(8, 4, 16, 32, 3) == 8 * 4 * 16 * (9 + 32)
    assert equations.dsconv_ratio(32, 3) == (9 + 32) / (9 * 32)
    # the paper's worked example: 3n * (K1**2 + K2**2 + K3**2 + N)
    assert equations.multiception_parameters_bound(16, 32, (3, 5, 7)) == 3 * 16 * (83 + 32)
    assert equations.multiception_parameters(16, 32, (3, 5, 7)) == 16 * 83 + 3 * 16 * 32


@given(channels=widths, filters=widths, size=sizes)
def test_ratio_holds_for_parameters_and_multiply_adds(channels, filters, size):
    arguments = (channels, filters, size)
    ratio = equations.dsconv_ratio(filters, size)
    expected = equations.dsconv_parameters(*arguments) / equations.standard_parameters(*arguments)
    assert ratio == pytest.approx(expected)
    expected = equations.dsconv_multiply_adds(5, 7, *arguments) / equations.standard_multiply_adds(
        5, 7, *arguments
    )
    assert ratio == pytest.approx(expected)


@given(channels=widths, filters=widths, kernel_sizes=kernels)
def test_bound_counts_every_area_once_for_each_kernel(channels, filters, kernel_sizes):
    exact = equations.multiception_parameters(channels, filters, kernel_sizes)
    bound = equations.multiception_parameters_bound(channels, filters, kernel_sizes)
    area = sum(equations.standard_parameters(1, 1, size) for size in kernel_sizes)
    assert bound - exact == (len(kernel_sizes) - 1) * channels * area
    if len(kernel_sizes) == 1:  # Multiception "is downgraded" to a depthwise separable one
        assert exact == equations.dsconv_parameters(channels, filters, kernel_sizes[0])


@settings(max_examples=15, deadline=None)
@given(height=lengths, width=lengths, channels=widths, filters=widths, size=sizes)
def test_standard_and_dsconv_count_as_the_graph_does(height, width, channels, filters, size):
    arguments = channels, filters, size
    kernels, multiply_adds = count((height, width, channels), "standard", filters, [size])
    assert kernels == equations.standard_parameters(*arguments)
    assert multiply_adds == equations.standard_multiply_adds(height, width, *arguments)
    kernels, multiply_adds = count((height, width, channels), "dsconv", filters, [size])
    assert kernels == equations.dsconv_parameters(*arguments)
    assert multiply_adds == equations.dsconv_multiply_adds(height, width, *arguments)


@settings(max_examples=15, deadline=None)
@given(
    height=lengths,
    width=lengths,
    channels=widths,
    filters=widths,
    kernel_sizes=kernels,
    strides=st.integers(1, 3),
)
def test_multiception_counts_as_the_graph_does(
    height, width, channels, filters, kernel_sizes, strides
):
    shape = (height * strides, width * strides, channels)
    kernels, multiply_adds = count(shape, "multiception", filters, kernel_sizes, strides)
    arguments = channels, filters, kernel_sizes
    assert kernels == equations.multiception_parameters(*arguments)
    assert kernels <= equations.multiception_parameters_bound(*arguments)
    assert multiply_adds == equations.multiception_multiply_adds(height, width, *arguments, strides)


def test_wrong_kernel_sizes_are_refused():
    with pytest.raises(ValueError, match="`kernel_sizes`"):
        equations.multiception_parameters(16, 32, (2,))
    with pytest.raises(ValueError, match="`kernel_sizes`"):
        equations.standard_parameters(16, 32, 0)
