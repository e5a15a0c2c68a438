"""What a report says of predictions: confusion, intervals, tests."""

import numpy as np
import pytest
from scipy.stats import binom

from training import metrics
from training.reports.measures import compare, measure_predictions, share

LOG = np.log([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
LABELS = np.array([0, 1, 1, 1])


def test_confusion_classes_and_mistakes():
    result = measure_predictions(LOG, LABELS, ["a", "b", "c"])
    third = pytest.approx([2 / 3, 1 / 3, 0])
    assert result["confusion"]["matrix"] == [[1, 0, 0], third, [0, 0, 0]]
    pair = {"true": "b", "predicted": "a", "examples": 2, "share": pytest.approx(2 / 3)}
    assert result["confusion"]["pairs"] == [pair]
    assert [entry["name"] for entry in result["classes"]] == ["b", "a", "c"]
    assert result["classes"][2]["share"] is None
    assert [entry["index"] for entry in result["mistakes"]] == [1, 2]
    assert result["mistakes"][0]["confidence_in_true"] == pytest.approx(0.3)


def test_answers_that_are_no_numbers_are_an_error():
    scores = np.log([[0.5, 0.5], [np.nan, 0.5]])
    with pytest.raises(FloatingPointError, match="NaN for 1 of 2 images"):
        metrics.measure(scores, np.array([0, 1]), ["a", "b"])


def test_wilsons_interval():
    result = share(10, 10)
    assert result["high"] == pytest.approx(1)
    assert result["low"] == pytest.approx(10 / (10 + 1.959964**2))
    assert share(0, 0)["low"] is None


def test_mcnemars_exact_test():
    first = np.array([True] * 8 + [False] + [True] * 20)
    second = np.array([False] * 8 + [True] + [True] * 20)
    result = compare(first, second)
    assert (result["both"], result["only_first"], result["only_second"]) == (20, 8, 1)
    assert result["difference"] == pytest.approx(7 / 29)
    assert result["p_value"] == pytest.approx(2 * binom.cdf(1, 9, 0.5))
    assert compare(first, first)["p_value"] == 1
