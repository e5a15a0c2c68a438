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
    ratio = kernels / equations.standard_parameters(*arguments)
    assert equations.dsconv_ratio(filters, size) == pytest.approx(ratio)


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
    # the bound counts every area once for each kernel; with one kernel it is exact, and DSConv's
    area = sum(equations.standard_parameters(1, 1, size) for size in kernel_sizes)
    bound = equations.multiception_parameters_bound(*arguments)
    assert bound - kernels == (len(kernel_sizes) - 1) * channels * area
    if len(kernel_sizes) == 1:
        assert kernels == equations.dsconv_parameters(channels, filters, kernel_sizes[0])
    assert multiply_adds == equations.multiception_multiply_adds(height, width, *arguments, strides)
