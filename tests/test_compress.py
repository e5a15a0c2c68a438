"""The command that compresses finished runs, on networks small enough for tests."""

import csv
import functools
import json
import sys

import keras
import numpy as np
import pytest
import study_folders
from commands import assert_same_arrays, finish, kill_when, start, usage_error

from keras_multiception.atomic import write_json
from keras_multiception.layers import MulticeptionConv2D
from training import compress, data
from training.compression.artifacts import in_float32
from training.compression.recipes import DEFAULT, parse_recipes
from training.run_folder import RunFolder, find_runs

# the last but two leaves one branch in every layer
RECIPES = [*DEFAULT.split(), "branches60", "onnx", "onnx_int8"]
FAST = ["--set", "train_split=train[:256]", "test_split=test[:100]", "epochs=1", "rounds=1"]
FAST += ["learning_rate=0.05"]


def classifier():
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = MulticeptionConv2D(8, (3, 5), 2, name="stage1_conv")(x)
    x = keras.layers.ReLU(name="stage1_relu")(x)
    x = MulticeptionConv2D(16, (3, 3), 2, name="stage2_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


@functools.cache
def untrained():
    return classifier()


def save_run(path, seed=0, train=False, conv="multiception"):
    """Write what a finished training run leaves."""
    model = untrained()
    if train:
        keras.utils.set_random_seed(seed)
        model = classifier()
        images, labels = data.load("digits", "train")
        digits = {"dataset": data.spec("digits"), "batch_size": 32, "epochs": 4}
        batches = data.training_batches(images, labels, **digits)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        model.fit(batches, steps_per_epoch=len(images) // 32, epochs=4, verbose=0)
    recipe = {"model": "resnet20", "conv": conv, "image_size": 0}
    recipe |= {"train_split": "train", "pad_and_crop": 0, "flip": False, "seed": seed}
    metrics = {"parameters": {"trainable": model.count_params(), "total": 0}}
    return study_folders.save_run(path, model, metrics, **recipe)


def main(*arguments):
    return compress.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    return usage_error(capsys, compress.main, arguments)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for seed in range(2):
        save_run(folder / f"seed_{seed}", seed, train=True)
    return folder


@pytest.fixture(scope="module")
def results(study):
    output = study / "compression"
    arguments = ["--run", study / "seed_0", *FAST, "--output", output, "--recipe", *RECIPES]
    assert main(*arguments) == 0
    return json.loads((study / "compression.json").read_text())


@pytest.mark.slow
def test_every_recipe_is_made_and_measured(study, results):
    (network,) = results["networks"]
    artifacts = {each["recipe"]: each for each in network["artifacts"]}
    assert list(artifacts) == RECIPES
    floating = artifacts["float"]
    assert floating["accuracy"] > 60, "the network must have learned for the rest to mean anything"
    for name, each in artifacts.items():
        (recipe,) = parse_recipes([name])
        assert (each["n"], each["test_examples"]) == (1, 100)
        if not recipe.training_steps and name != "float":
            assert each["accuracy"] == pytest.approx(floating["accuracy"], abs=4), name
        if recipe.conversion == "int8":
            assert each["sizes"]["weights"] < 0.35 * floating["sizes"]["weights"], name
        assert min(each["batch_1_ms"], each["images_per_second"]) > 0
        suffix = "onnx" if name.startswith("onnx") else "tflite"
        assert (study / "seed_0" / "compressed" / name / f"model.{suffix}").is_file()
    weights = {name: each["kernels"]["total"]["parameters"] for name, each in artifacts.items()}
    sparsity = {
        name: 1 - each["kernels"]["total"]["nonzero"] / weights[name]
        for name, each in artifacts.items()
    }
    assert sparsity["float"] < 0.01
    assert sparsity["prune50"] < sparsity["prune80"]
    pointwise = artifacts["prune80"]["kernels"]["pointwise"]
    assert pointwise["nonzero"] / pointwise["parameters"] == pytest.approx(0.2, abs=0.02)
    assert sparsity["pqat"] >= sparsity["prune50"] - 1e-9, "zeros stay zeros"
    assert weights["branches60"] < weights["branches40"] <= weights["fused"]
    assert artifacts["cluster16"]["sizes"]["deflated"] < floating["sizes"]["deflated"]


@pytest.mark.slow
def test_tables_and_figure_are_written_and_made_again(study, results, tmp_path):
    (network,) = results["networks"]
    page = (study / "compression.md").read_text()
    assert "python -m training.compress" in page
    assert str(study) not in page
    assert all(page.count(f"| {name} ") == 1 for name in RECIPES)
    rows = list(csv.DictReader((study / "compression.csv").open()))
    assert list(dict.fromkeys(row["recipe"] for row in rows)) == RECIPES
    (accuracy, *_) = [float(row["value"]) for row in rows if row["metric"] == "accuracy"]
    assert [accuracy] == network["artifacts"][0]["accuracies"]
    again = tmp_path / "again.json"
    again.write_text((study / "compression.json").read_text())
    assert main("--render", again) == 0
    assert again.with_suffix(".csv").read_text() == (study / "compression.csv").read_text()
    assert again.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_seeds_are_averaged_and_what_is_finished_is_not_made_again(study, results):
    made = sorted(study.rglob("compressed/**/*.*"))
    before = [file.stat().st_mtime_ns for file in made]
    assert main("--run", study, *FAST, "--recipe", "float,qat", "--output", study / "two") == 0
    assert [file.stat().st_mtime_ns for file in made] == before
    (network,) = json.loads((study / "two.json").read_text())["networks"]
    assert [each["recipe"] for each in network["artifacts"]] == ["float", "qat"]
    for each in network["artifacts"]:
        assert each["seeds"] == [0, 1]
        assert each["accuracy"] == pytest.approx(np.mean(each["accuracies"]))


@pytest.mark.slow
def test_killed_in_the_midst_and_repeated_equals_unbroken(tmp_path):
    runs = [save_run(tmp_path / name) for name in ("unbroken", "killed")]
    unbroken, killed = (
        ["--run", run, *FAST, "epochs=2", "--recipe", "prune50", "tuned"] for run in runs
    )
    steps = [run / "compressed" / "steps" for run in runs]
    checkpoint = steps[1] / "prune50.checkpoint" / "checkpoint"
    finish(start(*unbroken, module="training.compress"))
    kill_when(checkpoint, start(*killed, module="training.compress"))
    assert not (runs[1] / "compressed" / "prune50").exists()
    finish(start(*killed, module="training.compress"))
    for step in ("prune50", "tune"):
        assert_same_arrays(*(folder / f"{step}.npz" for folder in steps))
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "--run is needed"),
        ("--run nowhere", "`run` must be"),
        ("--run . --recipe smaller", "`recipe` must be of"),
        ("--run . --set rounds=0", "`rounds` must be"),
        ("--render nowhere.json", "`render` must be"),
    ],
)
def test_bad_arguments_are_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert part in error_of(capsys, *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--set learning_rate=nan", "`learning_rate` must be"),
        ("--set batch_size=10000 --recipe qat", "`batch_size` must be"),
        ("--set test_split=rest", "split"),
        ("--recipe branches40 branches60", "`recipe` must have one that can be followed"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing_behind(arguments, part, tmp_path, capsys):
    run = save_run(tmp_path / "run", conv="dsconv")
    assert part in error_of(capsys, "--run", run, "--recipe", "float", *arguments.split())
    assert not list(run.rglob("result.json"))


@pytest.mark.parametrize(("seed", "lost"), [(0, "qat"), (1, "float; qat")])
def test_results_of_others_are_not_lost(seed, lost, tmp_path, capsys):
    run = save_run(tmp_path / "run", seed)
    recipe = {k: v for k, v in RunFolder(run).config()["recipe"].items() if k != "seed"}
    artifacts = [{"recipe": name, "seeds": [0]} for name in ("float", "qat")]
    write_json(tmp_path / "two.json", {"networks": [{"recipe": recipe, "artifacts": artifacts}]})
    before = (tmp_path / "two.json").read_text()
    arguments = ["--run", run, "--recipe", "float", "--output", tmp_path / "two", *FAST]
    message = error_of(capsys, *arguments)
    assert "`output` must not be the results of other runs" in message
    assert f"give those too: {lost}. Received" in message
    assert (tmp_path / "two.json").read_text() == before


def test_other_settings_are_refused(tmp_path, capsys):
    run = save_run(tmp_path / "run")
    settings = {"fine_tuning": {"epochs": 9}, "train_split": "train", "test_split": "test"}
    write_json(run / "compressed" / "config.json", settings)
    assert "another configuration" in error_of(capsys, "--run", run, "--recipe", "float")


def test_runs_are_found_below_any_folder_one_of_each_seed(tmp_path):
    folders = [tmp_path / "compressed" / name for name in ("a", "b")]
    for folder, conv in zip(folders, ("dsconv", "standard"), strict=True):
        save_run(folder, conv=conv)
    write_json(folders[0] / "compressed" / "metrics.json", {})
    runs = find_runs([tmp_path / "compressed", folders[1]])
    assert [run.path for run in runs] == folders
    save_run(tmp_path / "again", conv="standard")
    with pytest.raises(ValueError, match=r"one run for each seed of a recipe.*b and .*again"):
        find_runs([tmp_path / "compressed", tmp_path / "again"])


def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "training.compression.artifacts", None)
    assert compress.main(["--run", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "it comes with pip install -e '.[training,compression]'" in line


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_networks_of_half_precision_become_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = classifier()
    keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    copy = in_float32(model)
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    np.testing.assert_allclose(copy(x), model(x), atol=0.02)
    assert in_float32(copy) is copy


@pytest.mark.parametrize(
    "text", ["", ",", "fast", "prune", "50", "qat8", "float,-1", "prune100", "cluster1", "cqat257"]
)
def test_other_recipes_are_refused(text):
    with pytest.raises(ValueError, match=r"`recipe` must .* Received: recipe="):
        parse_recipes([text])
