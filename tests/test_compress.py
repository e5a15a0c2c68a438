import csv
import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_multiception.atomic import write_json
from keras_multiception.layers import MulticeptionConv2D
from training import compress, data
from training.compression.recipes import DEFAULT, parse_recipes
from training.run_folder import RunFolder

RECIPES = f"{DEFAULT},branches60"  # which leaves one branch in every layer
FAST = ("--train_split", "train[:256]", "--test_split", "test[:100]", "--epochs", "1")
FAST += ("--rounds", "1", "--learning_rate", "0.05")


def classifier(conv):
    x = inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    x = conv(8, (3, 5), 2, name="stage1_conv")(x)
    x = keras.layers.ReLU(name="stage1_relu")(x)
    x = conv(16, (3, 3), 2, name="stage2_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def save_run(path, seed=0, train=True):
    """Write what a finished training run leaves, of a network small enough for tests."""
    keras.utils.set_random_seed(seed)
    folder, facts = RunFolder(path), data.spec("digits")
    recipe = {"dataset": "digits", "model": "resnet20", "conv": "multiception", "image_size": 0}
    recipe |= {"train_split": "train", "test_split": "test", "pad_and_crop": 0, "flip": False}
    folder.begin(
        {
            "name": "digits",
            "recipe": recipe | {"seed": seed},
            "data": facts.to_dict(),
            "versions": {},
            "hardware": {},
        }
    )
    model = classifier(MulticeptionConv2D)
    if train:
        images, labels = data.load("digits", "train")
        batches = data.training_batches(images, labels, dataset=facts, batch_size=32, epochs=4)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        model.fit(batches, steps_per_epoch=len(images) // 32, epochs=4, verbose=0)
    model.save(folder.model)
    folder.finish({"parameters": {"trainable": model.count_params(), "total": 0}})
    return path


def main(*arguments):
    return compress.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(*arguments)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.count("\n") == 1
    return message


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for seed in range(2):
        save_run(folder / f"seed_{seed}", seed)
    return folder


@pytest.fixture(scope="module")
def results(study):
    assert main("--run", study, *FAST, "--note", "small", "--recipe", RECIPES) == 0
    return json.loads((study / "compression.json").read_text())


@pytest.mark.slow
def test_every_recipe_is_made_and_measured(study, results):
    (network,) = results["networks"]
    artifacts = {each["recipe"]: each for each in network["artifacts"]}
    assert list(artifacts) == RECIPES.split(",")
    floating = artifacts["float"]
    assert floating["accuracy"] > 60, "the network must have learned for the rest to mean anything"
    for name, each in artifacts.items():
        (recipe,) = parse_recipes(name)
        assert each["n"] == 2
        assert each["test_examples"] == 100
        assert each["accuracy"] == pytest.approx(np.mean(each["accuracies"]))
        if not recipe.training_steps and name != "float":
            assert each["accuracy"] == pytest.approx(floating["accuracy"], abs=4), name
        if recipe.conversion == "int8":
            assert each["sizes"]["weights"] < 0.35 * floating["sizes"]["weights"], name
        assert set(each["times"]) >= {"LiteRT, 1 thread", "LiteRT, 2 threads"}
        assert all(value > 0 for value in each["batch_1_ms"].values())
        for seed in range(2):
            assert (study / f"seed_{seed}" / "compressed" / name / "model.tflite").is_file()
    sparsity = {
        name: 1 - each["kernels"]["total"]["nonzero"] / each["kernels"]["total"]["parameters"]
        for name, each in artifacts.items()
    }
    assert sparsity["float"] < 0.01
    assert sparsity["prune50"] < sparsity["prune80"]
    pointwise = artifacts["prune80"]["kernels"]["pointwise"]
    assert pointwise["nonzero"] / pointwise["parameters"] == pytest.approx(0.2, abs=0.02)
    assert sparsity["pqat"] >= sparsity["prune50"] - 1e-9, "zeros stay zeros"
    weights = {name: each["kernels"]["total"]["parameters"] for name, each in artifacts.items()}
    assert weights["branches60"] < weights["branches40"] <= weights["fused"]
    assert artifacts["cluster16"]["sizes"]["deflated"] < floating["sizes"]["deflated"]


@pytest.mark.slow
def test_tables_and_figure_are_written_and_made_again(study, results, tmp_path):
    (network,) = results["networks"]
    page = (study / "compression.md").read_text()
    assert "small" in page
    assert "python -m training.compress" in page
    assert str(study) not in page
    for each in network["artifacts"]:
        assert f"`{each['recipe']}`: {each['description']}" in page
    rows = list(csv.DictReader((study / "compression.csv").open()))
    assert [row["recipe"] for row in rows] == RECIPES.split(",")
    assert float(rows[0]["accuracy"]) == network["artifacts"][0]["accuracy"]
    assert (study / "compression.png").read_bytes().startswith(b"\x89PNG")

    again = tmp_path / "again.json"
    again.write_text((study / "compression.json").read_text())
    assert main("--render", again) == 0
    assert (tmp_path / "again.csv").read_text() == (study / "compression.csv").read_text()


@pytest.mark.slow
def test_what_is_finished_is_not_made_again(study, results):
    made = sorted(study.rglob("compressed/**/*.*"))
    before = [file.stat().st_mtime_ns for file in made]
    assert main("--run", study, *FAST, "--recipe", "float,qat", "--output", study / "two") == 0
    assert [file.stat().st_mtime_ns for file in made] == before
    (network,) = json.loads((study / "two.json").read_text())["networks"]
    assert [each["recipe"] for each in network["artifacts"]] == ["float", "qat"]


@pytest.mark.slow
def test_killed_in_the_midst_and_repeated_equals_unbroken(tmp_path):
    runs = [save_run(tmp_path / name, train=False) for name in ("unbroken", "killed")]
    options = [*FAST, "--recipe", "prune50,tuned", "--epochs", "3"]
    commands = [
        [sys.executable, "-m", "training.compress", "--run", str(run), *options] for run in runs
    ]
    subprocess.run(commands[0], check=True)
    process = subprocess.Popen(commands[1])
    checkpoint = runs[1] / "compressed" / "steps" / "prune50.checkpoint" / "checkpoint"
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (runs[1] / "compressed" / "prune50").exists()
    subprocess.run(commands[1], check=True)
    for step in ("prune50", "tune"):
        first, second = (np.load(run / "compressed" / "steps" / f"{step}.npz") for run in runs)
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name])
    assert not checkpoint.parent.exists()


def test_recipes_are_listed(capsys):
    assert main("--list") == 0
    assert "pqatN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "--run is needed"),
        (("--run", "nowhere"), "`run` must be"),
        (("--run", ".", "--recipe", "smaller"), "`recipe` must be of"),
        (("--run", ".", "--rounds", 0), "`rounds` must be"),
        (("--render", "nowhere.json"), "`render` must be"),
    ],
)
def test_bad_arguments_are_one_line(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert part in error_of(capsys, *arguments)


@pytest.mark.parametrize(
    ("flag", "value", "part"),
    [
        ("--epochs", 0, "`epochs` must be at least 1"),
        ("--learning_rate", "nan", "`learning_rate` must be"),
        ("--batch_size", 10_000, "`batch_size` must be"),
        ("--test_split", "rest", "split"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing_behind(flag, value, part, tmp_path, capsys):
    run = save_run(tmp_path / "run", train=False)
    recipe = "qat" if flag == "--batch_size" else "float"
    assert part in error_of(capsys, "--run", run, "--recipe", recipe, flag, value)
    assert not list(run.rglob("result.json"))


@pytest.mark.parametrize("seed", [0, 1])
def test_results_of_others_are_not_lost(seed, tmp_path, capsys):
    run = save_run(tmp_path / "run", seed, train=False)
    recipe = {k: v for k, v in RunFolder(run).config()["recipe"].items() if k != "seed"}
    artifacts = [{"recipe": name, "seeds": [0]} for name in ("float", "qat")]
    write_json(tmp_path / "two.json", {"networks": [{"recipe": recipe, "artifacts": artifacts}]})
    before = (tmp_path / "two.json").read_text()
    message = error_of(
        capsys, "--run", run, "--recipe", "float", "--output", tmp_path / "two", *FAST
    )
    assert "`output` must not be the results of other recipes or runs" in message
    assert f"give those too: {'qat' if seed == 0 else 'float, qat'}. Received" in message
    assert (tmp_path / "two.json").read_text() == before


def test_an_output_needs_a_name(tmp_path, capsys):
    run = save_run(tmp_path / "run", train=False)
    assert "`output` must be a path of files" in error_of(capsys, "--run", run, "--output", ".")


def test_other_settings_are_refused(tmp_path, capsys):
    run = save_run(tmp_path / "run", train=False)
    settings = {"fine_tuning": {"epochs": 9}, "train_split": "train", "test_split": "test"}
    write_json(run / "compressed" / "config.json", settings)
    assert "another configuration" in error_of(capsys, "--run", run, "--recipe", "float")
