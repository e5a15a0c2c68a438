import keras
import numpy as np
import pytest
from layer_checks import assert_close, forward, forward_backward

import keras_multiception as km
from keras_multiception.blocks import basic_block

pytestmark = pytest.mark.backend
TYPES = ["standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception"]


@pytest.mark.parametrize("conv", TYPES)
@pytest.mark.parametrize(("strides", "size"), [(1, (8, 8)), (2, (8, 8)), (2, (7, 5)), (3, (4, 9))])
def test_types_are_interchangeable(conv, strides, size):
    x = keras.Input((*size, 4))
    y = km.conv_bn(x, 6, strides, conv=conv, name="block")
    assert y.shape == (None, -(-size[0] // strides), -(-size[1] // strides), 6)
    model = keras.Model(x, y)
    assert all(layer.name.startswith("block") for layer in model.layers[1:])


@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv", "mixconv_depthwise"])
def test_strides_look_at_the_same_positions_as_multiception(conv):
    """At stride 2 every type is centered on positions 0, 2, 4, ..., whatever the size."""
    x = keras.Input((8, 8, 4))
    model = keras.Model(x, km.conv_bn(x, 4, 2, conv=conv))
    for layer in model.layers:
        for conv_layer in getattr(layer, "convs", [layer]):
            if hasattr(conv_layer, "kernel"):
                kernel = np.zeros(conv_layer.kernel.shape)
                kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1  # look at the center only
                conv_layer.kernel.assign(kernel)
                if conv_layer.use_bias:
                    conv_layer.bias.assign(np.zeros(conv_layer.bias.shape))
    image = np.zeros((1, 8, 8, 4), "float32")
    image[:, ::2, ::2] = 1
    assert np.all(forward(model, image) > 0.9)


@pytest.mark.parametrize("conv", TYPES)
def test_types_in_a_residual_block(conv, tmp_path):
    """In training and in inference every weight has a gradient; a file brings the block back."""
    x = keras.Input((8, 8, 4))
    sizes = 3 if conv in ("standard", "dsconv") else (3, 5)
    y = keras.layers.GlobalAveragePooling2D()(basic_block(x, 6, 2, conv, sizes, "block", 1 / 2))
    model = keras.Model(x, keras.layers.Dense(3)(y))
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=shape).astype("float32") for shape in ((4, 8, 8, 4), (4, 3)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for training in (False, True):
        y, _, gradients = forward_backward(model, x, dy, training)
        largest = {v.path: np.abs(gradients[id(v)]).max() for v in model.trainable_variables}
        for path, gradient in largest.items():
            # batch norm takes away in training what a bias or an offset before it adds
            vanishes = training and path.endswith(("pointwise/bias", "depthwise_bn/beta"))
            assert np.isfinite(gradient)
            assert (gradient < 1e-4 * max(largest.values())) == vanishes, path
        if not training:
            assert_close(forward(loaded, x), y, 1e-5)


def test_user_callable():
    def conv(x, filters, strides, kernel_sizes, name):
        assert kernel_sizes == ((3, 3), (5, 5))
        return keras.layers.Conv2D(filters, 3, strides, padding="same", name=name)(x)

    x = keras.Input((8, 8, 4))
    assert km.conv_bn(x, 6, 2, (3, 5), conv, name="mine").shape == (None, 4, 4, 6)
    with pytest.raises(ValueError, match="`conv` must return a tensor of shape"):
        km.conv_bn(x, 6, 2, conv=lambda x, filters, **_: x)
    with pytest.raises(ValueError, match="`conv` must return a tensor of shape"):
        km.conv_bn(x, 6, 2, conv=lambda x, filters, **_: None)


@pytest.mark.parametrize("conv", ["conv", None, 3, ["standard"]])
def test_unknown_type(conv):
    with pytest.raises(ValueError, match="`conv` must be a callable or one of standard, dsconv"):
        km.conv_bn(keras.Input((8, 8, 4)), 6, conv=conv)


@pytest.mark.parametrize("conv", ["standard", "dsconv"])
def test_kernel_sizes_of_single_kernel_types(conv):
    x = keras.Input((8, 8, 4))
    assert km.conv_bn(x, 6, kernel_sizes=5, conv=conv).shape == (None, 8, 8, 6)
    with pytest.raises(ValueError, match="`kernel_sizes` must be one size"):
        km.conv_bn(x, 6, kernel_sizes=(3, 5), conv=conv)


def test_squeeze_and_excitation():
    """Each channel is scaled by sigmoid(relu(means @ reduce) @ expand)."""
    x = keras.Input((4, 6, 16))
    model = keras.Model(x, km.blocks.squeeze_excite(x, 1 / 8, "se"))
    reduce, expand = model.get_weights()
    assert (reduce.shape, expand.shape) == ((16, 2), (2, 16))
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 16)).astype("float32")
    scale = 1 / (1 + np.exp(-np.maximum(x.mean(axis=(1, 2)) @ reduce, 0) @ expand))
    assert_close(keras.ops.convert_to_numpy(model(x)), x * scale[:, None, None], 1e-5)
