"""Quantization-aware training, down to the integers of the LiteRT file."""

import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from keras import layers
from test_floors import ROOT

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
import tensorflow as tf  # noqa: E402

from keras_multiception.compression import (  # noqa: E402
    LiteRTModel,
    calibrate_ranges,
    convert_to_litert,
    float_operators,
    operators,
    quantize_model,
)
from keras_multiception.compression.litert_files import litert_constants  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
LABELS = np.arange(16) % 4


def network():
    """Every kind of layer of the backbones, and a few that they do not have."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(0.5, offset=0.1, name="normalize")(x)
    x = km.conv_bn(x, 6, 2, conv="multiception", kernel_sizes=(3, 7), name="a")
    x = layers.BatchNormalization(name="alone")(layers.ReLU(max_value=6)(x))
    scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
    scale = layers.Conv2D(6, 1, activation="sigmoid", use_bias=False, name="gate")(scale)
    x = layers.Multiply(name="scale")([x, scale])
    y, z = (km.conv_bn(x, 6, conv=conv, name=conv) for conv in ("standard", "dsconv"))
    x = layers.Add()([km.layers.ShakeShake(name="shake")([y, z]), x, y])
    x = layers.Activation("silu")(layers.Conv2D(6, 1, name="plain")(x))
    x = layers.ReLU()(layers.DepthwiseConv2D(3, depth_multiplier=2, name="wide")(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(4, activation="softmax", name="last")(x)
    return randomize(keras.Model(inputs, x, name="net"))


def fit(model, epochs=3, rate=0.01):
    loss = "sparse_categorical_crossentropy"
    model.compile(tf_keras.optimizers.SGD(rate), loss, run_eagerly=True)
    return model.fit(IMAGES, LABELS, epochs=epochs, verbose=0)


@pytest.fixture(scope="module")
def original():
    return network()


@pytest.fixture(scope="module")
def trained(original):
    model = quantize_model(original)
    model.start = np.asarray(model.get_layer("quant_a_pointwise").trainable_weights[0])
    model.history = fit(model)
    return model


@pytest.fixture(scope="module")
def integers(trained):
    return convert_to_litert(trained, "int8")


def test_training_starts_from_the_weights_and_reaches_every_parameter(original, trained):
    kernel = keras.ops.convert_to_numpy(original.get_layer("a").pointwise_conv.kernel)
    np.testing.assert_array_equal(trained.start, kernel)
    assert np.isfinite(trained.history.history["loss"]).all()
    with tf.GradientTape() as tape:
        loss = tf_keras.losses.SparseCategoricalCrossentropy()(
            LABELS, trained(IMAGES, training=True)
        )
    weights = trained.trainable_weights
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert np.isfinite(weight.numpy()).all()
        assert gradient is not None, weight.name
        assert np.any(gradient), weight.name
    ours, theirs = (
        sum(math.prod(w.shape) for w in x) for x in (weights, original.trainable_weights)
    )
    assert ours == theirs


def test_int8_file_is_integer_throughout_and_answers_like_the_fake_quantized_model(
    trained, integers
):
    assert not float_operators(integers)
    names = [operator.name for operator in operators(integers)]
    assert (names[0], names[-1]) == ("QUANTIZE", "DEQUANTIZE")
    assert sum(operator.is_border for operator in operators(integers)) == 2
    expected = np.asarray(trained(IMAGES))
    step = 1 / 256  # of the softmax's output
    np.testing.assert_allclose(LiteRTModel(integers).predict(IMAGES), expected, atol=8 * step)


LOAD = """
import sys
import numpy
import keras_multiception.compression
import tf_keras
import tensorflow_model_optimization as tfmot
folder, *names = sys.argv[1:]
for name in names:
    with tfmot.quantization.keras.quantize_scope():
        model = tf_keras.models.load_model(f"{folder}/{name}")
    numpy.save(f"{folder}/{name}.npy", model(numpy.load(f"{folder}/images.npy")))
"""


def test_a_saved_model_loads_in_the_scope_of_the_toolkit(tmp_path):
    body = km.layers.MulticeptionConv2D(4, (3, 5)), layers.GlobalAveragePooling2D()
    model = quantize_model(keras.Sequential([keras.Input((8, 8, 3)), *body]))
    names = ("model.h5", "folder")  # the toolkit's own input layer does not load from .keras
    np.save(tmp_path / "images.npy", IMAGES)
    for name in names:
        model.save(tmp_path / name)
    subprocess.run([sys.executable, "-c", LOAD, tmp_path, *names], cwd=ROOT, check=True)
    for name in names:
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), model(IMAGES), atol=1e-6)


def test_other_convolutions():
    x = inputs = keras.Input((8, 8, 6))
    for conv in ("mixconv", "mixconv_depthwise"):
        x = layers.ReLU()(km.conv_bn(x, 6, 2, kernel_sizes=(3, 5), conv=conv, name=conv))
    x = layers.Dense(4, activation="softmax")(layers.Flatten()(x))
    model = quantize_model(randomize(keras.Model(inputs, x)))
    images = np.concatenate([IMAGES, -IMAGES], -1)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(images, LABELS, verbose=0)
    content = convert_to_litert(model, "int8")
    assert not float_operators(content)
    np.testing.assert_allclose(
        LiteRTModel(content).predict(images), np.asarray(model(images)), atol=0.05
    )


def sparse_and_clustered():
    inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = tf_keras.layers.ReLU()(tf_keras.layers.BatchNormalization()(x))
    x = tf_keras.layers.Dense(4, "softmax")(tf_keras.layers.GlobalAveragePooling2D()(x))
    model = tf_keras.Model(inputs, x)
    kernel = np.random.default_rng(0).choice([-0.2, 0.0, 0.0, 0.3], (3, 3, 3, 4))
    model.get_layer("conv").set_weights([kernel])
    return model, kernel


@pytest.mark.parametrize("preserve", [(), ("sparsity",), ("clusters",), ("sparsity", "clusters")])
def test_what_is_preserved(preserve):
    model, kernel = sparse_and_clustered()
    quantized = quantize_model(model, preserve)
    fit(quantized, epochs=3, rate=0.5)
    content = convert_to_litert(quantized, "int8")
    (written,) = (w for kind, w in litert_constants(content) if kind == "standard")
    written = np.moveaxis(written, 0, -1)  # as Keras has it, from (outputs, height, width, inputs)
    if "sparsity" in preserve:
        assert not np.any(written[kernel == 0])
    else:
        assert np.any(written[kernel == 0])
    values = max(len(np.unique(written[..., channel])) for channel in range(4))
    assert (values <= 3) == ("clusters" in preserve)
    np.testing.assert_array_equal(model.get_layer("conv").get_weights()[0], np.float32(kernel))


def tf_keras_model(*body):
    x = inputs = tf_keras.Input((8, 8, 3))
    for layer in body:
        x = layer(x)
    return tf_keras.Model(inputs, x)


def test_frozen_layers_are_not_trained():
    conv, dense = tf_keras.layers.Conv2D(4, 3, trainable=False), tf_keras.layers.Dense(2)
    body = [conv, tf_keras.layers.ReLU(), tf_keras.layers.Flatten(), dense]
    quantized = quantize_model(tf_keras_model(*body))
    assert [w.shape[-1] for w in quantized.trainable_weights] == [2, 2]
    kernel = next(w for w in quantized.non_trainable_weights if w.shape == (3, 3, 3, 4))
    before = kernel.numpy()
    quantized.compile(tf_keras.optimizers.SGD(0.1), "mse")
    quantized.fit(np.ones((4, 8, 8, 3)), np.ones((4, 2)), verbose=0)
    np.testing.assert_array_equal(kernel.numpy(), before)


def test_layers_that_cannot_be_quantized_are_named_in_one_error(trained):
    conv = tf_keras.layers.Conv2D(3, 1, name="shared")
    model = tf_keras_model(
        conv,
        conv,
        tf_keras.layers.LayerNormalization(name="norm"),
        tf_keras.layers.Conv2D(3, 1, activation="elu", name="elu"),
        tf_keras_model(tf_keras.layers.ReLU()),
        tf_keras.layers.Conv2D(3, 1, dtype="mixed_bfloat16", name="half"),
        tf_keras.layers.Dense(2, "swish", name="swish"),
        tf_keras.layers.GlobalAveragePooling2D(),
        tf_keras.layers.Rescaling(2.0, name="scale"),
        tf_keras.layers.BatchNormalization(name="flat"),
    )
    with pytest.raises(ValueError, match=r"`model` must consist of layers that can") as error:
        quantize_model(model)
    parts = ("shared", "norm", "elu (activation", "Functional", "half (bfloat16", "swish")
    for part in (*parts, "scale (not of images", "flat (not after"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"`model` must consist of layers that can"):
        quantize_model(trained)


def test_other_models_are_refused():
    image = keras.Input((8, 8, 3))
    named = keras.Model(image, {"answer": keras.layers.Flatten()(image)})
    for model in ("resnet20", tf_keras.Sequential(), keras.Sequential(), named):
        with pytest.raises(ValueError, match=r"`model` must .*Received: "):
            quantize_model(model)
    for preserve in ("sparsity", ("zeros",), None):
        with pytest.raises(ValueError, match=r"`preserve` must be a tuple .*Received: preserve="):
            quantize_model(named, preserve)
    with pytest.raises(ValueError, match=r"`model` must be one of `quantize_model`"):
        calibrate_ranges(tf_keras_model(tf_keras.layers.ReLU()), [IMAGES, IMAGES])


BATCHES = [np.random.default_rng(i).uniform(0, 9, (8, 6, 6, 3)).astype("float32") for i in range(8)]


@pytest.fixture(scope="module")
def model():
    x = inputs = keras.Input((6, 6, 3), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, name="conv")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def calibrated(model):
    """The network, quantized and calibrated, with its weights and its error before."""
    aware = quantize_model(model)
    aware.before = [variable.numpy() for variable in aware.trainable_variables]
    aware.error = error(aware, model)
    calibrate_ranges(aware, BATCHES)
    return aware


def error(aware, model):
    answers, expected = (
        np.concatenate([np.asarray(x(b)) for b in BATCHES]) for x in (aware, model)
    )
    return np.abs(answers - expected).mean() / np.abs(expected).mean()


def test_calibrated_answers_are_near_those_of_the_model_without_training(model, calibrated):
    assert error(calibrated, model) < 0.05 < calibrated.error
    for variable, value in zip(calibrated.trainable_variables, calibrated.before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    values = {x.name.split("/")[-1]: x.numpy() for x in calibrated.layers[1].weights}
    (low,), (high,) = ([x for k, x in values.items() if end in k] for end in ("_min", "_max"))
    assert (low, high) == (0, max(batch.max() for batch in BATCHES))


@pytest.mark.parametrize(
    "batches",
    [
        BATCHES[:1],
        [BATCHES[0], BATCHES[1][:, :5]],
        [BATCHES[0], np.full_like(BATCHES[1], np.nan)],
        BATCHES[0],
        [(batch, np.zeros(8)) for batch in BATCHES],
        None,
    ],
)
def test_batches_that_do_not_fit_are_refused_and_change_nothing(calibrated, batches):
    before = calibrated.get_weights()
    with pytest.raises(ValueError, match=r"`batches` must be .*Received: "):
        calibrate_ranges(calibrated, batches)
    for old, new in zip(before, calibrated.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20", {}),
        ("seresnet20", {}),
        ("shakeshake26", {"filters": 8}),
        ("mobilenetv2", {"alpha": 0.35}),
    ],
)
def test_networks_train_and_convert_without_float_islands(name, arguments):
    from training.data import load

    pixels, labels = load("digits", "train[:256]", image_size=16)
    images = km.preprocessing.preprocess_input(pixels, "digits").astype("float32")
    model = km.create_model(name, input_shape=(16, 16, 3), **arguments)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
    floats = convert_to_litert(model)
    np.testing.assert_allclose(
        LiteRTModel(floats).predict(images), model.predict(images, verbose=0), atol=1e-4
    )
    quantized = quantize_model(model)
    quantized.compile(tf_keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
    quantized.fit(images, labels, batch_size=64, verbose=0)
    content = convert_to_litert(quantized, "int8")
    assert not float_operators(content)
    assert all(kernel.dtype == "int8" for kind, kernel in litert_constants(content) if kind)
    # scales, and names, weigh most where channels are few; kernels in parts have more of them
    assert len(content) < (0.31 if name == "resnet20" else 0.5) * len(floats)
    expected = quantized.predict(images, verbose=0)
    assert np.abs(LiteRTModel(content).predict(images) - expected).mean() < 0.01
    assert len(convert_to_litert(model, "float16")) < 0.6 * len(floats)
    assert not float_operators(convert_to_litert(model, "int8", images[:64]))
