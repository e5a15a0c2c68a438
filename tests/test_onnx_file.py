import keras
import numpy as np
import onnx
import onnxruntime
import pytest

import keras_multiception as km

RNG = np.random.default_rng(0)


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {x.name: y for x, y in zip(session.get_inputs(), inputs, strict=True)})


def network(size=32, conv="multiception", activation="softmax"):
    image = keras.Input((size, size, 3))
    x = keras.layers.ReLU()(km.conv_bn(image, 8, conv=conv))
    x = keras.layers.GlobalAveragePooling2D()(km.conv_bn(x, 8, strides=2, conv=conv))
    return keras.Model(image, keras.layers.Dense(10, activation=activation)(x))


def check_classifier(model, path, dataset="cifar10"):
    km.export_onnx(model, path, dataset=dataset)
    height, width = (size or 40 for size in model.input_shape[1:3])
    images = RNG.integers(0, 256, (3, height, width, 3)).astype("float32")
    expected = model.predict(km.preprocessing.preprocess_input(images, dataset), verbose=0)
    if getattr(model.layers[-1], "activation", None) is keras.activations.linear:
        expected = keras.ops.softmax(expected)
    for count in (3, 1):
        [answers] = run(path, images[:count])
        np.testing.assert_allclose(answers, expected[:count], atol=1e-5)


@pytest.mark.parametrize("size", [32, None])
@pytest.mark.parametrize("activation", ["softmax", None])
def test_pixels_become_probabilities(tmp_path, size, activation):
    check_classifier(network(size, activation=activation), tmp_path / "new" / "model.onnx")
    graph = onnx.load(tmp_path / "new" / "model.onnx").graph
    assert [x.name for x in graph.input] == ["image"]
    assert [x.name for x in graph.output] == ["probabilities"]
    assert not {"BatchNormalization", "Concat", "Pad"} & {node.op_type for node in graph.node}
    check_classifier(network(size), tmp_path / "new" / "model.onnx")  # in place of the other
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv", "mixconv_depthwise"])
def test_every_convolution(tmp_path, conv):
    check_classifier(network(conv=conv), tmp_path / "model.onnx")


def test_padding(tmp_path):
    image = keras.Input((9, 8, 3))
    padded = keras.layers.ZeroPadding2D(((1, 2), (0, 3)))(image)
    mirrored = keras.ops.pad(image, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect")
    wider = keras.ops.pad(image, ((0, 0), (0, 0), (0, 0), (1, 2)))
    ones = keras.ops.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    convs = [keras.layers.Conv2D(2, 3)(x) for x in (padded, mirrored, wider, ones)]
    same = keras.layers.Conv2D(2, 3, strides=2, padding="same")(padded)
    model = keras.Model(image, [padded, same, *convs])
    km.export_onnx(model, tmp_path / "model.onnx")
    x = RNG.normal(size=(2, 9, 8, 3)).astype("float32")
    for answer, expected in zip(run(tmp_path / "model.onnx", x), model(x), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_outputs_are_as_they_are_unless_they_are_logits(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(image)
    heads = [keras.layers.Dense(10, activation="sigmoid")(x) for _ in range(2)]
    check_classifier(keras.Model(image, keras.layers.Average()(heads)), tmp_path / "model.onnx")
    model = keras.Model(image, keras.layers.Dense(10)(x))
    km.export_onnx(model, tmp_path / "model.onnx", dataset="cifar10", logits=False)
    images = RNG.integers(0, 256, (2, 8, 8, 3)).astype("float32")
    expected = model(km.preprocessing.preprocess_input(images))
    np.testing.assert_allclose(run(tmp_path / "model.onnx", images)[0], expected, atol=1e-4)


def test_without_a_data_set_it_is_the_model_itself(tmp_path):
    a, b = keras.Input((4, 4, 3), name="pixels"), keras.Input((2,), name="more")
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(a)))
    model = keras.Model({"a": a, "b": b}, [x, keras.layers.Dense(3)(b)])
    km.export_onnx(model, tmp_path / "model.onnx")
    inputs = [RNG.normal(size=(5, *shape)).astype("float32") for shape in ((4, 4, 3), (2,))]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [x.name for x in session.get_inputs()] == ["pixels", "more"]
    assert [x.name for x in session.get_outputs()] == ["output_0", "output_1"]
    expected = model.predict(dict(zip("ab", inputs, strict=True)), verbose=0)
    for pair in zip(run(tmp_path / "model.onnx", *inputs), expected, strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_half_precision_is_written_in_float32(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    model = network()
    km.export_onnx(model, tmp_path / "model.onnx", dataset="cifar10")
    images = RNG.integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = model.predict(km.preprocessing.preprocess_input(images), verbose=0)
    [answers] = run(tmp_path / "model.onnx", images)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=0.02)


def test_what_onnx_has_not_is_named_and_nothing_is_left(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.ops.erfinv(keras.layers.GlobalAveragePooling2D()(image) * 0.01)
    with pytest.raises(ValueError, match=r"`model` .*Erfinv"):
        km.export_onnx(keras.Model(image, x), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "mnist"}, "`dataset`"),
        ({"dataset": "cifar100"}, "`model` must give 100"),
        ({"path": "."}, "`path`"),
        ({"model": keras.Sequential()}, "`model`"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, words):
    arguments = {"model": network(), "path": tmp_path / "model.onnx"} | arguments
    with pytest.raises(ValueError, match=words):
        km.export_onnx(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", km.list_models())
def test_every_network_of_the_zoo(tmp_path, name):
    check_classifier(km.create_model(name), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG16", "ResNet50V2"])
def test_networks_of_keras_with_replaced_convolutions(tmp_path, name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    check_classifier(km.replace_convolutions(model), tmp_path / "model.onnx")
