"""`serving.export --litert`: a LiteRT file beside the SavedModel, which both servers can load."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from test_export import model_card, write_run

import keras_multiception as km
from serving import export, server
from serving.client import Client
from serving.config_files import single_model
from serving.engine.load import load
from serving.engine.warmup_replay import replay_warmup
from serving.lifecycle.loading import Loading
from serving.model_server import ServerOptions, model_server
from serving.publishing.base_path import list_versions
from serving.publishing.networks import load_run
from serving.version_folder import WARMUP_FILE, verify_manifest

pytest.importorskip("tf_keras")
pytest.importorskip("ai_edge_litert")
from keras_multiception.compression import convert_to_litert
from serving.publishing.litert import add_litert

DIGITS = km.preprocessing.DATASETS["digits"]
PREFERRED = Loading(prefer_tflite_model=True)


def of_pixels(model, name="image"):
    """The network behind its preprocessing, as `training.compress` converts it."""
    image = keras.Input(DIGITS.image_shape, name=name)
    scale = [1 / (255 * std) for std in DIGITS.std]
    offset = [-mean / std for mean, std in zip(DIGITS.mean, DIGITS.std, strict=True)]
    x = keras.layers.Rescaling(scale, offset)(image)
    for layer in model.layers:
        x = layer(x)
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def network(run):
    return of_pixels(load_run(run)[0])


@pytest.fixture(scope="module")
def litert(run, network):
    file = run / "network.tflite"
    file.write_bytes(convert_to_litert(network, "dynamic"))
    return file


@pytest.fixture(scope="module")
def base_path(run, litert, tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    arguments = ["--run", str(run), "--base_path", str(base), "--litert", str(litert)]
    assert export.main(arguments) == 0
    return base


def test_the_version_holds_both(base_path, litert):
    version = base_path / "1"
    assert (version / "model.tflite").read_bytes() == litert.read_bytes()
    assert verify_manifest(version)
    assert (version / "saved_model.pb").is_file()
    card = model_card(version)
    assert "## LiteRT" in card
    assert "the class of 1" in card or "the class of 9" in card  # 90 to 100 %
    (version / "model.tflite").touch()
    assert verify_manifest(version)


def test_warm_up_suits_both(base_path):
    names = set()
    for record in tf.data.TFRecordDataset(str(base_path / "1" / WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        names.add(log.predict_log.request.model_spec.signature_name)
    assert names == {"serving_default"}
    counts = {replay_warmup(load(base_path / "1", 1, how)) for how in (Loading(), PREFERRED)}
    assert len(counts) == 1
    assert counts != {0}


def test_both_are_served_to_the_same_client(base_path, network):
    images = np.random.default_rng(0).integers(0, 256, (5, *DIGITS.image_shape), dtype="uint8")
    expected = network.predict(images.astype("float32"), verbose=0)
    files = [tf.io.encode_png(image).numpy() for image in images]
    labels = base_path / "1" / "assets.extra" / "labels.txt"
    answers = {}
    for how in (Loading(), PREFERRED):
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(server.listen("127.0.0.1", 0))
            config, options = single_model("digits", base_path), ServerOptions(loading=how)
            running = stack.enter_context(model_server(config, listener, options))
            client = Client(running.url, model_name="digits", labels=labels)
            answers[how] = stack.enter_context(client).predict(files)
    for how, tolerance in ((Loading(), 1e-5), (PREFERRED, 0.02)):
        found = [answer.probabilities for answer in answers[how]]
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert all(answer.label == str(answer.class_id) for answer in answers[how])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "it has no TFL3 at the fifth byte"),
        ("cut", "`litert` must be a LiteRT model with the signature serving_default"),
    ],
)
def test_damaged_files(litert, tmp_path, name, message):
    (tmp_path / "text").write_text("no model at all")
    (tmp_path / "cut").write_bytes(litert.read_bytes()[:1000])
    with pytest.raises(ValueError, match=message):
        add_litert(tmp_path / name, tmp_path, DIGITS)
    assert not (tmp_path / "model.tflite").exists()


def test_a_missing_file_publishes_nothing(run, tmp_path, capsys):
    base = tmp_path / "base"
    arguments = ["--run", str(run), "--base_path", str(base), "--litert", str(tmp_path / "none")]
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert "`litert` must be the path of a LiteRT file" in error
    assert len(error.splitlines()) == 1
    assert not list_versions(base)


def test_a_litert_file_needs_its_run(base_path, litert, capsys):
    assert export.main(["--base_path", str(base_path), "--list", "--litert", str(litert)]) == 2
    assert "--litert needs --run" in capsys.readouterr().err


def dense(shape=DIGITS.image_shape, classes=10, activation="softmax", name="image"):
    image = keras.Input(shape, name=name)
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(classes, activation=activation, name="d")(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: dense((8, 8, 3)), r"must take `image`: float32 \[-1, 32, 32, 3\]"),
        (lambda: dense(classes=3), r"to `probabilities`: float32 \[-1, 3\]"),
        (lambda: dense(name="pixels"), r"from `pixels`"),
        (lambda: dense(activation=None), r"to `d`: float32"),
    ],
)
def test_models_that_do_not_fit(tmp_path, model, message):
    (tmp_path / "model").write_bytes(convert_to_litert(model()))
    with pytest.raises(ValueError, match=message):
        add_litert(tmp_path / "model", tmp_path, DIGITS)


def test_tensors_named_otherwise_than_the_signature(tmp_path):
    class Network(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, "image")])
        def __call__(self, image):
            return {
                "probabilities": tf.nn.softmax(tf.reduce_mean(image, [1, 2])[:, :1] * [[0.1] * 10])
            }

    network = Network()
    function = network.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], network)
    (tmp_path / "model").write_bytes(converter.convert())
    with pytest.raises(
        ValueError, match="`litert` must have its tensors named as in its signature"
    ):
        add_litert(tmp_path / "model", tmp_path, DIGITS)
