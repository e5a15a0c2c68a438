"""Networks that begin with a tensor of the user's, as those of `keras.applications` may."""

import keras
import numpy as np
import pytest
from layer_checks import forward

import keras_multiception as km

# with a convolution that JAX compiles soon
NARROW = {
    "resnet20": {"filters": 4, "conv": "dsconv"},
    "shakeshake26": {"filters": 4, "conv": "standard"},
    "mobilenetv2": {"alpha": 0.25, "conv": "dsconv"},
}
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.backend] if name == "resnet20" else [])
        for name in NARROW
    ],
)
def test_a_layer_before_the_network(name):
    pixels = keras.Input((8, 8, 3), name="pixels")
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    model = km.create_model(name, input_tensor=scaled, classes=5, **NARROW[name])
    assert model.input is pixels
    usual = km.create_model(name, input_shape=(8, 8, 3), classes=5, **NARROW[name])
    model.set_weights(usual.get_weights())
    expected = forward(usual, PIXELS / 255)
    np.testing.assert_allclose(forward(model, PIXELS), expected, atol=1e-5)


def test_shipped_weights_after_a_layer():
    dataset = km.preprocessing.get_dataset("cifar10")
    pixels = keras.Input((32, 32, 3))
    scale = [1 / (255 * std) for std in dataset.std]
    offset = [-mean / std for mean, std in zip(dataset.mean, dataset.std, strict=True)]
    scaled = keras.layers.Rescaling(scale, offset)(pixels)
    model = km.ResNet20(input_tensor=scaled, weights="cifar10")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    x = km.preprocessing.preprocess_input(images, "cifar10")
    expected = forward(km.ResNet20(weights="cifar10"), x)
    np.testing.assert_allclose(forward(model, images), expected, atol=1e-4)


@pytest.mark.backend
def test_weights_of_a_file_after_a_layer_of_the_same_kind(tmp_path):
    arguments = {**NARROW["resnet20"], "classes": 5}
    usual = km.ResNet20(input_shape=(8, 8, 3), **arguments)
    usual.save_weights(tmp_path / "usual.weights.h5")
    gray = keras.Input((8, 8, 1))
    colored = keras.layers.Conv2D(3, 1, name="colored")(gray)
    model = km.ResNet20(input_tensor=colored, weights=tmp_path / "usual.weights.h5", **arguments)
    front, image = model.get_layer("colored"), PIXELS[..., :1] / 255
    expected = forward(usual, front(image))
    np.testing.assert_allclose(forward(model, image), expected, atol=1e-5)


def test_the_shape_may_be_said_twice():
    images = keras.Input((None, None, 3))
    assert km.ResNet20(input_tensor=images, input_shape=(None, None, 3)).input is images
    with pytest.raises(ValueError, match=r"`input_shape` must be that of `input_tensor`.*\(8, 8"):
        km.ResNet20(input_tensor=images, input_shape=(8, 8, 3))


def test_several_inputs_before_the_network():
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = km.ResNet20(input_tensor=keras.layers.Average()([left, right]), filters=4, classes=5)
    assert model([PIXELS, PIXELS]).shape == (2, 5)


@pytest.mark.parametrize(
    "tensor",
    [PIXELS, (8, 8, 3), keras.Input((8,)), keras.Input((8, 8, None))],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_tensor_of_images(tensor):
    with pytest.raises(ValueError, match="`input_tensor` must be a Keras tensor of shape"):
        km.ResNet20(input_tensor=tensor)
