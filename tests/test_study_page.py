import csv
import re

import pytest
from matplotlib.image import imread
from study_folders import write_runs

from training.study_page import PAGE, collect, differences
from training.study_runs import plan_conditions, plan_runs, recipes_of_tables

ERRORS = {
    "standard": [7.0, 7.2, 7.4],
    "dsconv": [8.4, 8.7, 8.6],
    "mixconv": [8.5, 8.1, 8.6],
    "multiception": [7.5, 7.6, 7.8],
}
MULTICEPTION = ["resnet20_multiception_cifar10"]


def study(tmp_path, names, error_of, seeds=2, **plan):
    runs = plan_runs(plan_conditions(names, **plan), seeds, tmp_path)
    write_runs(runs, error_of)
    return runs


@pytest.fixture
def table_runs(tmp_path):
    """Three seeds of Table I and V's ResNet-20, one of which is not there yet."""

    def error_of(recipe, seed):
        return None if (recipe.conv, seed) == ("mixconv", 2) else ERRORS[recipe.conv][seed]

    return study(tmp_path, recipes_of_tables([1, 5], ["resnet20"]), error_of, 3)


def page_of(runs):
    """Return the page of a study, its cells without padding."""
    return re.sub(" +", " ", PAGE.to_markdown(collect(runs), "figure.png"))


def rows_of(page):
    """Return the cells of the table of conditions."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    titles, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_every_condition_has_a_row_beside_the_papers_figure(table_runs):
    page = page_of(table_runs)
    rows = rows_of(page)
    assert {row["network and data set"] for row in rows} == {"ResNet-20 on CIFAR-10"}
    assert [(row["convolution"], row["n"], row["error (%)"], row["paper (%)"]) for row in rows] == [
        ("standard", "3 of 3", "7.20 ± 0.20", "7.17"),
        ("DSConv", "3 of 3", "8.57 ± 0.15", "8.50"),
        ("MixConv", "2 of 3", "8.30 ± 0.28", "8.47"),
        ("Multiception", "3 of 3", "7.63 ± 0.15", "7.53"),
    ]
    assert (rows[1]["difference"], rows[3]["difference"]) == ("+0.93", "reference")
    assert "1 of 12 runs have no result yet: resnet20_mixconv_cifar10, seed 2" in page
    assert "Not the paper's recipe" not in page
    assert "paired t-test, two-sided" in page


def test_other_recipes_than_the_papers_are_called_so_once(tmp_path):
    page = page_of(
        study(tmp_path, MULTICEPTION, lambda *_: 30.0, 1, quick=True, grid=["l2=1e-4", "l2=5e-4"])
    )
    assert page.count("**Not the paper's recipe**") == 1
    assert page.count("epochs 5 (paper: 300)") == 1
    assert "l2 0.0001 (paper: 0.0002), l2 0.0005 (paper: 0.0002)" in page
    first, second = rows_of(page)
    assert first["error (%)"] == "30.00"  # no deviation of one run
    assert (second["difference"], second["95 % CI"], second["p"]) == ("+0.00", "-", "-")


def test_a_grid_has_a_column_for_what_varies(tmp_path):
    grid = ["learning_rate=0.1", "learning_rate=0.05", "kernel_sizes=3", "kernel_sizes=3-5"]
    error_of = lambda recipe, seed: 8 + 4 * recipe.learning_rate * (seed + 1)  # noqa: E731
    rows = rows_of(page_of(study(tmp_path, MULTICEPTION, error_of, grid=grid)))
    assert [(row["kernel_sizes"], row["learning_rate"], row["difference"]) for row in rows] == [
        ("3", "0.1", "reference"),
        ("3-5", "0.1", "+0.00"),
        ("3", "0.05", "-0.30"),
        ("3-5", "0.05", "-0.30"),
    ]


@pytest.mark.parametrize(
    "grid",
    [("dataset=cifar10", "dataset=cifar100"), ("test_split=test", "test_split=train[90%:]")],
)
def test_errors_on_other_images_are_not_compared(grid, tmp_path):
    runs = study(tmp_path, MULTICEPTION, lambda recipe, seed: 8 + seed, grid=grid)
    assert [comparison for _, comparison in differences(collect(runs)["conditions"])] == [None] * 2


@pytest.mark.parametrize("seeds", [0, 3])
def test_files_are_made_again_from_the_record(seeds, table_runs, tmp_path):
    runs = table_runs if seeds else plan_runs(plan_conditions(MULTICEPTION), 2, tmp_path / "none")
    output = tmp_path / "results" / "study.v1"
    PAGE.write(collect(runs, command="the command", note="A note."), output)
    files = {path.name: path for path in output.parent.iterdir()}
    assert sorted(files) == [f"study.v1.{suffix}" for suffix in ("csv", "json", "md", "png")]
    page = files["study.v1.md"].read_text()
    assert "`the command`" in page
    assert "A note." in page
    with files["study.v1.csv"].open() as file:
        errors = [row["value"] for row in csv.DictReader(file) if row["metric"] == "error"]
    assert errors[:seeds] == ["7", "7.2", "7.4"][:seeds]
    height, width, _ = imread(files["study.v1.png"]).shape
    assert (height, width) > (400, 800)
    files["study.v1.md"].unlink()
    PAGE.render(files["study.v1.json"])
    assert files["study.v1.md"].read_text() == page
