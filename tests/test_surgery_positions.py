"""Surgery on networks: where the new kernels look."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from test_surgery import image_model, replace

PADDINGS = st.sampled_from(["valid", "same", ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((3, 0), (2, 4))])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(5, 11), st.integers(5, 11)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    PADDINGS,
    st.booleans(),
)
def test_new_kernels_look_where_the_old_ones_did(
    size, kernel_size, strides, dilation, padding, absorb
):
    assume(max(kernel_size) > 1)
    assume(max(strides) == 1 or dilation == 1)
    assume(dilation == 1 or all(k % 2 for k in kernel_size))  # the center is a pixel of the kernel
    assume(all(dilation * (k - 1) < n for k, n in zip(kernel_size, size, strict=True)))
    check_positions(size, kernel_size, strides, dilation, padding, absorb)


@pytest.mark.backend
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_positions_on_every_backend(padding):
    check_positions((8, 9), (3, 5), (2, 2), 1, padding)


def check_positions(size, kernel_size, strides, dilation, padding, absorb=False):
    """Let the old and the new kernels return the pixels that they are centered on, and compare."""
    explicit = not isinstance(padding, str)
    x = inputs = keras.Input((*size, 2))
    if explicit:
        x = layers.ZeroPadding2D(padding, name="pad")(x)
    y = layers.Conv2D(
        2,
        kernel_size,
        strides,
        padding="valid" if explicit else padding,
        dilation_rate=dilation,
        use_bias=False,
        name="conv",
    )(x)
    model = keras.Model(inputs, y)
    new = replace(model, where=["conv"], absorb=absorb)
    assert new.output.shape == model.output.shape
    assert ("pad" in {layer.name for layer in new.layers}) == (explicit and not absorb)

    kernel = np.zeros((*kernel_size, 2, 2))
    kernel[(kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2] = np.eye(2)
    model.get_layer("conv").kernel.assign(kernel)
    become_a_sampler(new.get_layer("conv"))
    image = np.random.default_rng(0).normal(size=(1, *size, 2)).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(new(image)), ops.convert_to_numpy(model(image)), atol=1e-5
    )


def become_a_sampler(layer):
    """Let a Multiception layer return the pixels that its kernels are centered on."""
    for conv in layer.depthwise_convs:
        kernel = np.zeros(conv.kernel.shape)
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
        conv.kernel.assign(kernel)
    branches = len(layer.depthwise_convs)
    eye = np.tile(np.eye(layer.filters), (branches, 1)) / branches
    layer.pointwise_conv.kernel.assign(eye[None, None])
    layer.pointwise_conv.bias.assign(np.zeros(layer.filters))
    for bn in (layer.depthwise_bn, layer.pointwise_bn):
        bn.moving_variance.assign(np.full(bn.moving_variance.shape, 1 - bn.epsilon))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [15, 16])
def test_unknown_sizes(padding, size):
    model = image_model(
        layers.Conv2D(4, 3, 2, padding), layers.Conv2D(4, 3, 2, padding), shape=(None, None, 8)
    )
    new = replace(model)
    inner = keras.Model(new.input, new.get_layer("pool").input)
    old = keras.Model(model.input, model.get_layer("pool").input)
    x = np.ones((1, size, size + 3, 8), "float32")
    assert inner(x).shape == old(x).shape
