"""LiteRT files: converted, listed and run."""

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from keras import layers

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
from keras_multiception.compression import (  # noqa: E402
    LiteRTModel,
    convert_to_litert,
    float_operators,
    operators,
    quantize_model,
    save_litert,
    to_tf_keras,
)
from keras_multiception.compression.litert_files import (  # noqa: E402
    Operator,
    dedupe_buffers,
    litert_constants,
)
from keras_multiception.compression.quantization import rewrite_for_quantization  # noqa: E402
from keras_multiception.compression.split_large_kernels import LIMIT  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(7, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """A network large enough for its weights to be most of its file."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU()(km.conv_bn(x, 64, 2, name="a"))
    y, z = (km.conv_bn(x, 64, conv="dsconv", name=name) for name in "bc")
    x = layers.ReLU()(layers.Add()([km.layers.ShakeShake()([y, z]), x]))
    x = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(inputs, x, name="net"))


@pytest.fixture(scope="module")
def answers(model):
    return model.predict(IMAGES, verbose=0)


@pytest.fixture(scope="module")
def floats(model):
    return convert_to_litert(model)


@pytest.fixture(scope="module")
def integers(model):
    return convert_to_litert(model, "int8", IMAGES)


def test_float_model_answers_like_keras(floats, answers):
    litert = LiteRTModel(floats)
    assert litert.input_shape == (None, 8, 8, 3)
    assert litert.output_shape == (None, 4)
    assert litert.input_dtype == "float32"
    for runtime, batch_size in ((litert, 100), (litert, 3), (LiteRTModel(floats, 2), 1)):
        np.testing.assert_allclose(runtime.predict(IMAGES, batch_size), answers, atol=1e-5)
    names = {operator.name for operator in operators(floats)}
    convolutions = {"PAD", "STRIDED_SLICE", "DEPTHWISE_CONV_2D", "CONCATENATION", "CONV_2D"}
    assert names == {*convolutions, "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}


@pytest.mark.parametrize("quantization", ["float16", "dynamic"])
def test_smaller_weights(model, floats, answers, quantization):
    content = convert_to_litert(model, quantization)
    assert len(content) < 0.6 * len(floats)
    np.testing.assert_allclose(LiteRTModel(content).predict(IMAGES), answers, atol=0.05)


def test_post_training_quantization_is_integer_throughout(integers, floats, answers):
    assert len(integers) < 0.5 * len(floats)
    assert not float_operators(integers)
    first, *_, last = operators(integers)
    assert first == Operator("QUANTIZE", ("FLOAT32",), ("INT8",), is_border=True)
    assert last == Operator("DEQUANTIZE", ("INT8",), ("FLOAT32",), is_border=True)
    np.testing.assert_allclose(LiteRTModel(integers).predict(IMAGES), answers, atol=0.05)


def test_tf_keras_and_fused_models(model, answers):
    for other in (to_tf_keras(model), km.fuse(model, form="dense", verbose=False)):
        y = LiteRTModel(convert_to_litert(other)).predict(IMAGES)
        np.testing.assert_allclose(y, answers, atol=1e-5)


def test_file(tmp_path, floats, answers):
    path = tmp_path / "model.tflite"
    save_litert(floats, path)
    assert path.read_bytes() == floats
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]
    assert operators(path) == operators(str(path)) == operators(floats)
    np.testing.assert_allclose(LiteRTModel(path).predict(IMAGES), answers, atol=1e-5)
    with pytest.raises(TypeError):
        save_litert("not bytes", tmp_path / "other.tflite")
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_tensors_are_named_as_the_signature_and_constants_are_aligned(integers):
    """As TensorFlow Serving calls them, and as the format asks."""
    model = schema.Model.GetRootAs(integers)
    graph = model.Subgraphs(0)
    assert graph.Tensors(graph.Inputs(0)).Name() == b"image"
    assert graph.Tensors(graph.Outputs(0)).Name() == b"probabilities"
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.DataLength():
            assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0
    assert dedupe_buffers(integers) == integers


def test_float_islands_are_found(floats):
    assert float_operators(floats) == operators(floats)
    x = inputs = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.Conv2D(4, 3)(x)
    mixed = tf_keras.Model(inputs, tf_keras.layers.Conv2D(4, 3, activation="relu")(x))
    content = convert_to_litert(mixed, "float16")
    assert "DEQUANTIZE" in {operator.name for operator in float_operators(content)}


def test_arguments_are_checked():
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()])
    for name, arguments in (
        ("quantization", ("int4",)),
        ("representative_data", ("int8",)),
        ("representative_data", ("none", IMAGES)),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` must .*Received: "):
            convert_to_litert(network, *arguments)
    misfits = [IMAGES[0], IMAGES[:, :4], IMAGES.astype("uint8")]
    for data in (*misfits, IMAGES[:0], IMAGES * np.nan, [], [(IMAGES, np.zeros(7))], 3):
        with pytest.raises(ValueError, match=r"^`representative_data` must .*Received: "):
            convert_to_litert(network, "int8", data)


def test_other_models_and_files_are_refused(floats):
    for other in ("model.keras", keras.Sequential(), tf_keras.Sequential()):
        with pytest.raises(ValueError, match=r"^`model` must be a Functional model .*Received: "):
            convert_to_litert(other)
    half = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, dtype="mixed_bfloat16")])
    with pytest.raises(ValueError, match=r"must compute in float32.*bfloat16"):
        convert_to_litert(half)
    for content in ("missing.tflite", b"", b"no model at all", 3):
        for read in (LiteRTModel, operators):
            with pytest.raises(ValueError, match=r"^`model` must be the path .*Received: "):
                read(content)
    with pytest.raises(ValueError, match="valid"):
        LiteRTModel(floats[: len(floats) // 2])


def test_inputs_of_predict_are_checked(floats):
    litert = LiteRTModel(floats)
    for images in (IMAGES[0], IMAGES[:0], IMAGES[..., :1], IMAGES.astype("uint8"), "image"):
        with pytest.raises(ValueError, match=r"^`images` must be float32 of shape .*Received: "):
            litert.predict(images)
    with pytest.raises(ValueError, match=r"^`batch_size` must be a positive integer"):
        litert.predict(IMAGES, 0)


def test_several_inputs_and_outputs():
    from ai_edge_litert.interpreter import Interpreter

    a, b = (keras.Input((4,), name=name) for name in "ab")
    head = layers.Dense(3, name="head")
    model = keras.Model([a, b], [head(a), head(b)])
    inputs = [np.random.default_rng(i).normal(size=(1, 4)).astype("float32") for i in range(2)]
    content = convert_to_litert(model)
    runner = Interpreter(model_content=content).get_signature_runner()
    answers = runner(**dict(zip("ab", inputs, strict=True)))
    for name, y in zip(("head", "head_"), model.predict(inputs, verbose=0), strict=True):
        np.testing.assert_allclose(answers[name], y, atol=1e-5)
    with pytest.raises(ValueError, match=r"`model` must have one input and one output"):
        LiteRTModel(content)
    with pytest.raises(ValueError, match=r"`model` must have one input to be calibrated"):
        convert_to_litert(model, "int8", inputs[0])


# Depthwise convolutions that are too large for the kernels of LiteRT, as sums of smaller ones.
WIDE = np.random.default_rng(0).normal(size=(6, 12, 10, 3)).astype("float32")
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
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
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
    expected = np.asarray(model(WIDE))
    np.testing.assert_allclose(LiteRTModel(content).predict(WIDE), expected, atol=2e-5)
    integers = convert_to_litert(model, "int8", WIDE)
    assert not float_operators(integers)
    assert largest_depthwise(integers) <= LIMIT
    answers, scale = LiteRTModel(integers).predict(WIDE), np.abs(expected).max()
    np.testing.assert_allclose(answers / scale, expected / scale, atol=0.04)


@pytest.mark.parametrize("arguments", GEOMETRIES, ids=str)
def test_a_model_to_be_quantized_computes_the_same_in_parts(arguments):
    model = depthwise(tf_keras, **arguments)
    rewritten, units = rewrite_for_quantization(model)
    assert not units
    convolutions = [x for x in rewritten.layers if type(x).__name__ == "DepthwiseConv2D"]
    assert all(np.prod(x.kernel_size) <= LIMIT for x in convolutions)
    np.testing.assert_allclose(rewritten(WIDE), model(WIDE), atol=2e-5)
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
    for images in (WIDE, WIDE[:, :9]) if "shape" in arguments else (WIDE,):
        np.testing.assert_allclose(litert.predict(images), np.asarray(model(images)), atol=2e-5)


def test_quantization_aware_training_of_parts_keeps_zeros_and_frozen_weights():
    legacy = tf_keras.layers
    x = inputs = tf_keras.Input((12, 10, 3))
    x = legacy.DepthwiseConv2D(7, padding="same", name="sparse")(x)
    x = legacy.ReLU()(legacy.BatchNormalization()(x))
    x = legacy.DepthwiseConv2D(7, padding="same", trainable=False, name="frozen")(x)
    x = legacy.Dense(2, activation="softmax")(legacy.GlobalAveragePooling2D()(legacy.ReLU()(x)))
    model = tf_keras.Model(inputs, x)
    kernel = model.get_layer("sparse").depthwise_kernel.numpy()
    kernel[:, ::2] = 0
    model.get_layer("sparse").set_weights([kernel, np.zeros(3)])
    aware = quantize_model(model, preserve=("sparsity",))
    frozen = [aware.get_layer(f"quant_frozen_part_{i}") for i in range(3)]
    before = [layer.get_weights()[0] for layer in frozen]
    loss = "sparse_categorical_crossentropy"
    aware.compile(tf_keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    aware.fit(WIDE, np.arange(6) % 2, epochs=2, verbose=0)
    for layer, weights in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(layer.get_weights()[0], weights)
    content = convert_to_litert(aware, "int8")
    assert not float_operators(content)
    written = [w for kind, w in litert_constants(content) if kind == "depthwise"]
    assert sum(not w[:, :, ::2].any() for w in written) == 3  # the parts of the sparse one
    answers = LiteRTModel(content).predict(WIDE)
    np.testing.assert_allclose(answers, np.asarray(aware(WIDE)), atol=0.05)
