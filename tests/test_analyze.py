import json
import pathlib

import keras
import numpy as np
import pytest
from commands import usage_error
from study_folders import save_run

from keras_multiception.layers import MulticeptionConv2D
from training import analyze, data

PICTURES = ("kernels.png", "receptive_fields.png", "shares_by_channel.png", "shares_by_stage.png")


def classifier(conv):
    x = inputs = keras.Input((32, 32, 3))
    x = conv(4, (3, 5), 4, name="stage1_conv")(x)
    x = keras.layers.ReLU(name="stage1_relu")(x)
    x = conv(4, (3, 3), 2, name="stage2_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "run", classifier(MulticeptionConv2D))


def main(*arguments):
    return analyze.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    return usage_error(capsys, analyze.main, arguments)


def test_tables_numbers_and_pictures(run, tmp_path, capsys):
    output = tmp_path / "a" / "b"
    assert main("--run", run, "--split", "test[:100]", "--output", output) == 0
    assert sorted(path.name for path in output.iterdir()) == ["analysis.json", *PICTURES]
    for name in PICTURES:
        height, width, _ = keras.utils.img_to_array(keras.utils.load_img(output / name)).shape
        assert 100 < height < width

    report = json.loads((output / "analysis.json").read_text())
    assert (report["dataset"], report["split"], report["examples"]) == ("digits", "test[:100]", 100)
    assert report["measured_on"] == 64
    for stages in report["stages"].values():
        assert list(stages) == ["stage1", "stage2"]
        assert all(sum(sizes.values()) == pytest.approx(1) for sizes in stages.values())
    first = report["layers"][0]
    assert (first["layer"], first["kernel_sizes"]) == ("stage1_conv", ["3x3", "5x5"])
    assert np.shape(first["energy"]["channels"]) == (2, 3)
    fields = report["receptive_fields"]
    assert [field["layer"] for field in fields] == ["stage1_relu", "stage2_conv"]
    assert [field["theoretical"] for field in fields] == [[5, 5], [13, 13]]

    images, labels = data.load("digits", "test[:100]")
    model = keras.models.load_model(run / "model.keras")
    batches = data.evaluation_batches(images, labels, dataset="digits", batch_size=100)
    best = model.predict(batches, verbose=0).argmax(axis=1)
    assert report["top1"] == np.mean(best == labels)
    cases = [(x["size"], x["stage"], x["layers"], x["constant_layers"]) for x in report["left_out"]]
    assert cases == [
        ("3x3", "all", 2, 1),
        ("3x3", "stage1", 1, 0),
        ("3x3", "stage2", 1, 1),
        ("5x5", "all", 1, 0),
        ("5x5", "stage1", 1, 0),
    ]
    constant = report["left_out"][2]["top1"]
    assert constant in [np.mean(labels == label) for label in range(10)]

    out = capsys.readouterr().out
    cells = [line.split() for line in out.splitlines()]
    assert ["left", "out", "stage1", "stage2", "all"] in cells
    assert ["nothing", f"{report['top1']:.2%}"] in cells
    assert ["5x5", f"{report['left_out'][4]['top1']:.2%}", "-"] in [line[:3] for line in cells]
    assert f" {constant:.2%}*" in out
    assert str(output) in out


def test_one_layer(run, tmp_path, monkeypatch, capsys):
    asked = []

    def ask(model, batch, name):
        asked.append(name)
        raise ValueError("This is enough.")

    monkeypatch.setattr(analyze, "effective_receptive_field", ask)
    arguments = ("--split", "test[:10]", "--layer", "stage1_conv", "--output", tmp_path)
    assert "This is enough." in error_of(capsys, "--run", run, *arguments)
    assert asked == ["stage1_conv"]


class TestErrors:
    def test_runs(self, tmp_path, capsys):
        def conv(filters, kernel_sizes, strides, name):
            return keras.layers.Conv2D(filters, 3, strides, name=name)

        arguments = ["--output", tmp_path / "out", "--run"]
        message = error_of(capsys, *arguments, tmp_path)
        assert "`run` must be the folder of a finished run" in message
        assert not (tmp_path / "out").exists()
        message = error_of(capsys, *arguments, save_run(tmp_path / "run", classifier(conv)))
        assert "that has MulticeptionConv2D layers" in message

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("--split", "tset"), "`split` must be one of train, test"),
            (("--layer", "stage9"), "`layer` must be None or the name of a layer"),
        ],
    )
    def test_arguments(self, run, tmp_path, capsys, arguments, expected):
        assert expected in error_of(capsys, "--run", run, "--output", tmp_path, *arguments)
        assert not list(pathlib.Path(tmp_path).iterdir())

    def test_output_is_a_file(self, run, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert main("--run", run, "--output", tmp_path / "file") == 1
        assert "File exists" in capsys.readouterr().err
