import json
import math
import warnings

import keras
import numpy as np
import pytest
from commands import history, small_network, usage_error

import keras_multiception as km
from training import data, evaluate, train
from training.loop import network
from training.recipes import RECIPES, get_recipe

SMALL = ("epochs=2", "train_split=train[:100]", "test_split=test[:50]")
RECIPE = "resnet20_standard_digits"


def arguments(workdir, *overrides, recipe=RECIPE):
    return ["--recipe", recipe, "--workdir", str(workdir), "--set", *SMALL, *overrides]


def run(workdir, *overrides, recipe=RECIPE, data_dir=None):
    data = ["--data_dir", str(data_dir)] if data_dir else []
    return train.main([*data, *arguments(workdir, *overrides, recipe=recipe)])


def error_of(capsys, *positional):
    return usage_error(capsys, train.main, arguments(*positional))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build", small_network)
        assert run(path) == 0
    return path


@pytest.fixture
def resumable(workdir, tmp_path):
    """A function that makes a finished run of a changed configuration."""

    def make(change):
        config = read_json(workdir / "config.json")
        change(config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "metrics.json").write_bytes((workdir / "metrics.json").read_bytes())
        return tmp_path

    return make


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_json(path):
    return json.loads(path.read_text())


class TestFolder:
    def test_config_holds_everything_that_decides_the_run(self, workdir):
        config = read_json(workdir / "config.json")
        assert config["name"] == RECIPE
        assert config["recipe"] == json.loads(json.dumps(vars(get_recipe(RECIPE, SMALL))))
        spec = json.loads(json.dumps(data.spec("digits").to_dict()))
        assert config["data"] == {"dataset": "digits", **spec}
        assert config["versions"]["keras"] == keras.__version__
        assert config["versions"]["keras_multiception"] == km.__version__
        assert config["hardware"]["cpus"] >= 1
        assert config["execution"]["replicas"] == 1

    def test_history_has_a_row_for_each_epoch(self, workdir):
        rows, recipe = history(workdir), get_recipe(RECIPE, SMALL)
        assert [row["epoch"] for row in rows] == [1, 2]
        rates = [row["learning_rate"] for row in rows]
        assert rates == pytest.approx([recipe.learning_rate_at(epoch) for epoch in range(2)])
        assert all(math.isfinite(value) for row in rows for value in row.values())
        assert {"loss", "top1", "top5", "val_loss", "val_top1", "val_top5"} < rows[0].keys()

    def test_logs_are_tensorboard_events(self, workdir):
        logs = {path.parent.name for path in (workdir / "logs").rglob("events.*")}
        assert logs == {"train", "validation"}

    def test_metrics_are_those_of_the_saved_model(self, workdir):
        metrics = read_json(workdir / "metrics.json")
        with warnings.catch_warnings(action="error"):
            model = keras.models.load_model(workdir / "model.keras")
        images, labels = data.load("digits", "test[:50]")
        pixels = km.preprocessing.preprocess_input(images, "digits")
        loss, accuracy, top5 = model.evaluate(pixels, labels, verbose=0)
        assert metrics["test"]["examples"] == 50
        assert metrics["test"]["loss"] == pytest.approx(loss, rel=1e-4)
        assert metrics["test"]["top1"] == pytest.approx(accuracy)
        assert metrics["test"]["top5"] == pytest.approx(top5)
        assert metrics["parameters"] == {"trainable": 200, "total": 220}
        assert metrics["epochs"] == 2
        np.testing.assert_allclose(model.predict(pixels, verbose=0).sum(axis=1), 1, rtol=1e-5)

    @pytest.mark.parametrize(("split", "name"), [("train[:100]", "train"), (None, "test")])
    def test_evaluate_agrees_to_the_digit(self, workdir, tmp_path, split, name):
        flags = ["--run", str(workdir), "--json", str(tmp_path / "result.json")]
        assert evaluate.main([*flags, *(["--split", split] if split else [])]) == 0
        result, metrics = read_json(tmp_path / "result.json"), read_json(workdir / "metrics.json")
        assert {key: result[key] for key in metrics[name]} == metrics[name]
        assert result["parameters"] == metrics["parameters"]

    def test_images_of_another_size_than_the_runs(self, workdir, capsys):
        message = usage_error(capsys, evaluate.main, ["--run", workdir, "--image_size", 16])
        assert "`image_size` must be that of the network's images, 32. Received" in message


class TestFinishedRun:
    def test_is_left_as_it_is_whatever_its_recipe_is_called(self, workdir, tmp_path, capsys):
        (tmp_path / "mine.json").write_text(json.dumps(vars(get_recipe(RECIPE, SMALL))))
        before = contents(workdir)
        for name in (RECIPE, str(tmp_path / "mine.json")):
            assert run(workdir, recipe=name) == 0
            assert "finished" in capsys.readouterr().out
            assert contents(workdir) == before

    def test_of_another_configuration_is_refused_and_loses_nothing(self, workdir, capsys):
        before = contents(workdir)
        message = error_of(capsys, workdir, "batch_size=16", "seed=1")
        assert "Different: batch_size (32 there, 16 now), seed (0 there, 1 now)." in message
        assert contents(workdir) == before

    def test_of_an_older_version_is_known_again(self, resumable, capsys):
        def change(config):
            for key in ("ema", "mixup", "filters"):
                del config["recipe"][key]
            del config["execution"]

        assert run(resumable(change)) == 0
        assert "finished" in capsys.readouterr().out

    @pytest.mark.parametrize("synchronized", [True, False])
    def test_number_of_replicas_matters_unless_batch_norms_are_synchronized(
        self, resumable, capsys, synchronized
    ):
        def change(config):
            config["recipe"]["sync_batch_norm"] = synchronized
            config["execution"] = {"strategy": "mirrored", "replicas": 2}

        folder = resumable(change)
        if synchronized:
            assert run(folder, "sync_batch_norm=true") == 0
        else:
            assert "Different: replicas (2 there, 1 now)." in error_of(capsys, folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet21"], "must be one of resnet20"),
        (["kernel_sizes=2", "conv=multiception"], "`kernel_sizes` must list"),
        (["train_split=training"], "`split` must be one of train, test"),
        (["batch_size=101"], "`batch_size` must be at most"),
        (["model=mobilenetv2", "filters=8"], "`filters` must be 0 for mobilenetv2"),
    ],
)
def test_bad_recipes_leave_no_folder(tmp_path, capsys, overrides, message):
    assert message in error_of(capsys, tmp_path / "new", *overrides)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("thesis.txt", "years of work", "`workdir` must be a new or empty folder"),
        ("config.json", "{}", "config.json is not that of a training run"),
    ],
)
def test_folder_of_something_else_is_refused(tmp_path, capsys, file, content, message):
    (tmp_path / file).write_text(content)
    assert message in error_of(capsys, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ([], "--recipe and --workdir are needed"),
        (["--recipe", "resnet", "--workdir", "x"], "`recipe` is unknown"),
        (["--epochs", "3"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line(usage, message, capsys):
    assert message in usage_error(capsys, train.main, usage)


def test_list_shows_every_recipe(capsys):
    assert train.main(["--list"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    assert run(tmp_path / "run", "learning_rate=1e30") == 1
    message = capsys.readouterr().err
    assert "in epoch 1, step 2; 0 epochs are saved. Try a lower learning_rate" in message
    assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.slow
def test_ten_percent_of_cifar10(tmp_path, shared_tfds):
    workdir = tmp_path / "cifar10"
    overrides = ("train_split=train[:10%]", "test_split=test[:10%]")
    recipe = "resnet20_multiception_cifar10"
    assert run(workdir, *overrides, recipe=recipe, data_dir=shared_tfds) == 0
    metrics = read_json(workdir / "metrics.json")
    assert metrics["train"]["examples"] == 5000
    assert metrics["test"]["top1"] > 0.15
    losses = [row["loss"] for row in history(workdir)]
    assert losses[1] < losses[0] < math.log(10) + 0.2


@pytest.mark.slow
def test_digits_recipe_reaches_its_accuracy(tmp_path):
    workdir = tmp_path / "digits"
    assert train.main(["--recipe", "resnet20_multiception_digits", "--workdir", str(workdir)]) == 0
    assert read_json(workdir / "metrics.json")["test"]["top1"] > 0.97
