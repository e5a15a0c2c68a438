"""Weights that come with the package: released from runs, loaded by name, accurate."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception.applications import pretrained

SHIPPED = sorted(pretrained.FOLDER.glob("*/*.npz"))
IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study's condition with two short runs, on digits."""
    train = pytest.importorskip("training.train")
    condition = tmp_path_factory.mktemp("study") / "resnet20_dsconv_digits"
    for seed in (0, 1):
        small = ["epochs=1", "train_split=train[:64]", "test_split=test[:50]", f"seed={seed}"]
        workdir = ["--workdir", str(condition / f"seed_{seed}")]
        recipe = ["--recipe", "resnet20_dsconv_digits", "--set", *small]
        assert train.main([*recipe, *workdir]) == 0
    return condition


@pytest.fixture(scope="module")
def output(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    assert release(run, folder, "--note", "Small scans.") == 0
    return folder


@pytest.fixture
def released(output, tmp_path, monkeypatch):
    """A copy of the released file, the only weights that there are."""
    shutil.copytree(output, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path / "digits" / "resnet20_dsconv.npz"


def release(run, folder, *arguments):
    from training import release_weights

    return release_weights.main(["--run", str(run), "--output", str(folder), *arguments])


def answers(model):
    return np.asarray(model(IMAGES, training=False))


def test_released_weights_are_those_of_the_best_run(run, released):
    from training.run_folder import RunFolder

    best = max(
        (run / "seed_0", run / "seed_1"), key=lambda p: RunFolder(p).metrics()["test"]["top1"]
    )
    trained = keras.models.load_model(best / "model.keras", compile=False)
    model = km.ResNet20(conv="dsconv", weights="digits")
    np.testing.assert_allclose(answers(model), answers(trained), atol=2e-3)
    assert released.stat().st_size < 0.7 * (best / "model.keras").stat().st_size
    record = pretrained.describe(released)
    assert record["examples"] == 50
    assert record["top1"] == pytest.approx(RunFolder(best).metrics()["test"]["top1"], abs=0.0005)


def test_evaluate_measures_them_by_name(released, tmp_path, capsys):
    from training import evaluate

    name, result = "digits/resnet20_dsconv", tmp_path / "result.json"
    arguments = ["--pretrained", name, "--split", "test[:50]", "--json", str(result)]
    assert evaluate.main(arguments) == 0
    measured = json.loads(result.read_text())
    assert measured["top1"] == pytest.approx(pretrained.describe(released)["top1"])
    with pytest.raises(SystemExit):
        evaluate.main(["--pretrained", "digits/resnet20_standard"])
    assert f"`pretrained` must be one of {name}. Received: " in capsys.readouterr().err


def change_recipe(run):
    config = json.loads((run / "config.json").read_text())
    config["recipe"].update(momentum=0.8, seed=0)
    (run / "config.json").write_text(json.dumps(config))


def change_accuracy(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["top1"] += 0.5
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    ("change", "beside", "message"),
    [
        (change_recipe, True, "`run` must have one recipe for each network"),
        (lambda run: None, True, "`run` must have one run for each seed of a recipe"),
        (change_accuracy, False, "`data_dir` must have the images that the run was measured on"),
        (lambda run: (run / "metrics.json").unlink(), False, "`run` must be the folder of a fin"),
    ],
)
def test_what_cannot_be_released(run, tmp_path, capsys, change, beside, message):
    """A changed copy of a run, beside the others or by itself."""
    other = tmp_path / "other"
    shutil.copytree(run / "seed_0", other)
    change(other)
    with pytest.raises(SystemExit):
        release(
            run if beside else other, tmp_path / "new", *(["--run", str(run), str(other)] * beside)
        )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("new/*/*"))


def test_weights_fit_other_sizes_tops_and_names(released):
    whole = km.ResNet20(conv="dsconv", weights="digits", classifier_activation=None, name="mine")
    body = km.ResNet20(conv="dsconv", weights="digits", include_top=False, pooling="avg")
    predictions = whole.get_layer("predictions")
    logits = np.asarray(predictions(body(IMAGES, training=False)))
    np.testing.assert_allclose(logits, answers(whole), atol=1e-4)
    assert km.ResNet20(conv="dsconv", weights="digits", input_shape=(48, 40, 3))


@pytest.mark.parametrize(
    "arguments",
    [{"conv": "multiception"}, {"conv": "dsconv", "classes": 7}, {"conv": "dsconv", "filters": 8}],
)
def test_other_networks_have_none(released, arguments):
    message = "`weights` may be 'digits' for the networks .*: resnet20_dsconv. Received: "
    with pytest.raises(ValueError, match=message):
        km.ResNet20(weights="digits", **arguments)


def test_unknown_names_and_damaged_files(released):
    (released.parent / "a_damaged_one.npz").write_bytes(b"PK")  # another network's
    with pytest.raises(ValueError, match=r"`weights` must be None or .* or 'digits'\. Received"):
        km.ResNet20(weights="imagenet")
    content = bytearray(released.read_bytes())
    content[1000] ^= 1
    released.write_bytes(content)
    damaged = r"Received: .*resnet20_dsconv\.npz, which has changed"
    with pytest.raises(ValueError, match=damaged):
        km.ResNet20(conv="dsconv", weights="digits")
    content[1000] ^= 1
    released.write_bytes(content)
    assert km.ResNet20(conv="dsconv", weights="digits")
    released.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=damaged):
        km.ResNet20(conv="dsconv", weights="digits")


def test_made_in_a_scope_or_within_a_layer(released):
    class Within(keras.layers.Layer):
        def build(self, input_shape):
            self.network = km.ResNet20(conv="dsconv", weights="digits")

        def call(self, x):
            return self.network(x)

    expected = answers(km.ResNet20(conv="dsconv", weights="digits"))
    with keras.name_scope("scope"):
        scoped = km.ResNet20(conv="dsconv", weights="digits")
    np.testing.assert_allclose(answers(scoped), expected, atol=1e-6)
    np.testing.assert_allclose(answers(Within()), expected, atol=1e-6)


def test_the_classifier_gives_probabilities_or_logits(released):
    for activation in ("relu", np.tanh):
        with pytest.raises(ValueError, match="`classifier_activation` must be None or"):
            km.ResNet20(conv="dsconv", weights="digits", classifier_activation=activation)
    with pytest.raises(ValueError, match=r"`weights` must be None or the path of a \.weights\.h5"):
        km.ResNet20(conv="dsconv", weights=released)


def test_unfinished_seeds_are_named(run, tmp_path, capsys):
    study = shutil.copytree(run, tmp_path / "study")
    (study / "seed_1" / "metrics.json").unlink()
    assert release(study, tmp_path / "new") == 0
    assert f"{study / 'seed_1'}: not finished, and left out" in capsys.readouterr().err


@pytest.mark.slow
def test_they_are_served_without_a_run(released, tmp_path, capsys):
    tf = pytest.importorskip("tensorflow")
    from serving import export

    base = tmp_path / "models"
    name, paths = "digits/resnet20_dsconv", ["--base_path", str(base)]
    assert export.main(["--pretrained", name, *paths]) == 0
    serve = tf.saved_model.load(str(base / "1")).signatures["serving_default"]
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    model = km.ResNet20(conv="dsconv", weights="digits")
    expected = model(km.preprocessing.preprocess_input(pixels, "digits"), training=False)
    np.testing.assert_allclose(
        serve(image=tf.constant(pixels))["probabilities"], np.asarray(expected), atol=1e-5
    )
    card = (base / "1" / "assets.extra" / "model_card.md").read_text()
    assert "| these weights | seed " in card
    assert export.main(["--pretrained", "digits/resnet20_standard", *paths]) == 2
    assert f"`pretrained` must be one of {name}. Received: " in capsys.readouterr().err


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_weights_classify_real_images(file, shared_tfds):
    from training import data, metrics

    name, _, conv = file.stem.partition("_")
    model = km.create_model(name, conv=conv, weights=file.parent.name)
    images, labels = data.load(file.parent.name, "test[:1000]", shared_tfds)
    top1 = metrics.evaluate_model(model, images, labels, dataset=file.parent.name)["top1"]
    assert top1 > pretrained.describe(file)["top1"] - 0.03
    assert file.with_suffix(".md").is_file()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_weights_name_what_they_see(file):
    name, _, conv = file.stem.partition("_")
    model = km.create_model(name, conv=conv, weights=file.parent.name)
    [best] = km.preprocessing.decode_predictions(answers(model)[:1], top=3)
    assert len(best) == 3
    assert best[0][1] in km.preprocessing.DATASETS[file.parent.name].class_names
