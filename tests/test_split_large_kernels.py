"""Depthwise convolutions that are too large for LiteRT's kernels, as sums of smaller ones."""

import keras
import numpy as np
import pytest

from keras_multiception.compression.split_large_kernels import LIMIT

tf_keras = pytest.importorskip("tf_keras")
pytest.importorskip("ai_edge_litert")

from keras_multiception.compression import (  # noqa: E402
    LiteRTModel,
    convert_to_litert,
    float_operators,
    quantize_model,
)
from keras_multiception.compression.litert_files import litert_constants  # noqa: E402
from keras_multiception.compression.quantization import rewrite_for_quantization  # noqa: E402

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 12, 10, 3)).astype("float32")
GEOMETRIES = [
    {"kernel_size": 7},
    {"kernel_size": 7, "strides": 2},
    {"kernel_size": 7, "strides": 2, "padding": "valid"},
    {"kernel_size": (4, 9), "depth_multiplier": 2},
    {"kernel_size": (3, 9), "use_bias": False},
    {"kernel_size": (1, 27)},
]


def depthwise(library, shape=(12, 10, 3), **arguments):
    """Return a network of one depthwise convolution with random weights."""
    x = inputs = library.Input(shape)
    x = library.layers.DepthwiseConv2D(**{"padding": "same", "name": "large"} | arguments)(x)
    model = library.Model(inputs, x)
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


def largest_depthwise(content):
    kernels = [kernel for kind, kernel in litert_constants(content) if kind == "depthwise"]
    return max(kernel.shape[1] * kernel.shape[2] for kernel in kernels)


@pytest.mark.parametrize(
    ("library", "arguments"),
    [*((keras, x) for x in GEOMETRIES), (tf_keras, GEOMETRIES[3] | {"activation": "relu"})],
)
def test_files_answer_like_the_whole_convolution(library, arguments):
    model = depthwise(library, **arguments)
    content = convert_to_litert(model)
    assert largest_depthwise(content) <= LIMIT
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(LiteRTModel(content).predict(IMAGES), expected, atol=2e-5)
    integers = convert_to_litert(model, "int8", IMAGES)
    assert not float_operators(integers)
    assert largest_depthwise(integers) <= LIMIT
    answers, scale = LiteRTModel(integers).predict(IMAGES), np.abs(expected).max()
    np.testing.assert_allclose(answers / scale, expected / scale, atol=0.04)


@pytest.mark.parametrize("arguments", GEOMETRIES, ids=str)
def test_a_model_to_be_quantized_computes_the_same_in_parts(arguments):
    model = depthwise(tf_keras, **arguments)
    rewritten, units = rewrite_for_quantization(model)
    assert not units
    convolutions = [x for x in rewritten.layers if type(x).__name__ == "DepthwiseConv2D"]
    assert all(np.prod(x.kernel_size) <= LIMIT for x in convolutions)
    np.testing.assert_allclose(rewritten(IMAGES), model(IMAGES), atol=2e-5)
    # a part that meets zeros alone, as of the kernel that is wider than the image, is left out
    is_whole = arguments["kernel_size"] != (1, 27)
    assert (rewritten.count_params() == model.count_params()) == is_whole


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 5},
        {"kernel_size": 7, "activation": "relu"},
        {"kernel_size": 7, "dilation_rate": 2},
        {"kernel_size": 7, "shape": (None, None, 3)},
    ],
    ids=str,
)
def test_what_stays_whole(arguments):
    model = depthwise(tf_keras, **arguments)
    rewritten, _ = rewrite_for_quantization(model)
    assert [type(x).__name__ for x in rewritten.layers] == ["InputLayer", "DepthwiseConv2D"]
    litert = LiteRTModel(convert_to_litert(model))
    for images in (IMAGES, IMAGES[:, :9]) if "shape" in arguments else (IMAGES,):
        np.testing.assert_allclose(litert.predict(images), np.asarray(model(images)), atol=2e-5)


def test_quantization_aware_training_of_parts_keeps_zeros_and_frozen_weights():
    layers = tf_keras.layers
    x = inputs = tf_keras.Input((12, 10, 3))
    x = layers.DepthwiseConv2D(7, padding="same", name="sparse")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(7, padding="same", trainable=False, name="frozen")(x)
    x = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    model = tf_keras.Model(inputs, x)
    kernel = model.get_layer("sparse").depthwise_kernel.numpy()
    kernel[:, ::2] = 0
    model.get_layer("sparse").set_weights([kernel, np.zeros(3)])
    aware = quantize_model(model, preserve=("sparsity",))
    frozen = [aware.get_layer(f"quant_frozen_part_{i}") for i in range(3)]
    before = [layer.get_weights()[0] for layer in frozen]
    loss = "sparse_categorical_crossentropy"
    aware.compile(tf_keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    aware.fit(IMAGES, np.arange(6) % 2, epochs=2, verbose=0)
    for layer, weights in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(layer.get_weights()[0], weights)
    content = convert_to_litert(aware, "int8")
    assert not float_operators(content)
    written = [w for kind, w in litert_constants(content) if kind == "depthwise"]
    assert sum(not w[:, :, ::2].any() for w in written) == 3  # the parts of the sparse one
    answers = LiteRTModel(content).predict(IMAGES)
    np.testing.assert_allclose(answers, np.asarray(aware(IMAGES)), atol=0.05)
