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
    save_litert,
    to_tf_keras,
)
from keras_multiception.compression.litert_files import Operator, dedupe_buffers  # noqa: E402

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
