"""Statistics, tables and pages of experiments; the pages in training/results from their records."""

import csv
import json
import math
import pathlib
import re

import pytest

from training import costs
from training.benchmarks import page as benchmark_page
from training.reporting.tables import Row, aligned, deviation, markdown, to_csv
from training.study_page import compare

RESULTS = pathlib.Path(costs.RESULTS)
PAGES = {
    "zoo_costs": costs.PAGE,
    "benchmark_resnet20": benchmark_page.PAGE,
    "benchmark_resnet20_avx2": benchmark_page.PAGE,
}


def cells_of(text):
    """Return the cells of all tables in a page."""
    lines = [line for line in text.splitlines() if re.match(r"\| *[^-: ]|\| +\|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", PAGES)
def test_recorded_results_make_the_page_beside_them(name):
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert len(cells_of(page)) > 20
    again = PAGES[name].to_markdown(results, f"{name}.png")
    assert cells_of(again) == cells_of(page)
    rows = list(csv.DictReader(to_csv(PAGES[name].to_rows(results)).splitlines()))
    with (RESULTS / f"{name}.csv").open(encoding="utf-8") as file:
        assert rows == list(csv.DictReader(file))


def test_tables_align_and_keep_text_as_it_is():
    rows = [("name", "count", "share"), ("a b", "1,000", "-0.50"), ("**c**", "2", "-")]
    assert cells_of(markdown(rows, left=1)) == [list(row) for row in rows]
    assert markdown(rows, left=1).splitlines()[1].count("-:|") == 2
    lines = aligned(rows, left=1).splitlines()
    assert [re.split(r"  +", line) for line in lines] == [list(row) for row in rows]
    assert len({len(line) for line in lines}) == 1


def test_rows_of_other_cells_share_a_csv_file():
    rows = [Row("x", {"conv": "dsconv"}, 0, "error", 1 / 3, "%"), Row("x", {"k": 3}, None, "n", 2)]
    assert to_csv(rows).splitlines() == [
        "experiment,conv,k,seed,metric,value,unit,machine",
        "x,dsconv,,0,error,0.333333,%,",
        "x,,3,,n,2,,",
    ]


@pytest.mark.parametrize("page", [benchmark_page.PAGE, costs.PAGE])
@pytest.mark.parametrize("content", ["", "{}", '{"rows": [{}]}', "[]"])
def test_other_files_are_not_rendered(page, content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"`render` must be the .json file.*Received: render="):
        page.render(path)
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


def test_paired_test_of_hand_worked_numbers():
    # differences 1, 2, 3: mean 2, standard deviation 1, t = 2 * sqrt(3) with 2 degrees of freedom
    result = compare({0: 11, 1: 22, 2: 33}, {0: 10, 1: 20, 2: 30})
    assert (result.n, result.difference) == (3, 2)
    quantile = 4.302652729911275  # of the t distribution with 2 degrees of freedom, at 97.5 %
    assert result.low == pytest.approx(2 - quantile / math.sqrt(3))
    assert result.high == pytest.approx(2 + quantile / math.sqrt(3))
    t = 2 * math.sqrt(3)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # closed form for 2


def test_only_seeds_of_both_are_paired_and_nothing_follows_from_equal_differences():
    result = compare({0: 5, 1: 6, 2: 50}, {1: 5, 0: 3, 7: 0})
    assert (result.n, result.difference) == (2, 1.5)
    assert compare({0: 5}, {1: 5}) is None
    for first, second in (({0: 5}, {0: 3}), ({0: 5, 1: 4}, {0: 3, 1: 2}), ({0: 5, 1: 4},) * 2):
        result = compare(first, second)
        assert (result.low, result.high, result.p_value) == (None, None, None)
    assert deviation([5.0]) is None
