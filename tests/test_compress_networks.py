"""Results of several networks that have not all the same recipes or images."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception import compression
from training import compress
from training.compression.artifacts import find_runs
from training.compression.steps import in_float32, with_pixels
from training.compression.timing import time_artifacts
from training.run_folder import RunFolder


def small_network(size):
    image = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, strides=2)(image))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


def test_networks_for_images_of_different_sizes_are_timed_together(tmp_path):
    artifacts = {}
    for dataset in ("cifar10", "stl10"):
        facts = km.preprocessing.get_dataset(dataset)
        path = tmp_path / dataset / "model.tflite"
        path.parent.mkdir()
        model = with_pixels(small_network(facts.image_shape[0]), facts)
        path.write_bytes(compression.convert_to_litert(model))
        artifacts[dataset] = (path, facts)
    times = time_artifacts(artifacts, rounds=1)
    assert list(times) == ["cifar10", "stl10"]
    assert all(value["LiteRT, 1 thread"]["images_per_second"][0] > 0 for value in times.values())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_networks_of_half_precision_become_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = km.ResNet20(input_shape=(8, 8, 3), filters=4)
    keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    copy = in_float32(model)
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    np.testing.assert_allclose(copy(x), model(x), atol=0.02)
    assert in_float32(copy) is copy
    assert compression.convert_to_litert(copy)


def finished_run(path, conv, dataset="digits", seed=0):
    facts = km.preprocessing.get_dataset("digits")
    recipe = {"dataset": dataset, "model": "resnet20", "conv": conv, "image_size": 32}
    recipe |= {"train_split": "train", "test_split": "test", "seed": seed}
    folder = RunFolder(path)
    folder.begin(
        {
            "name": "digits",
            "recipe": recipe,
            "data": {"dataset": dataset, **dataclasses.asdict(facts)},
            "versions": {},
            "hardware": {},
        }
    )
    small_network(32).save(folder.model)
    folder.finish({"parameters": {"trainable": 1, "total": 1}})
    return path


def test_recipes_that_no_network_can_follow_are_refused(tmp_path, capsys):
    run = finished_run(tmp_path / "run", "dsconv")
    with pytest.raises(SystemExit):
        compress.main(["--run", str(run), "--recipe", "branches40,branches60"])
    assert "`recipe` must have one that can be followed" in capsys.readouterr().err
    assert not (run / "compressed").exists()


def test_a_folder_of_other_classes_is_refused(tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    run = finished_run(tmp_path / "run", "dsconv", "folder")
    with pytest.raises(SystemExit):
        compress.main(
            ["--run", str(run), "--recipe", "float", "--data_dir", str(tmp_path / "pets")]
        )
    error = capsys.readouterr().err
    assert "`data_dir` must have the classes that the run was trained on" in error
    assert error.endswith("Received: cat, dog\n")


def test_runs_are_found_below_any_folder(tmp_path):
    folders = [tmp_path / "compressed" / name for name in ("a", "b")]
    for folder, conv in zip(folders, ("dsconv", "standard"), strict=True):
        finished_run(folder, conv)
    (folders[0] / "compressed").mkdir()
    (folders[0] / "compressed" / "metrics.json").write_text(json.dumps({}))
    assert find_runs([tmp_path / "compressed"]) == folders


def test_one_run_of_each_seed(tmp_path):
    for folder, seed in (("one", 0), ("two", 1), ("three", 0)):
        finished_run(tmp_path / folder, "dsconv", seed=seed)
    assert len(find_runs([tmp_path / "one", tmp_path / "two", tmp_path / "one"])) == 2
    with pytest.raises(ValueError, match=r"one run for each seed of a recipe.*one and .*three"):
        find_runs([tmp_path / "one", tmp_path / "three"])


def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "training.compression.artifacts", None)
    assert compress.main(["--run", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "it comes with pip install -e '.[training,compression]'" in line
