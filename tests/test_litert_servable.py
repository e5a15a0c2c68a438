"""LiteRT files served over REST and gRPC, as TF Serving does with `--prefer_tflite_model`."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import flatbuffers
import keras
import numpy as np
import pytest
from saved_models import export_light, png, saved, served
from test_rest import fetch

pytest.importorskip("tf_keras")
pytest.importorskip("ai_edge_litert")
from ai_edge_litert import schema_py_generated as schema

from keras_multiception.compression import convert_to_litert
from serving.client import Client, ServerError
from serving.config_files import single_model
from serving.engine.backends import LiteRTServable
from serving.engine.servable import ServingError
from serving.lifecycle.versions import Loading, ServedModel
from serving.version_folder import write_manifest

PREFERRED = Loading(prefer_tflite_model=True, num_tflite_pools=2)
IMAGES = np.random.default_rng(0).uniform(0, 255, (9, 4, 6, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    """Pixels of 4 x 6 to three classes; without batch norms, so that it needs no training."""
    keras.utils.set_random_seed(1)
    image = keras.Input((4, 6, 3), name="image")
    x = keras.layers.Rescaling(1 / 64)(image)
    x = keras.layers.Conv2D(5, 3, activation="relu")(x)
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory, network):
    """Version 3: a SavedModel of two classes, and beside it a LiteRT file of three."""
    base_path = tmp_path_factory.mktemp("litert")
    shutil.copytree(saved(export_light), base_path / "3")
    (base_path / "3" / "model.tflite").write_bytes(convert_to_litert(network))
    return base_path


def serve(base_path, loading):
    return served(single_model("m", base_path), port=0, loading=loading)


@pytest.fixture(scope="module")
def running(base_path):
    with serve(base_path, PREFERRED) as found:
        yield found


@pytest.fixture(params=["http", "grpc"])
def url(running, request):
    return running.url if request.param == "http" else f"grpc://{running.grpc_address}"


def without_signatures(content):
    file = schema.ModelT.InitFromPackedBuf(content)
    file.signatureDefs = []
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def expected(network, images=IMAGES):
    return network.predict(images, verbose=0)


@pytest.mark.parametrize("images", [IMAGES[:, :3], IMAGES.astype("uint8"), IMAGES[:0]])
def test_calls_that_do_not_fit(base_path, images):
    servable = LiteRTServable(base_path / "3", interpreters=1)
    with pytest.raises(ServingError) as caught:
        servable.predict("", {"image": images})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert servable.predict("", {"image": IMAGES})  # its interpreter is free again


def test_concurrent_calls_are_each_answered_for_themselves(base_path, network):
    servable = LiteRTServable(base_path / "3", interpreters=3)
    wanted = expected(network)

    def call(number):
        rows = [(number + i) % len(IMAGES) for i in range(1 + number % 4)]
        answer = servable.predict("", {"image": IMAGES[rows]})["probabilities"]
        return np.abs(answer - wanted[rows]).max()

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(call, range(60))) < 1e-5


def test_metadata_and_what_it_does_not_answer(running):
    model = f"{running.url}/v1/models/m"
    metadata = fetch(f"{model}/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert list(metadata) == ["serving_default"]
    signature = metadata["serving_default"]
    assert signature["inputs"]["image"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in signature["outputs"]["probabilities"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "3"]
    assert fetch(f"{model}:classify", {"examples": [{"image": 1.0}]})[0] == 400


@pytest.mark.parametrize("dtype", ["files", "uint8", "float32", "float64"])
def test_client_sends_files_as_pixels_and_arrays(url, network, dtype):
    images = IMAGES.round().astype("uint8")
    wanted = expected(network, images.astype("float32"))
    with Client(url, model_name="m", batch_size=4, labels=["a", "b", "c"]) as client:
        if dtype == "files":
            answers = client.predict([png(image) for image in images])
        else:
            answers = client.predict_arrays(images.astype(dtype))
    np.testing.assert_allclose([a.probabilities for a in answers], wanted, atol=1e-4)
    best = wanted.argmax(axis=1)
    assert [(a.class_id, a.label) for a in answers] == [(i, "abc"[i]) for i in best]


def test_client_says_what_does_not_fit(url):
    with Client(url, model_name="m") as client:
        with pytest.raises(ServerError, match=r"shape"):
            client.predict_arrays(np.zeros((1, 5, 5, 3), "float32"))
        good = png(np.zeros((4, 6, 3), "uint8"))
        first, bad, last = client.stream([good, good[:40], good])
        assert str(bad).startswith("image 1: ")
        assert first == last


def test_without_the_file_or_the_flag_the_saved_model_is_served(base_path, tmp_path):
    shutil.copytree(saved(export_light), tmp_path / "3")
    white = [png(np.full((4, 6, 3), 255, "uint8"))]
    for folder, loading in ((tmp_path, PREFERRED), (base_path, Loading())):
        with serve(folder, loading) as found, Client(found.url, model_name="m") as client:
            assert client.predict(white)[0].label == "bright"


@pytest.mark.parametrize("damage", ["cut", "manifest", "no signature"])
def test_a_damaged_file_leaves_the_old_version_serving(base_path, tmp_path, damage):
    content = (base_path / "3" / "model.tflite").read_bytes()
    shutil.copytree(base_path / "3", tmp_path / "3")
    with ServedModel("m", tmp_path, Loading(0, prefer_tflite_model=True)) as model:
        folder = shutil.copytree(base_path / "3", tmp_path / "4")
        if damage == "manifest":
            write_manifest(folder)
        damaged = {"cut": content[:999], "manifest": content + b"?"}
        (folder / "model.tflite").write_bytes(damaged.get(damage) or without_signatures(content))
        model.poll()
        assert model.servable().version == 3
        [failed, kept] = model.status()
        assert (failed.state, kept.state) == ("END", "AVAILABLE")
        assert failed.error_message
        (folder / "model.tflite").write_bytes(content)
        model.poll()
        assert model.servable().version == 4
