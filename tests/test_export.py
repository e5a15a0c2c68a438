"""Publishing: a version of a run, with a LiteRT file beside it, under a base path."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import usage_error
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2
from test_floors import ROOT
from test_saved_model import small_network

import keras_multiception as km
from keras_multiception.compression import convert_to_litert
from serving import demo, export
from serving.engine.backends import SavedModelServable
from serving.engine.batching import read_batching
from serving.engine.messages import replay_warmup
from serving.lifecycle.versions import Loading, load
from serving.publishing.litert import LiteRTFile
from serving.publishing.warmup import BATCHING_FILE
from serving.version_folder import WARMUP_FILE, verify_manifest
from training import data
from training.compression.artifacts import with_pixels

DIGITS = km.preprocessing.DATASETS["digits"]
PREFERRED = Loading(prefer_tflite_model=True)


def write_run(path, dataset="digits"):
    """A run folder as `training.train` leaves it: the files that export reads."""
    path.mkdir()
    data = {"dataset": dataset, **dataclasses.asdict(km.preprocessing.DATASETS[dataset])}
    config = {
        "name": "small_digits",
        "data": data,
        "recipe": {"model": "small", "conv": "multiception", "train_split": "train"},
    }
    scores = {"top1": 0.975, "top5": 1.0, "loss": 0.125, "examples": 1360}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.json").write_text(json.dumps({"test": scores, "epochs": 5}))
    small_network().save(path / "model.keras")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A run, and a base path where it is version 1, with a LiteRT file, and version 20."""
    folder = tmp_path_factory.mktemp("export")
    run, base = write_run(folder / "run"), folder / "models" / "digits"
    network = with_pixels(*export.load_run(run))
    (run / "network.tflite").write_bytes(convert_to_litert(network, "dynamic"))
    batching = folder / "batching.config"
    batching.write_text("max_batch_size { value: 3 }")
    arguments = ["--run", str(run), "--base_path", str(base)]
    assert export.main([*arguments, "--litert", str(run / "network.tflite")]) == 0
    arguments += ["--version=20", "--top_k=3", "--form=merged"]
    assert export.main([*arguments, "--batching_parameters_file", str(batching)]) == 0
    return run, base


def test_command_line_publishes_versions(published):
    run, base = published
    assert sorted(p.name for p in base.iterdir()) == [".lock", "1", "20"]
    assert verify_manifest(base / "1")
    labels = (base / "1" / "assets.extra" / "labels.txt").read_text()
    assert labels.split() == list("0123456789")
    assert (base / "1" / "saved_model.pb").is_file()
    litert = (run / "network.tflite").read_bytes()
    assert (base / "1" / "model.tflite").read_bytes() == litert
    classify = tf.saved_model.load(base / "20").signatures["classify"]
    assert classify.structured_outputs["classes"].shape[1] == 3


def warmed_up(path):
    """The signatures and batch sizes of a version's warm-up requests."""
    for record in tf.data.TFRecordDataset(str(path / WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        if log.HasField("classify_log"):
            request = log.classify_log.request
            size = len(request.input.example_list.examples)
        else:
            request = log.predict_log.request
            [tensor] = request.inputs.values()
            size = tensor.tensor_shape.dim[0].size
        yield request.model_spec.signature_name, size


def test_warm_up_is_for_every_signature_and_batch_size(published):
    path = published[1] / "20"
    names = ("serving_default", "serving_uint8", "serving_bytes", "classify")
    expected = {(name, size) for name in names for size in (1, 3)}
    assert set(warmed_up(path)) == expected
    assert replay_warmup(SavedModelServable(path)) == len(expected)


def test_warm_up_suits_the_saved_model_and_the_litert_file(published):
    path = published[1] / "1"
    sizes = read_batching(BATCHING_FILE).allowed_batch_sizes
    assert set(warmed_up(path)) == {("serving_default", size) for size in sizes}
    for loading in (Loading(), PREFERRED):
        assert replay_warmup(load(path, 1, loading)) == len(sizes)


def test_model_cards_tell_what_the_run_knows(published):
    litert, plain = (
        re.sub(r" *\| *", "|", (published[1] / v / "assets.extra" / "model_card.md").read_text())
        for v in ("1", "20")
    )
    parameters = sum(np.prod(weight.shape) for weight in small_network().trainable_weights)
    for line in (
        "# small_digits",
        "|data set|digits|",
        "|conv|multiception|",
        "|test|1,360|97.50%|100.00%|0.1250|",
        f"|trainable parameters as trained|{parameters:,}|",
        "|form of the exported network|auto|",
        "## LiteRT",
    ):
        assert f"{line}\n" in litert
    assert "|form of the exported network|merged|" in plain
    assert "## LiteRT" not in plain


def test_versions_are_listed_withdrawn_and_restored(published, capsys):
    _, base = published

    def run(*arguments, path=base):
        code = export.main(["--base_path", str(path), *arguments])
        told = capsys.readouterr()
        return code, told.out + told.err

    def listed():
        return [line.split()[:2] for line in run("--list")[1].splitlines()[1:]]

    assert listed() == [["20", "latest"], ["1", "kept"]]
    assert run("--rollback") == (0, "Version 1 is the latest now; withdrawn: 20\n")
    assert listed() == [["20", "withdrawn"], ["1", "latest"]]
    assert run("--restore", "20")[0] == 0
    assert run("--keep", "2") == (0, "Deleted versions: none\n")
    assert listed() == [["20", "latest"], ["1", "kept"]]
    assert run("--list", path=base / "none")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run"),
        (["--rollback", "7"], "`version`"),
        (["--rollback", "x"], "--rollback"),
        (["--restore", "1"], "`version`"),
        (["--keep", "0"], "--keep"),
        (["--run", "RUN", "--version", "20"], "`version`"),
        (["--run", "RUN", "--batching_parameters_file", "none"], "BatchingParameters"),
        (["--run", "none"], "`run`"),
        (["--run", "RUN", "--litert", "none"], "`litert`"),
    ],
)
def test_bad_arguments_change_nothing(published, capsys, arguments, message):
    run, base = published
    before = sorted(base.rglob("*"))
    arguments = ["--base_path", base, *(run if a == "RUN" else a for a in arguments)]
    main = lambda given: sys.exit(export.main(given))  # noqa: E731
    assert message in usage_error(capsys, main, arguments)
    assert sorted(base.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.keras", None, "finished run"),
        ("config.json", b"{}", "cannot be read"),
        ("model.keras", b"PK", "cannot be read"),
    ],
)
def test_damaged_runs(tmp_path, capsys, file, content, message):
    run, base = write_run(tmp_path / "run"), tmp_path / "digits"
    (run / file).unlink()
    if content:
        (run / file).write_bytes(content)
    assert export.main(["--run", str(run), "--base_path", str(base)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not base.exists()


def dense(shape=DIGITS.image_shape, classes=10, name="image"):
    image = keras.Input(shape, name=name)
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(classes, activation="softmax")(x))


@pytest.mark.parametrize(
    "content",
    [
        lambda _: b"no model at all",
        lambda good: good[:1000],
        lambda _: convert_to_litert(dense((8, 8, 3))),
        lambda _: convert_to_litert(dense(classes=3)),
        lambda _: convert_to_litert(dense(name="pixels")),
    ],
)
def test_litert_files_that_do_not_fit(published, tmp_path, content):
    good = (published[0] / "network.tflite").read_bytes()
    (tmp_path / "model").write_bytes(content(good))
    with pytest.raises(ValueError, match="`litert`"):
        LiteRTFile(tmp_path / "model", DIGITS)


# ---- the demonstration


def test_the_digit_is_of_the_test_split(tmp_path):
    with Image.open(demo.write_digit(tmp_path / "digit.png")) as image:
        pixels = np.asarray(image.convert("RGB"))
    images, _ = data.load("digits", "test")
    np.testing.assert_array_equal(pixels, images[7])


@pytest.mark.slow
def test_demo_ends_with_the_same_answers_and_no_line_of_tensorflow(tmp_path):
    command = [sys.executable, "-m", "serving.demo", "--workdir", tmp_path / "demo"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert float(re.search(r"test: (.+)% top-1", result.stdout)[1]) >= 95
    assert "answers are the same" in result.stdout
    assert re.findall(r"^(\d)\. ", result.stdout, re.MULTILINE) == ["1", "2", "3", "4"]
    assert len(re.findall(r" cat  ", result.stdout)) == 2
