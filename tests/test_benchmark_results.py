"""Medians, ratios and the serial limit of a benchmark against numbers by hand; its files."""

import copy
import csv
import io

import keras
import pytest
from matplotlib.image import imread

import keras_multiception as km
from training.benchmarks import pages
from training.benchmarks.results import summarize
from training.benchmarks.roofline import count_work, serial_limit
from training.benchmarks.tables import to_csv, to_markdown


def test_work_of_a_small_network_is_that_counted_by_hand():
    image = x = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    cost = km.cost(keras.Model(image, x))
    products = 9 * 2 * 3 * 16 + 3 * 2
    convolution, norm, relu, pool, dense = 32 + 48, 48 + 48, 48 + 48, 48 + 3, 3 + 2
    weights = 9 * 2 * 3 + 4 * 3 + 3 * 2 + 2
    step = 2 * (convolution + norm + relu + pool + dense) + weights
    assert count_work(cost, 2, training=True) == {"flop": 3 * 2 * products * 2, "bytes": 12 * step}
    answer = 2 * (convolution + norm + pool + dense) + weights
    assert count_work(cost, 2, training=False) == {"flop": 2 * products * 2, "bytes": 4 * answer}


def test_a_concatenation_moves_nothing():
    image = keras.Input((4, 4, 2))
    layer = km.layers.MulticeptionConv2D(3, (3, 5))
    cost = km.cost(keras.Model(image, layer(image)))
    branches, norm, pointwise, last = 2 * (32 + 32), 64 + 64, 64 + 48, 48 + 48
    weights = (9 + 25) * 2 + 4 * 4 + 4 * 3 + 3 + 4 * 3
    expected = 4 * (branches + norm + pointwise + last + weights)
    assert count_work(cost, 1, training=False)["bytes"] == expected


def test_the_serial_limit_is_a_sum():
    assert serial_limit({"flop": 6e9, "bytes": 2e9}, 3e9, 8e9) == pytest.approx(2.25)


def row(form, seconds, side="keras", task="inference", work=None):
    return {
        "task": task,
        "model": "resnet20",
        "conv": "multiception",
        "batch_size": 8,
        "form": form,
        "side": side,
        "work": work,
        "seconds": seconds,
    }


@pytest.fixture
def results():
    work = {"flop": 30e9, "bytes": 1e9}
    return summarize(
        {
            "command": "python -m training.benchmark",
            "note": "A note.",
            "date": "2026-01-02",
            "plan": {},
            "environments": {
                "keras": {
                    "backend": "tensorflow",
                    "onednn": "on",
                    "threads": 2,
                    "gpus": [],
                    "cpu": "A CPU",
                    "cpu_flags": ["avx2", "fma"],
                    "versions": {"keras": "3"},
                }
            },
            "load_before_and_after": [0.5, 1.5],
            "left_out": ["torch_channels_first: a reason"],
            "rows": [
                row("product", [1 / 100, 1 / 60, 1 / 80], task="limit"),
                row("stream", [1 / 4, 1 / 4, 1 / 4], task="limit"),
                row("plain", [4.0, 6.0, 9.0], work=work),
                row("separate", [2.0, 2.0, 2.0], work=work),
                row("separate", [8.0, 6.0, 9.0], side="keras, oneDNN off", work=work),
                row("torch_channels_last", [4.0, 3.0, 1.0], side="torch", work=work),
            ],
            "memory": [
                {
                    "model": "resnet20",
                    "conv": "multiception",
                    "form": "fast",
                    "before": 4e8,
                    "peak": 9e8,
                }
            ],
        }
    )


def test_ratios_are_taken_round_by_round(results):
    plain, separate, slow, torch = results["rows"]
    assert separate["vs_plain"] == {"median": 3.0, "low": 2.0, "high": 4.5, "n": 3}
    assert separate["vs_torch"] == {"median": 1.5, "low": 0.5, "high": 2.0, "n": 3}
    assert slow["vs_plain"] == {"median": 1.0, "low": 0.5, "high": 1.0, "n": 3}
    assert plain["vs_plain"]["median"] == torch["vs_torch"]["median"] == 1
    assert separate["images_per_second"] == 4


def test_the_limit_is_that_of_the_measured_machine(results):
    assert results["limits"]["product"] == {
        "median": pytest.approx(80),
        "low": pytest.approx(60),
        "high": pytest.approx(100),
        "n": 3,
    }
    plain, separate, *_ = results["rows"]
    assert separate["limit_ms"] == pytest.approx(1000 * (30 / 80 + 1 / 4))
    assert separate["of_limit"] == pytest.approx(0.625 / 2)
    assert plain["of_limit"] == pytest.approx(0.625 / 6)


def test_without_a_base_or_a_limit_there_is_no_ratio(results):
    rows = [
        {**each, "work": None} for each in copy.deepcopy(results["rows"]) if each["form"] != "plain"
    ]
    alone = summarize({**results, "rows": rows})
    assert [each["vs_plain"] for each in alone["rows"]] == [None] * 3
    assert alone["limits"] == {}
    assert [each["of_limit"] for each in alone["rows"]] == [None] * 3
    assert "| ours, fused: separate | - | - |" in to_markdown(alone, "x.png")


def test_page_puts_ratios_first(results):
    page = to_markdown(results, "benchmark.png")
    assert page.index("## Ratios") < page.index("## Every measurement")
    assert "| inference, batch 8 | ours, fused: separate | **3.00** (2.00 to 4.50) |" in page
    assert "ours, fused: separate, oneDNN off | **1.00** (0.50 to 1.00) |" in page
    assert "| 31% | 625.00 | 2,000.00 | 2,000.00 | 2,000.00 | 4 | 3 |" in page
    assert "| 400 | 900 | 500 |" in page
    assert "matrix product: 80 (60 to 100) GFLOP/s, n = 3" in page
    assert "onednn: on" in page
    assert "cpu flags: avx2 fma" in page
    assert "left out: torch_channels_first: a reason" in page


def test_csv_has_a_line_for_each_measurement(results):
    lines = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert [line["form"] for line in lines] == [each["form"] for each in results["rows"]]
    assert (lines[1]["vs_plain_median"], lines[1]["milliseconds_high"]) == ("3", "2000")


def test_files_come_again_from_the_result_file(results, tmp_path):
    pages.write(results, tmp_path / "bench")
    names = {f"bench.{suffix}" for suffix in ("json", "md", "csv", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names
    before = {name: (tmp_path / name).read_bytes() for name in names}
    assert imread(tmp_path / "bench.png").std() > 0.01
    for name in names - {"bench.json"}:
        (tmp_path / name).unlink()
    pages.render(tmp_path / "bench.json")
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("content", ["", "{}", '{"rows": [{}]}', "[]"])
def test_other_files_are_not_rendered(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"`render` must be the .json file"):
        pages.render(path)
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]
