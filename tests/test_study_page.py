import csv
import re
import warnings

import pytest
from matplotlib.image import imread
from study_folders import write_runs

from training.reporting.tables import to_csv
from training.studies.page import PAGE
from training.studies.results import collect
from training.studies.runs import plan_conditions, plan_runs, recipes_of_tables
from training.study import summarize_runs

ERRORS = {
    "standard": [7.0, 7.2, 7.4],
    "dsconv": [8.4, 8.7, 8.6],
    "mixconv": [8.5, 8.1, 8.6],
    "multiception": [7.5, 7.6, 7.8],
}


@pytest.fixture
def table_runs(tmp_path):
    """Three seeds of Table I and V's ResNet-20, one of which is not there yet."""
    names = recipes_of_tables([1, 5], ["resnet20"])
    runs = plan_runs(plan_conditions(names), 3, tmp_path)
    missing = ("mixconv", 2)
    write_runs(
        runs,
        lambda recipe, seed: None if (recipe.conv, seed) == missing else ERRORS[recipe.conv][seed],
    )
    return runs


def page_of(runs):
    """Return the page of a study, its cells without padding."""
    return re.sub(" +", " ", PAGE.to_markdown(collect(runs), "curves.png", "sizes.png"))


def study(tmp_path, names, error_of, seeds=1, **plan):
    runs = plan_runs(plan_conditions(names, **plan), seeds, tmp_path)
    write_runs(runs, error_of)
    return runs


def rows_of(page, title):
    """Return the cells of the Markdown table whose first heading is `title`."""
    for part in page.split("\n\n"):
        if re.match(rf"\| {title} +\|", part):
            rows = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines()]
            return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    raise AssertionError(f"no table of {title}")


def test_conditions_have_mean_deviation_and_the_papers_figure(table_runs):
    results = collect(table_runs)
    assert [c["recipe"]["conv"] for c in results["conditions"]] == list(ERRORS)
    standard, _, mixconv, multiception = results["conditions"]
    assert (standard["n"], standard["mean"]) == (3, pytest.approx(7.2))
    assert standard["sd"] == pytest.approx(0.2)
    assert multiception["paper"] == {"table": 1, "error": 7.53, "differing": {}}
    assert (mixconv["n"], mixconv["planned"]) == (2, 3)
    assert results["missing"] == ["resnet20_mixconv_cifar10, seed 2"]


def test_every_two_types_are_compared_over_their_common_seeds(table_runs):
    found = {
        (each["first"].split("_")[1], each["second"].split("_")[1]): each
        for each in collect(table_runs)["comparisons"]
    }
    assert len(found) == 6
    ours = found["multiception", "dsconv"]
    assert ours["difference"] == pytest.approx((-0.9 - 1.1 - 0.8) / 3)
    assert (ours["n"], ours["paper"]) == (3, pytest.approx(-0.97))
    assert ours["low"] < ours["difference"] < ours["high"] < 0 < ours["p_value"] < 0.05
    assert found["multiception", "mixconv"]["n"] == 2


def test_table_is_laid_out_as_the_papers(table_runs):
    page = page_of(table_runs)
    [row] = rows_of(page, "network and data set")
    assert row == {
        "network and data set": "ResNet-20 on CIFAR-10",
        "standard": "7.20 ± 0.20 (7.17)",
        "DSConv": "8.57 ± 0.15 (8.50)",
        "MixConv": "8.30 ± 0.28 (8.47)",
        "Multiception": "7.63 ± 0.15 (7.53)",
    }
    assert "1 of 12 runs have no result yet: resnet20_mixconv_cifar10, seed 2" in page
    assert "Not the paper's recipe" not in page
    assert "paired t-test, two-sided" in page
    assert "![Learning curves](curves.png)" in page


def test_short_schedules_are_called_so(tmp_path):
    names = recipes_of_tables([1], ["resnet20"])
    runs = study(tmp_path, names, lambda recipe, seed: 30.0, 1, quick=True)
    page = page_of(runs)
    assert "**Not the paper's recipe**" in page
    assert "epochs 5 (paper: 300)" in page
    assert "| Multiception minus DSConv | 1 | +0.00 | not available |" in page
    assert "30.00 (8.50)" in page  # no deviation of one run


def test_a_grid_is_told_from_the_papers_recipe_once(tmp_path):
    grid = ["l2=1e-4", "l2=5e-4", "pad_and_crop=4", "pad_and_crop=2"]
    runs = study(tmp_path, ["resnet20_dsconv_cifar10"], lambda recipe, seed: 30.0, 1, grid=grid)
    page = page_of(runs)
    assert page.count("**Not the paper's recipe**") == 1
    assert "l2 0.0001 or 0.0005 (paper: 0.0002), pad_and_crop 4 or 2 (paper: 4)." in page
    assert "| l2 0.0005 minus l2 0.0001 | 1 | +0.00 |" in page


def test_the_paper_is_named_where_there_is_a_figure_of_it(tmp_path):
    for dataset, is_there in {"cifar10": True, "digits": False}.items():
        runs = study(tmp_path, [f"resnet20_dsconv_{dataset}"], lambda recipe, seed: 30.0, 1)
        page = page_of(runs)
        assert "Mean ± standard deviation over the seeds, in percent." in page
        assert ("In brackets what the paper reports" in page) == is_there


def test_kernel_sizes_are_laid_out_as_table_four(tmp_path):
    errors = {"cifar10": 6.0, "stl10": 17.0}
    error_of = lambda recipe, seed: errors.get(recipe.dataset, 50.0)  # noqa: E731
    runs = study(tmp_path, recipes_of_tables([4]), error_of, 2)
    rows = rows_of(page_of(runs), "network")
    assert [row["kernel sizes"] for row in rows] == [
        "3-5, 3-5, 3-3",
        "3-7, 3-5, 3-3",
        "5-7, 3-5, 3-3",
        "the paper's kernel sizes",
    ]
    assert rows[0]["CIFAR-10"] == "6.00 ± 0.00 (6.18)"
    assert rows[3]["STL-10"] == "17.00 ± 0.00 (16.81)"


def test_a_grid_of_two_keys_says_what_stays_the_same(tmp_path):
    grid = ["learning_rate=0.1", "learning_rate=0.05", "kernel_sizes=3", "kernel_sizes=3-5"]
    error_of = lambda recipe, seed: 8 + recipe.learning_rate * (seed + 1)  # noqa: E731
    runs = study(tmp_path, ["resnet20_multiception_cifar10"], error_of, 2, grid=grid)
    comparison = collect(runs)["comparisons"][1]
    assert (comparison["key"], comparison["paper"]) == ("learning_rate", None)
    assert comparison["difference"] == pytest.approx(-0.075)
    page = page_of(runs)
    place = "| ResNet-20 on CIFAR-10; Multiception; "
    rows = [line.split(" |")[0:2] for line in page.splitlines() if line.startswith(place)]
    assert [(where.removeprefix(place), what.strip()) for where, what in rows] == [
        ("learning_rate 0.1", "3-5 minus 3"),
        ("3", "learning_rate 0.05 minus learning_rate 0.1"),
        ("3-5", "learning_rate 0.05 minus learning_rate 0.1"),
        ("learning_rate 0.05", "3-5 minus 3"),
    ]


@pytest.mark.parametrize("grid", ["dataset=cifar100", "test_split=train[90%:]"])
def test_errors_on_other_images_are_not_compared(grid, tmp_path):
    key = grid.partition("=")[0]
    same = {"dataset": "dataset=cifar10", "test_split": "test_split=test"}[key]
    error_of, names = (lambda recipe, seed: 8 + seed), ["resnet20_dsconv_cifar10"]
    runs = study(tmp_path, names, error_of, 2, grid=[same, grid])
    assert len(collect(runs)["conditions"]) == 2
    assert collect(runs)["comparisons"] == []


def test_csv_has_a_line_for_each_run_and_the_papers_figure(table_runs):
    rows = list(csv.DictReader(to_csv(PAGE.to_rows(collect(table_runs))).splitlines()))
    own = [row for row in rows if row["conv"] == "standard"]
    errors = [(row["seed"], row["value"]) for row in own if row["metric"] == "error"]
    assert errors == [("0", "7"), ("1", "7.2"), ("2", "7.4")]
    papers = {row["conv"]: row["value"] for row in rows if row["metric"] == "error of the paper"}
    assert papers["multiception"] == "7.53"


def test_pages_are_made_again_from_the_result_file(table_runs, tmp_path):
    output = tmp_path / "results" / "study.v1"
    summarize_runs(table_runs, tmp_path, output, command="the command", note="JPEG copies")
    files = {path.name: path for path in output.parent.iterdir()}
    assert sorted(files) == [
        *(f"study.v1.{suffix}" for suffix in ("csv", "json", "md", "png")),
        "study.v1_sizes.png",
    ]
    page = files["study.v1.md"].read_text()
    assert "`the command`" in page
    assert "JPEG copies" in page
    height, width, _ = imread(files["study.v1.png"]).shape
    assert (height, width) > (400, 800)
    files["study.v1.md"].unlink()
    PAGE.render(files["study.v1.json"])
    assert files["study.v1.md"].read_text() == page


def test_study_without_any_result_has_its_tables(tmp_path):
    runs = plan_runs(plan_conditions(recipes_of_tables([1], ["resnet20"])), 2, tmp_path)
    summarize_runs(runs, tmp_path, tmp_path / "study")
    page = (tmp_path / "study.md").read_text()
    assert "**Not complete**: 6 of 6 runs" in page
    [row] = rows_of(page, "network and data set")
    assert row["DSConv"] == "-"


@pytest.mark.parametrize("draw", PAGE.figures.values())
def test_figures_have_a_place_for_long_names(draw, tmp_path):
    grid = ["learning_rate=0.1", "learning_rate=0.2", "l2=0", "l2=1e-4", "ema=0", "ema=0.9"]
    error_of = lambda recipe, seed: 10 + recipe.learning_rate  # noqa: E731
    runs = study(tmp_path, ["resnet20_multiception_cifar10"], error_of, grid=grid)
    figure = draw(collect(runs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    (panel,) = figure.axes
    assert len(panel.get_legend().get_texts()) == 8
    assert panel.get_legend().get_window_extent().y1 < panel.get_window_extent().y0
