import csv
import functools
import json

import pytest
from commands import usage_error

import keras_multiception as km
from training import costs


@pytest.fixture(autouse=True, scope="module")
def _networks_once():
    """Build each network once for all tests."""
    create = functools.cache(km.create_model)
    with pytest.MonkeyPatch.context() as patch:
        sort = lambda values: dict(sorted(values.items()))  # noqa: E731
        patch.setattr(km, "create_model", lambda name, **values: create(name, **sort(values)))
        yield


def run(capsys, *argv):
    assert costs.main(list(argv)) == 0
    return capsys.readouterr().out


def test_one_model_as_a_table(capsys):
    out = run(capsys, "resnet20")
    assert out.startswith("resnet20, one image of 32x32x3\n")
    assert "stage1_block1_conv1/depthwise_0" in out
    assert out.count("189,434") == 2  # by layer and by stage
    assert costs._trainable_parameters("resnet20", 10, "multiception") == 189434


@pytest.mark.parametrize("layout", ["csv", "markdown"])
def test_one_model_as_csv_and_markdown(layout, capsys):
    arguments = ("resnet20", "--conv", "dsconv", "--classes", "100", "--input_size", "16")
    out = run(capsys, *arguments, "--format", layout)
    total = 166858 + 90 * 65
    if layout == "markdown":
        assert f" {total:,} |" in out
        return
    rows = list(csv.DictReader(out.splitlines()))
    assert rows[0]["output_shape"] == "16x16x16"
    assert sum(int(row["trainable_parameters"]) for row in rows) == total


def test_table5_holds_ours_beside_the_paper_and_says_where_they_differ(monkeypatch):
    ours = {
        (row.model, row.classes, conv): count - costs.UNUSED * (row.model == "shakeshake26")
        for row in costs.TABLE5
        for conv, count in zip(("standard", "multiception"), row.released, strict=True)
    }
    monkeypatch.setattr(costs, "_trainable_parameters", lambda *network: ours[network])
    table, note = costs.table5().split("\n\n")
    assert len(table.splitlines()) == 1 + 8
    assert table.splitlines()[1].split()[2:] == [
        *("0.2724M", "272,474", "272,474"),
        *("0.1899M", "189,434", "189,434"),
        *("-30.30%", "-30.48%"),
    ]
    assert "584,640 parameters" in note


def test_zoo_writes_tables_and_a_figure(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(km, "list_models", lambda: ["resnet20"])
    monkeypatch.setattr(costs.figures, "CONVOLUTIONS", {"dsconv": "DSConv", "standard": "standard"})
    assert str(tmp_path) in run(capsys, "--zoo", "--output", str(tmp_path / "results"))
    path = tmp_path / "results" / "zoo_costs.json"
    networks = json.loads(path.read_text())["networks"]
    assert [network["conv"] for network in networks] == ["dsconv", "standard"]
    for network in networks:
        *stages, total = [stage["multiply_adds"] for stage in network["stages"].values()]
        assert sum(stages) == total
    text = " ".join(path.with_suffix(".md").read_text(encoding="utf-8").split())
    assert "| `resnet20` | 32x32x3 | 166,858 | 272,474 |" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(path.with_suffix(".csv").open()))
    assert len(rows) == 2 * 6 * 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet20", "--zoo"], "one of a model, --table5 and --zoo must be given"),
        (["resnet21"], "`name` must be one of resnet20"),
        (["resnet20", "--conv", "dense"], "`conv` must be a callable or one of"),
        (["resnet20", "--input_size", "0"], "must be at least 1"),
    ],
)
def test_bad_usage_is_one_line(argv, message, capsys):
    line = usage_error(capsys, costs.main, argv)
    assert line.startswith("python -m training.costs: error: ")
    assert message in line
