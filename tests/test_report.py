import html.parser
import io
import json
import pathlib
import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_multiception.atomic import replacing, write_json
from keras_multiception.preprocessing import Dataset
from training import data, metrics, report
from training.reports import figures as report_figures
from training.reports.measures import measure_predictions
from training.reports.page import write_report
from training.reports.runs import measure_runs, read_runs
from training.run_folder import RunFolder

NASTY = '<img src="x">|*a*'


class Page(html.parser.HTMLParser):
    """Collects what a page shows and what it asks for."""

    def __init__(self, text):
        super().__init__()
        self.images, self.urls, self.headers, self.headings, self.rows = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [attrs[key] for key in ("src", "srcset", "href") if key in attrs]
        self.rows += tag == "tr"
        if tag == "img":
            self.images.append(attrs)
        if tag == "th":
            self.headers.append(attrs)
        if tag in ("h1", "h2"):
            self.headings.append(tag)


def save_run(path, *, facts, recipe, split_data, filters=2):
    keras.utils.set_random_seed(filters)
    inputs = keras.Input(facts["image_shape"])
    x = keras.layers.Conv2D(filters, 3, 4, activation="relu")(inputs)
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(len(facts["class_names"]), activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    folder = RunFolder(path)
    folder.begin(
        {
            "name": "tiny",
            "recipe": recipe | {"filters": filters, "kernel_sizes": [3, 5], "flip": True},
            "data": facts,
            "versions": {"keras": keras.__version__},
            "hardware": {"backend": keras.backend.backend(), "gpus": []},
        }
    )
    model.save(folder.model)
    (folder.path / "history.csv").write_text(
        "epoch,loss,top1,val_loss,val_top1\n1,2.5,0.1,2.4,0.2\n2,2.2,0.2,2.1,0.3\n"
    )
    dataset = Dataset.from_dict(facts)
    folder.finish(
        {
            "test": metrics.evaluate_model(model, *split_data, dataset=dataset),
            "epochs": 2,
            "wall_seconds": 12.5,
            "images_per_second": 321.0,
        }
    )
    return path


def digits_run(path, split="test[:100]", filters=2):
    known = data.facts("digits")
    facts = {"dataset": "digits", **vars(known)}
    recipe = {"dataset": "digits", "test_split": split}
    split_data = data.load("digits", split)
    return save_run(path, facts=facts, recipe=recipe, split_data=split_data, filters=filters)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [digits_run(folder / "a"), digits_run(folder / "b", filters=3)]


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "new" / "report"
    assert main(*runs, "--output", output) == 0
    return output


def main(*arguments):
    return report.main([str(argument) for argument in arguments])


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(*arguments)
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.count("\n") == 1
    return message


class TestPages:
    def test_html_needs_no_other_file(self, written):
        page = Page((written / "report.html").read_text())
        assert all(url.startswith(("data:image/", "#")) for url in page.urls)
        assert "@import" not in (written / "report.html").read_text()
        assert {url[1:] for url in page.urls if url[0] == "#"} <= set(
            re.findall(r'id="([^"]+)"', (written / "report.html").read_text())
        )

    def test_html_is_accessible(self, written):
        page = Page((written / "report.html").read_text())
        assert len(page.images) > 10
        assert all(image["alt"] for image in page.images)
        assert all(header["scope"] in ("col", "row") for header in page.headers)
        assert page.headings[0] == "h1"
        assert page.headings.count("h1") == 1

    def test_comparison_comes_first(self, written):
        for name in ("report.html", "report.md"):
            text = (written / name).read_text()
            places = [text.index(word) for word in ("Comparison", "Curves", "Confusion", "Costs")]
            assert places == sorted(places)

    def test_markdown_shows_its_pictures(self, written):
        text = (written / "report.md").read_text()
        files = re.findall(r"!\[[^\n]+\]\(([^)]+)\)", text)
        assert len(files) == 7
        names = sorted(files)
        assert names == sorted(f"figures/{path.name}" for path in (written / "figures").iterdir())
        for name in names:
            assert min(Image.open(written / name).size) > 200

    def test_markdown_tables_are_rectangular(self, written):
        tables = re.findall(r"(?:^\|.*\|\n)+", (written / "report.md").read_text(), re.MULTILINE)
        assert len(tables) >= 11
        for table in tables:
            lines = table.splitlines()
            assert set(lines[1]) <= set("|:- ")
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1

    def test_numbers_equal_those_of_the_evaluation(self, written, runs):
        result = json.loads((written / "report.json").read_text())
        for run, path in zip(result["runs"], runs, strict=True):
            expected = RunFolder(path).metrics()["test"]
            assert run["examples"] == 100
            assert run["top1"]["share"] == pytest.approx(expected["top1"])
            assert run["top5"]["share"] == pytest.approx(expected["top5"])
            loss = run["calibration"]["negative_log_likelihood"]
            assert loss == pytest.approx(expected["loss"], rel=1e-4)
            text = (written / "report.html").read_text()
            assert f"{100 * expected['top1']:.2f} %" in text
        assert len(result["comparisons"]) == 1
        model = keras.models.load_model(runs[0] / "model.keras")
        assert result["runs"][0]["costs"]["parameters"] == model.count_params()

    def test_mistakes_are_those_of_the_network(self, written, runs):
        images, labels = data.load("digits", "test[:100]")
        model = keras.models.load_model(runs[0] / "model.keras")
        predictions = np.exp(metrics.log_probabilities(model, images, dataset="digits"))
        run = json.loads((written / "report.json").read_text())["runs"][0]
        surest = run["mistakes"][0]
        wrong = predictions.argmax(1) != labels
        assert surest["confidence"] == pytest.approx(predictions[wrong].max(), rel=1e-4)
        assert surest["true"] == str(labels[surest["index"]])
        assert surest["predicted"] == str(predictions[surest["index"]].argmax())

    def test_one_run_replaces_the_older_report(self, runs, tmp_path):
        output = tmp_path / "report"
        output.mkdir()
        (output / "report.html").write_text("old")
        assert main(runs[0], "--output", output) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]
        assert {path.name for path in output.iterdir()} == report.FILES
        text = (output / "report.html").read_text()
        assert "Comparison" not in text
        assert text != "old"

    @pytest.mark.slow
    def test_same_runs_give_the_same_files(self, written, runs, tmp_path):
        assert main(*runs, "--output", tmp_path / "again") == 0
        again = (tmp_path / "again" / "report.html").read_text()
        assert again == (written / "report.html").read_text()


def test_a_failed_report_leaves_the_older_one(runs, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("old")
    monkeypatch.setattr(report_figures, "draw_reliability", fail)
    assert "No space left" in error_of(capsys, runs[0], "--output", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_folder_of_ones_own_images(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = ("cat|s", "d<o>g")
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), "uint8"))
            image.save(tmp_path / "images" / name / f"{i}.png")
    known = data.facts("folder", tmp_path / "images", 16)
    run = save_run(
        tmp_path / "run",
        facts={"dataset": "folder", **vars(known)},
        recipe={"dataset": "folder", "test_split": "test", "image_size": 16},
        split_data=data.load("folder", "test", tmp_path / "images", 16),
    )
    arguments = (run, "--output", tmp_path / "report", "--data_dir")
    assert main(*arguments, tmp_path / "images") == 0
    assert "d&lt;o&gt;g" in (tmp_path / "report" / "report.html").read_text()
    assert r"d\<o\>g" in (tmp_path / "report" / "report.md").read_text()

    assert "`data_dir` must be a folder" in error_of(capsys, *arguments, tmp_path / "no")
    folder = tmp_path / "images" / names[0]
    (folder / "-.png").write_text("no image")
    assert "-.png" in error_of(capsys, *arguments, tmp_path / "images")
    (folder / "-.png").unlink()
    for i in range(5, 10):
        (folder / f"{i}.png").unlink()
    message = error_of(capsys, *arguments, tmp_path / "images")
    assert "`data_dir` must hold the images that run was measured on" in message


def test_names_are_no_mathematics():
    names = ["a$_$b", "c"]
    history = {key: [1.0, 0.1] for key in ("epoch", "loss", "val_loss", "top1", "val_top1")}
    for figure in (
        report_figures.draw_curves(dict.fromkeys(names, history)),
        report_figures.draw_confusion(np.eye(2), names),
        report_figures.draw_mistakes([np.zeros((8, 8, 3), "uint8")], names[:1]),
    ):
        figure.savefig(io.BytesIO(), format="svg")


@pytest.mark.parametrize(
    "classes",
    [2, 100, pytest.param(20, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.slow)],
)
def test_any_number_of_classes(tmp_path, classes):
    rng = np.random.default_rng(0)
    names = [f"n{i}_{NASTY}" for i in range(classes)]
    labels = rng.integers(0, classes, 3 * classes)
    logits = rng.normal(size=(len(labels), classes)) + 3 * np.eye(classes)[labels]
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    measured = measure_predictions(log, labels, names)
    counts = {"trainable_parameters": 1, "parameters": 2, "multiply_adds": 3, "peak_memory": 4}
    run = {
        "name": NASTY,
        "recipe_name": "tiny",
        "recipe": {"dataset": "digits", "test_split": "test"},
        "versions": {},
        "hardware": {},
        "costs": {
            **counts,
            "unknown_layers": ["odd"],
            "stages": {"stage1": counts},
            "training_images_per_second": 1.0,
            "training_seconds": 2.0,
            "epochs": 1,
        },
        **measured,
    }
    facts = {"dataset": "many", "image_shape": [8, 8, 3], "class_names": names}
    history = {"epoch": [1], "loss": [1], "val_loss": [2], "top1": [0.5], "val_top1": [0.25]}
    images = [np.zeros((8, 8, 3), "uint8") for _ in measured["mistakes"]]
    content = {"data": facts, "runs": [run], "comparisons": []}
    write_report(tmp_path / "report", content, {NASTY: history}, [images])

    text = (tmp_path / "report" / "report.html").read_text()
    assert "<img src=" + '"x"' not in text
    page = Page(text)
    assert page.rows >= classes
    figures = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert ("run1-confusion.png" in figures) == (classes <= 20)
    assert (tmp_path / "report" / "report.html").stat().st_size < 3_000_000
    assert (tmp_path / "report" / "report.md").stat().st_size < 40_000


class TestErrors:
    def test_no_run(self, tmp_path, capsys):
        message = error_of(capsys, tmp_path / "no", "--output", tmp_path / "out")
        assert "`run` must be the folder of a training run. Received: run=" in message
        assert not list(tmp_path.iterdir())

    def test_unfinished_run(self, runs, tmp_path, capsys):
        config = json.loads((runs[0] / "config.json").read_text())
        RunFolder(tmp_path / "run").begin(config)
        message = error_of(capsys, tmp_path / "run", "--output", tmp_path / "out")
        assert "`run` must be finished" in message

    @pytest.mark.parametrize("name", ["metrics.json", "history.csv"])
    def test_damaged_run(self, tmp_path, capsys, name):
        run = digits_run(tmp_path / "run", "test[:10]")
        with replacing(run / name) as file:
            file.write_text("{")
        assert "`run` must be whole" in error_of(capsys, run, "--output", tmp_path / "out")

    def test_same_run_twice(self, runs, tmp_path, capsys):
        message = error_of(capsys, runs[0], runs[0], "--output", tmp_path / "out")
        assert "`run` must name each folder once" in message

    def test_other_data_set(self, runs, tmp_path, capsys):
        other = digits_run(tmp_path / "other", "test[:10]")
        config = json.loads((other / "config.json").read_text())
        config["data"]["class_names"][0] = "zero"
        write_json(other / "config.json", config)
        message = error_of(capsys, runs[0], other, "--output", tmp_path / "out")
        assert "`run` must name runs of the same data set" in message
        assert "another class_names" in message

    def test_other_images(self, tmp_path, capsys):
        run = digits_run(tmp_path / "run", "test[:10]")
        result = RunFolder(run).metrics()
        result["test"]["loss"] *= 1.2
        RunFolder(run).finish(result)
        message = error_of(capsys, run, "--output", tmp_path / "out")
        assert "`data_dir` must hold the images that run was measured on" in message

    def test_output_with_other_files(self, runs, capsys):
        message = error_of(capsys, runs[0], "--output", runs[0])
        assert "`output` must be a new or empty folder or that of a report" in message
        assert (runs[0] / "model.keras").is_file()

    def test_output_is_a_file(self, runs, tmp_path, capsys):
        pathlib.Path(tmp_path / "file").write_text("")
        message = error_of(capsys, runs[0], "--output", tmp_path / "file")
        assert "`output` must be a folder" in message


@pytest.mark.parametrize("output", [".", ".."])
def test_the_current_folder_is_not_replaced(runs, tmp_path, capsys, monkeypatch, output):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    message = error_of(capsys, runs[0], "--output", output)
    assert "`output` must be a folder of its own, not the current one" in message


def test_different_splits_are_not_paired(runs, tmp_path):
    other = digits_run(tmp_path / "a", "test[:20]")
    result, _ = measure_runs(read_runs([runs[0], other]))
    assert result["comparisons"] == []
    assert [run["name"] for run in result["runs"]] == [str(runs[0]), str(other)]
    assert [run["examples"] for run in result["runs"]] == [100, 20]
