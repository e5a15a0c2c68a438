import json
import math

import keras
import numpy as np
import PIL.Image
import pytest
from commands import usage_error

from training import data, evaluate, metrics


def classifier(activation="softmax", classes=10, shape=(32, 32, 3)):
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    outputs = keras.layers.Dense(classes, activation=activation)(x)
    return keras.Model(inputs, outputs)


def main(*arguments):
    return evaluate.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    return usage_error(capsys, evaluate.main, arguments)


@pytest.fixture
def saved(tmp_path):
    def save(model):
        model.save(tmp_path / "model.keras")
        return tmp_path / "model.keras"

    return save


class TestMeasure:
    names = ("a", "b", "c", "d", "e", "f", "g")

    def test_by_hand(self):
        probabilities = np.array(
            [
                [0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02],  # a: right
                [0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02],  # b: second
                [0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02],  # f: sixth
                [0.02, 0.3, 0.1, 0.1, 0.05, 0.03, 0.4],  # g: right
            ]
        )
        result = metrics.measure(np.log(probabilities), np.array([0, 1, 5, 6]), self.names)
        assert result["examples"] == 4
        assert result["loss"] == pytest.approx(-math.log(0.4 * 0.3 * 0.03 * 0.4) / 4)
        assert (result["top1"], result["top5"]) == (0.5, 0.75)
        gaps = (1 - 0.4, -0.4, -0.4, 1 - 0.4)  # right or not minus confidence, all in one bin
        assert result["expected_calibration_error"] == pytest.approx(sum(gaps) / 4)
        assert result["classes"][0] == {"name": "a", "examples": 1, "top1": 1.0}
        assert result["classes"][1] == {"name": "b", "examples": 1, "top1": 0.0}
        assert result["classes"][2] == {"name": "c", "examples": 0, "top1": None}

    def test_ties_go_to_the_first_class_as_argmax_does(self):
        even = np.zeros((7, 7))
        result = metrics.measure(even, np.arange(7), self.names)
        assert result["top1"] == pytest.approx(1 / 7)
        assert result["top5"] == pytest.approx(5 / 7)


def test_logits_and_softmax_give_the_same_result_in_batches_of_any_size():
    images, labels = data.load("digits", "test")
    logits, softmax = classifier(None), classifier("softmax")
    softmax.set_weights(logits.get_weights())
    layer = keras.Model(logits.input, keras.layers.Softmax()(logits.output))
    results = [
        metrics.evaluate_model(model, images, labels, dataset="digits", batch_size=size)
        for model, size in ((logits, 360), (softmax, 360), (layer, 7))
    ]
    for result in results[1:]:
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
        assert result["top1"] == results[0]["top1"]
        assert result["classes"] == results[0]["classes"]


def test_keras_file_on_any_split(saved, tmp_path, capsys):
    path = saved(classifier())
    result = tmp_path / "result.json"
    assert (
        main("--model", path, "--dataset", "digits", "--split", "train[:99]", "--json", result) == 0
    )
    output = capsys.readouterr().out
    written = json.loads(result.read_text())
    assert written["examples"] == sum(entry["examples"] for entry in written["classes"]) == 99
    assert written["split"] == "train[:99]"
    assert written["parameters"] == {"trainable": 314, "total": 314}
    assert f"| {written['top1']:.2%}" in output
    assert all(f"| {name} " in output for name in "0123456789")


@pytest.mark.parametrize("classes", [10, 30])
def test_files(saved, tmp_path, capsys, classes):
    arguments = ["--model", saved(classifier(classes=classes, shape=(8, 8, 3)))]
    for i in range(classes):  # a folder of images for each class
        for j in range(2):
            image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), "uint8")
            path = tmp_path / "data" / f"class {i:02}" / f"{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image).save(path)
    arguments += ["--dataset", "folder", "--data_dir", tmp_path / "data", "--image_size", 8]
    assert main(*arguments, "--output", tmp_path / "new" / "mine.v1") == 0
    folder = tmp_path / "new"
    assert (folder / "mine.v1.md").read_text() == capsys.readouterr().out
    assert json.loads((folder / "mine.v1.json").read_text())["examples"] == classes
    picture = np.asarray(PIL.Image.open(folder / "mine.v1.png").convert("HSV"))
    assert picture.shape[1] > 1000
    mistakes = picture[-len(picture) // 4 :]
    assert (mistakes[..., 1] > 100).mean() > 0.05  # colors of the images, of which most are wrong
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_saved_model_normalizes_by_itself(tmp_path, dtype):
    import tensorflow as tf

    import keras_multiception as km

    model = classifier()
    archive = keras.export.ExportArchive()
    archive.track(model)

    def serve(image):
        pixels = km.preprocessing.preprocess_input(tf.cast(image, "float32"), "digits")
        return {"probabilities": model(pixels)}

    signature = [tf.TensorSpec((None, 32, 32, 3), dtype, name="image")]
    archive.add_endpoint("serving_default", serve, signature)
    archive.write_out(str(tmp_path / "1"), verbose=False)
    images, labels = data.load("digits", "test")
    ours = metrics.evaluate_model(model, images, labels, dataset="digits")
    loaded = metrics.load_model(tmp_path / "1")
    theirs = metrics.evaluate_model(loaded, images, labels, dataset="digits")
    assert not metrics.count_parameters(loaded)
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    assert theirs["classes"] == ours["classes"]
    assert main("--model", tmp_path / "1", "--dataset", "digits", "--split", "test[:5]") == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ({"classes": 7}, "`model` must have 10 classes, those of the data set. Received: clas"),
            ({"shape": (28, 28, 1)}, "`model` must take images of shape (32, 32, 3), those of the"),
            ({"activation": "sigmoid"}, "`model` must end in logits or a softmax. Received: activ"),
        ],
    )
    def test_network_of_another_kind(self, saved, capsys, network, message):
        path = saved(classifier(**network))
        assert message in error_of(capsys, "--model", path, "--dataset", "digits")

    def test_saved_model_without_the_signature(self, capsys, tmp_path):
        classifier().export(str(tmp_path / "model"), verbose=False)
        message = error_of(capsys, "--model", tmp_path / "model", "--dataset", "digits")
        assert "`model` must have a signature serving_default" in message

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--model", "no.keras", "--dataset", "digits"], "`model` must be a .keras file"),
            (["--model", ".", "--dataset", "digits"], "`model` must be a .keras file"),
            (["--model", "."], "`dataset` must be given"),
            (
                ["--model", ".", "--dataset", "digits", "--output", "."],
                "must be files without suffix",
            ),
            (["--model", ".", "--dataset", "digits", "--batch_size", 0], "must be at least 1"),
            (["--run", "."], "`run` must be the folder of a finished"),
        ],
    )
    def test_arguments(self, capsys, tmp_path, monkeypatch, arguments, message):
        monkeypatch.chdir(tmp_path)
        assert message in error_of(capsys, *arguments)
