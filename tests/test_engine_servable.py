"""Versions with a `model.onnx`, whose network the server runs by another engine than TensorFlow."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from saved_models import export_light, png, saved, served
from test_export import write_run
from test_saved_model import examples

from serving import export
from serving.client import Client
from serving.config_files import single_model
from serving.engine.backends import SavedModelServable
from serving.engine.batching import Batching
from serving.engine.servable import ServingError
from serving.lifecycle.versions import Loading, ServedModel, load
from serving.version_folder import MANIFEST_FILE, verify_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype="uint8")
FILES = np.array([png(image) for image in IMAGES], object)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    """Version 1, with a `model.onnx`."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "batching.config").write_text("max_batch_size { value: 8 }")  # to warm up
    arguments = ["--run", write_run(folder / "run"), "--base_path", folder / "m", "--top_k", 3]
    arguments += ["--batching_parameters_file", folder / "batching.config", "--form=plain"]
    assert export.main([*map(str, arguments), "--onnx"]) == 0
    return folder / "m"


@pytest.fixture(scope="module")
def by_tensorflow(base_path):
    return SavedModelServable(base_path / "1")


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def servable(base_path, request):
    """One engine behind batching, the other without."""
    batching = Batching(max_batch_size=8) if request.param == "onnxruntime" else None
    return load(base_path / "1", 1, Loading(batching=batching, engine=request.param))


def test_the_file_is_in_the_manifest_and_the_card(base_path):
    assert verify_manifest(base_path / "1")
    assert '"model.onnx"' in (base_path / "1" / MANIFEST_FILE).read_text()
    assert "## ONNX" in (base_path / "1" / "assets.extra" / "model_card.md").read_text()


@pytest.mark.parametrize("count", [5, 1, 0])
@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("serving_default", {"image": IMAGES.astype("float32")}),
        ("serving_uint8", {"image": IMAGES}),
        ("serving_bytes", {"image_bytes": FILES}),
        ("classify", {"inputs": examples(*FILES).numpy()}),
    ],
)
def test_every_signature_answers_as_by_tensorflow(
    servable, by_tensorflow, signature, inputs, count
):
    inputs = {name: array[:count] for name, array in inputs.items()}
    answers, expected = (x.predict(signature, inputs) for x in (servable, by_tensorflow))
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        assert (answers[name].dtype, answers[name].shape) == (values.dtype, values.shape)
        if values.dtype == np.float32:
            np.testing.assert_allclose(answers[name], values, atol=1e-5)
        else:
            np.testing.assert_array_equal(answers[name], values)


def test_a_call_from_many_threads_gets_its_own_answer_in_turn(servable, by_tensorflow):
    wanted = by_tensorflow.predict("serving_uint8", {"image": IMAGES})["probabilities"]

    def call(number):
        row = [number % len(IMAGES)]
        answer = servable.predict("serving_uint8", {"image": IMAGES[row]})["probabilities"]
        return np.abs(answer - wanted[row]).max()

    with ThreadPoolExecutor(32) as threads:
        assert max(threads.map(call, range(320))) < 1e-5


def test_a_broken_image_fails_only_its_own_call(servable):
    with ThreadPoolExecutor(4) as threads:
        inputs = [{"image_bytes": FILES[[0]]}, {"image_bytes": np.array([b"x"], object)}] * 2
        calls = [threads.submit(servable.predict, "serving_bytes", x) for x in inputs]
    for call, is_broken in zip(calls, [False, True] * 2, strict=True):
        if is_broken:
            with pytest.raises(ServingError, match="JPEG or PNG"):
                call.result()
        else:
            assert len(call.result()["label"]) == 1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_versions_with_and_without_the_file_follow_each_other(
    base_path, by_tensorflow, engine, tmp_path, caplog
):
    caplog.set_level(logging.WARNING, "serving")
    shutil.copytree(base_path / "1", tmp_path / "1")
    loading = Loading(0.05, engine=engine)
    wanted = by_tensorflow.predict("serving_bytes", {"image_bytes": FILES})["probabilities"]
    with served(single_model("m", tmp_path), port=0, loading=loading) as found:
        for url in (found.url, f"grpc://{found.grpc_address}"):
            with Client(url, model_name="m", batch_size=2) as client:
                answers = client.predict(list(FILES))
                probabilities = [answer.probabilities for answer in answers]
                np.testing.assert_allclose(probabilities, wanted, atol=1e-4)
        assert "serving" not in {record.name for record in caplog.records}
        with Client(url, model_name="m") as client:
            shutil.copytree(saved(export_light), tmp_path / ".new")
            (tmp_path / ".new").rename(tmp_path / "2")
            while client.predict([png(np.full((4, 6, 3), 255, "uint8"))])[0].label != "bright":
                pass
    [record] = [record for record in caplog.records if record.name == "serving"]
    assert "TensorFlow serves it" in record.getMessage()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_damaged_file_leaves_the_old_version_serving(base_path, engine, tmp_path):
    shutil.copytree(base_path / "1", tmp_path / "1")
    with ServedModel("m", tmp_path, Loading(0, engine=engine)) as model:
        folder = shutil.copytree(base_path / "1", tmp_path / "2")
        content = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(content[: len(content) // 2])
        (folder / MANIFEST_FILE).unlink()  # now the engine is who finds out
        model.poll()
        assert model.servable().version == 1
        assert model.status()[0].error_message
