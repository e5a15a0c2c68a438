import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

import keras_multiception as km
from keras_multiception.export import saved_model
from keras_multiception.export.saved_model import gives_logits

RNG = np.random.default_rng(0)


def small_network(size=(32, 32), classes=10, activation="softmax", channels=3):
    return keras.Sequential(
        [
            keras.Input((*size, channels)),
            km.layers.MulticeptionConv2D(8, (3, 5), strides=4, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


def file_bytes(image, form):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def notebook_answer(model, images, dataset="digits"):
    return model.predict(km.preprocessing.preprocess_input(images, dataset), verbose=0)


@pytest.fixture
def images():
    return RNG.integers(0, 256, (3, 32, 32, 3), dtype="uint8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and where it has been exported to, with the three best classes."""
    model, folder = small_network(), tmp_path_factory.mktemp("exported")
    km.export_saved_model(model, folder / "model", dataset="digits", top_k=3)
    assert [p.name for p in folder.iterdir()] == ["model"]
    return model, folder / "model"


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(exported[1])
    yield loaded.signatures  # noqa: PT022 - keeps the loaded model alive


def test_every_signature_answers_like_the_model(exported, signatures, images):
    expected = notebook_answer(exported[0], images)
    names = {"serving_default", "serving_uint8", "serving_bytes", "classify"}
    assert set(signatures) == names
    files = [file_bytes(image, "PNG") for image in images]
    for outputs in (
        signatures["serving_default"](image=tf.constant(images, tf.float32)),
        signatures["serving_uint8"](image=tf.constant(images)),
        signatures["serving_bytes"](image_bytes=tf.constant(files)),
    ):
        assert set(outputs) == {"probabilities", "class_id", "label"}
        np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
        assert outputs["class_id"].dtype == tf.int64
        np.testing.assert_array_equal(outputs["class_id"], expected.argmax(-1))
        labels = [str(i).encode() for i in expected.argmax(-1)]
        assert outputs["label"].numpy().tolist() == labels


def test_gradients_are_those_of_the_model(exported, signatures, images):
    x = tf.constant(images, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        served = signatures["serving_default"](image=x)["probabilities"][:, 3]
        own = exported[0](km.preprocessing.preprocess_input(x, "digits"))[:, 3]
    expected = tape.gradient(own, x)
    assert np.any(expected)
    np.testing.assert_allclose(tape.gradient(served, x), expected, rtol=1e-3, atol=1e-8)


def examples(*files):
    lists = [tf.train.BytesList(value=[file]) for file in files]
    features = [{"image/encoded": tf.train.Feature(bytes_list=x)} for x in lists]
    messages = [tf.train.Example(features=tf.train.Features(feature=x)) for x in features]
    return tf.constant([message.SerializeToString() for message in messages])


def test_classify_names_the_most_probable_classes(exported, signatures, images):
    outputs = signatures["classify"](
        inputs=examples(*(file_bytes(image, "PNG") for image in images))
    )
    probabilities = notebook_answer(exported[0], images)
    expected = km.preprocessing.decode_predictions(probabilities, top=3, dataset="digits")
    for i, best in enumerate(expected):
        assert outputs["classes"][i].numpy().tolist() == [name.encode() for _, name, _ in best]
        np.testing.assert_allclose(outputs["scores"][i], [score for *_, score in best], atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image/encoded"):
        signatures["classify"](inputs=tf.constant([b""]))


def test_classify_is_marked_as_such_and_the_labels_are_beside_it(exported):
    path = exported[1]
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    assert definitions["classify"].method_name == "tensorflow/serving/classify"
    assert definitions["serving_bytes"].method_name == "tensorflow/serving/predict"
    labels = (path / "assets.extra" / "labels.txt").read_text().splitlines()
    assert labels == list(km.preprocessing.DATASETS["digits"].class_names)


def test_files_of_any_size_are_resized(exported, signatures):
    serve = signatures["serving_bytes"]
    shapes = {(50, 70): "JPEG", (5, 9, 4): "PNG", (1, 1, 3): "PNG"}
    files = [file_bytes(np.full(shape, 200, "uint8"), form) for shape, form in shapes.items()]
    received = serve(image_bytes=tf.constant(files))["probabilities"].numpy()
    expected = notebook_answer(exported[0], np.full((1, 32, 32, 3), 200, "uint8"))
    np.testing.assert_allclose(received, np.repeat(expected, 3, axis=0), atol=1e-3)
    assert serve(image_bytes=tf.constant([], tf.string))["probabilities"].shape == (0, 10)


def test_logits_become_probabilities_and_free_sizes_stay_free(tmp_path):
    model = small_network(size=(None, None), activation=None)
    km.export_saved_model(model, tmp_path / "model", dataset="cifar10")
    serve = tf.saved_model.load(tmp_path / "model").signatures["serving_uint8"]
    images = RNG.integers(0, 256, (2, 20, 40, 3), dtype="uint8")
    received = serve(image=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(received.sum(-1), 1, atol=1e-6)
    logits = notebook_answer(model, images, "cifar10")
    np.testing.assert_allclose(received, tf.nn.softmax(logits), atol=1e-6)


def graph_operations(path):
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    functions = saved.meta_graphs[0].graph_def.library.function
    return [node.op for function in functions for node in function.node_def]


def test_measured_forms_answer_alike(exported, signatures, images, tmp_path, capsys):
    path = tmp_path / "auto"
    km.export_saved_model(exported[0], path, dataset="digits", form="auto", form_batch_size=8)
    report = json.loads((path / "assets.extra" / "fusion.json").read_text())
    assert set(report["forms"].values()) <= {"separate", "merged", "dense"}
    assert "for 8 x [" in capsys.readouterr().out
    fused = tf.saved_model.load(path)
    expected, received = (
        serve["serving_uint8"](image=tf.constant(images))["probabilities"]
        for serve in (signatures, fused.signatures)
    )
    np.testing.assert_allclose(received, expected, atol=1e-5)


def in_a_model(*layers):
    return keras.Sequential([keras.Input((3,)), *layers])


def dense(activation=None):
    return keras.layers.Dense(3, activation)


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x


SIGMOIDS = [dense("sigmoid"), dense("sigmoid")]
LOGITS = [dense(), in_a_model(dense())]


@pytest.mark.parametrize(
    ("heads", "after", "is_logits"),
    [
        (LOGITS[:1], [], True),
        (LOGITS[1:], [keras.layers.Reshape((3,)), keras.layers.BatchNormalization()], True),
        (LOGITS, [keras.layers.Average(), keras.layers.Rescaling(0.5)], True),
        (LOGITS, [lambda xs: (xs[0] + xs[1]) / 2.0], True),
        (SIGMOIDS[:1], [in_a_model(keras.layers.Dropout(0.5)), keras.ops.log_softmax], True),
        (SIGMOIDS[:1], [in_a_model(dense())], True),
        (LOGITS[:1], [Doubled()], False),
        (LOGITS, [keras.layers.Multiply()], False),
        (LOGITS[:1], [keras.ops.softmax], False),
        (LOGITS[:1], [keras.layers.Softmax(), keras.layers.Activation("linear")], False),
        (LOGITS[:1], [in_a_model(keras.layers.Softmax(), keras.layers.Dropout(0.5))], False),
        (LOGITS[:1], [keras.layers.Activation("hard_sigmoid")], False),
        (LOGITS[:1], [keras.layers.ReLU()], False),
        *((SIGMOIDS, [merge()], False) for merge in (keras.layers.Average, keras.layers.Add)),
        (SIGMOIDS, [keras.layers.Maximum(), in_a_model(keras.layers.Identity())], False),
        (SIGMOIDS, [keras.layers.Average(), Doubled()], False),
        ([LOGITS[0], SIGMOIDS[0]], [keras.layers.Add()], False),
        ([keras.layers.Dense(1)], [], False),
    ],
)
def test_only_what_is_known_to_be_logits_gets_a_softmax(heads, after, is_logits):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Dense(3, "relu")(keras.layers.Flatten()(image))
    y = [head(x) for head in heads]
    y = y if len(y) > 1 else y[0]
    for layer in after:
        y = layer(y)
    model = keras.Model(image, y)
    spec = own_data(*"abc", size=8)
    assert gives_logits(model, spec) == is_logits
    if heads is LOGITS:  # whatever the layers are
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        assert gives_logits(model, spec)
        model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
        assert not gives_logits(model, spec)


def test_answers_are_those_of_predict_or_their_softmax(tmp_path, images):
    spec, image = own_data(*"abc"), keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    several = keras.layers.Average()([head(x) for head in SIGMOIDS])
    numbers = keras.layers.Dense(3, bias_initializer=keras.initializers.Constant([5e3, 0, -9]))(x)
    for name, y, logits, softmax in (
        ("multi-label", several, None, False),
        ("one", keras.layers.Dense(3, "softmax", dtype="mixed_float16")(x), None, False),
        ("regression", numbers, False, False),
        ("own", Doubled()(dense()(x)), True, True),
    ):
        model = keras.Model(image, y)
        km.export_saved_model(model, tmp_path / name, spec, logits=logits)
        expected = model.predict((images / 255 - 0.5) / 0.25, verbose=0).astype("float32")
        expected = tf.nn.softmax(expected) if softmax else expected
        loaded = tf.saved_model.load(tmp_path / name)
        received = loaded.signatures["serving_uint8"](image=tf.constant(images))
        np.testing.assert_allclose(received["probabilities"], expected, rtol=1e-5, atol=1e-6)


def own_data(*names, size=32):
    return km.preprocessing.Dataset((0.5,) * 3, (0.25,) * 3, (size, size, 3), names)


def test_data_of_ones_own_with_names_that_repeat_and_a_fused_network(exported, tmp_path, images):
    spec = own_data("crane", "crane", "dog")
    model, path = small_network(classes=3), tmp_path / "deep" / "model"
    # integers of NumPy, and more classes than there are
    numbers = {"top_k": np.int64(5), "form": "merged", "form_batch_size": np.int64(2)}
    km.export_saved_model(model, path, dataset=spec, **numbers)
    loaded = tf.saved_model.load(path)
    best = loaded.signatures["classify"](inputs=examples(file_bytes(images[0], "PNG")))
    assert sorted(best["classes"].numpy()[0]) == [b"crane", b"crane", b"dog"]
    outputs = loaded.signatures["serving_uint8"](image=tf.constant(images))
    assert set(outputs["label"].numpy().tolist()) <= {b"crane", b"dog"}
    expected = model.predict((images / 255 - 0.5) / 0.25, verbose=0)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    plain, fused = (graph_operations(x).count("DepthwiseConv2dNative") for x in (exported[1], path))
    assert 0 < fused < plain


def test_bad_arguments_leave_nothing(tmp_path):
    network = small_network()
    named = keras.Model(network.inputs, {"answer": network.outputs[0]})
    whole = keras.Input((32, 32, 3), dtype="uint8")
    whole = keras.Model(whole, network(keras.layers.Rescaling(1 / 255)(whole)))
    no_graph = "`model` must be a Functional model or a built"
    lines = "`dataset` must have class names that are strings"
    two, target = small_network(classes=2), tmp_path / "model"
    for model, arguments, message in (
        (keras.Model(), {}, no_graph),
        (keras.Sequential([keras.layers.Dense(10)]), {}, no_graph),
        (named, {}, "`model` must give 10 values .* in one tensor"),
        (whole, {}, r"`model` must take .* normalized RGB images.*dtype=uint8"),
        (two, {}, "`model` must give 10 values"),
        (small_network(channels=1), {}, "`model` must take one batch of"),
        (network, {"dataset": "mnist"}, "`dataset` must be one of"),
        (two, {"dataset": own_data("cat\ndog", "bird")}, lines),
        (two, {"dataset": own_data(b"a", b"b")}, lines),
        (network, {"form": "smaller"}, "`form` must be one of"),
        (network, {"logits": "no"}, "`logits` must be None or a boolean"),
        (network, {"form_batch_size": 0}, "`form_batch_size` must be a"),
        (network, {"top_k": 0}, "`top_k` must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            km.export_saved_model(model, target, **arguments)
    assert not list(tmp_path.iterdir())
    target.mkdir()
    with pytest.raises(ValueError, match="`path` must not exist"):
        km.export_saved_model(network, target)


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(saved_model, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="must answer like"):
        km.export_saved_model(small_network(), tmp_path / "model")
    monkeypatch.setattr(saved_model, "fuse", no_space)
    with pytest.raises(OSError, match="No space"):
        km.export_saved_model(small_network(), tmp_path / "model", form="merged")
    assert not list(tmp_path.iterdir())
