import csv

import pytest

import keras_multiception as km
from training import costs, costs_table5


def run(capsys, *argv):
    assert costs.main(list(argv)) == 0
    return capsys.readouterr().out


def test_one_model_as_a_table(capsys):
    out = run(capsys, "resnet20")
    assert out.startswith("resnet20, one image of 32x32x3\n")
    assert "stage1_block1_conv1/depthwise_0" in out
    assert out.count("189,434") == 2  # by layer and by stage


def test_one_model_as_csv_and_markdown(capsys):
    arguments = ("resnet20", "--conv", "dsconv", "--classes", "100", "--input_size", "16")
    out = run(capsys, *arguments, "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert rows[0]["output_shape"] == "16x16x16"
    assert sum(int(row["trainable_parameters"]) for row in rows) == 166858 + 90 * 65
    assert f"| {166858 + 90 * 65:,} |" in run(capsys, *arguments, "--format", "markdown")


def test_table5_holds_ours_beside_the_paper_and_says_where_they_differ(monkeypatch):
    ours = {
        (row.model, row.classes, conv): count
        for row in costs_table5.TABLE5
        for conv, count in zip(("standard", "multiception"), row.released, strict=True)
    }
    monkeypatch.setattr(costs_table5, "_trainable_parameters", lambda *network: ours[network])
    table, notes = costs_table5.table5().split("\n\n")
    assert len(table.splitlines()) == 1 + 8
    first = table.splitlines()[1].split()
    assert first[2:] == [
        *("0.2724M", "272,474", "272,474"),
        *("0.1899M", "189,434", "189,434"),
        *("-30.30%", "-30.48%"),
    ]
    printed, unused = notes.splitlines()[:3], notes.splitlines()[3]
    assert printed[0].startswith("- resnet20 on cifar10, multiception: the paper prints 0.1899M")
    assert printed[1].startswith("- seresnet56 on cifar10, multiception: the paper prints 0.5886M")
    assert "prints 17.59M" in printed[2]
    assert "584,640 of every count are parameters of shortcuts" in unused
    assert len(notes.splitlines()) == 4


def test_table5_counts_the_networks_themselves():
    assert costs_table5._trainable_parameters("resnet20", 10, "multiception") == 189434


@pytest.fixture
def small_zoo(monkeypatch):
    monkeypatch.setattr(km, "list_models", lambda: ["resnet20", "mobilenetv2"])


def test_zoo_writes_tables_and_a_figure(small_zoo, capsys, tmp_path):
    out = run(capsys, "--zoo", "--output", str(tmp_path / "results"))
    assert str(tmp_path / "results") in out

    with open(tmp_path / "results" / "zoo_costs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    networks = {(row["model"], row["conv"]) for row in rows}
    assert networks == {
        *(("resnet20", conv) for conv in costs.CONVOLUTIONS),
        *(("mobilenetv2", conv) for conv in ("dsconv", "multiception")),
    }
    for network in networks:
        own = [row for row in rows if (row["model"], row["conv"]) == network]
        *stages, total = [int(row["multiply_adds"]) for row in own]
        assert own[-1]["stage"] == "total"
        assert sum(stages) == total

    tables = (tmp_path / "results" / "zoo_costs.md").read_text(encoding="utf-8")
    assert "| `resnet20` | 32x32x3 | 272,474 | 166,858 | 269,848 | 172,010 | 189,434 |" in tables
    assert "| `mobilenetv2` | 96x96x3 | - | 2,236,330 | - | - | 2,252,634 |" in tables
    assert (tmp_path / "results" / "zoo_costs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "one of a model, --table5 and --zoo must be given"),
        (["resnet20", "--zoo"], "one of a model, --table5 and --zoo must be given"),
        (["resnet21"], "`name` must be one of resnet20"),
        (["resnet20", "--conv", "dense"], "`conv` must be a callable or one of"),
        (["resnet20", "--classes", "0"], "`classes` must be a positive integer"),
        (["resnet20", "--input_size", "0"], "`input_size` must be at least 1"),
        (["resnet20", "--format", "html"], "invalid choice: 'html'"),
    ],
)
def test_bad_usage_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        costs.main(argv)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m training.costs: error: ")
    assert message in line
