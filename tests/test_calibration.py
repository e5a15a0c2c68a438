import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from training.reports.calibration import BINS, measure_calibration


def draw(seed, examples=200, classes=4):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), examples)
    return np.maximum(probabilities, 1e-12), rng.integers(0, classes, examples)


def test_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.36, 0.64]])
    result = measure_calibration(np.log(probabilities), np.array([0, 1, 0, 1]))
    filled = [entry for entry in result["bins"] if entry["examples"]]
    assert [entry["examples"] for entry in filled] == [1, 1, 2]
    assert [entry["top1"] for entry in filled] == [1, 1, 0.5]
    assert [entry["confidence"] for entry in filled] == pytest.approx([0.6, 0.64, 0.95])
    expected = (0.4 + 0.36 + 2 * 0.45) / 4
    assert result["expected_calibration_error"] == pytest.approx(expected)


def test_a_bin_holds_its_upper_end():
    result = measure_calibration(np.log([[0.6, 0.4], [1.0, 1e-300]]), np.array([0, 0]))
    full = [index for index, entry in enumerate(result["bins"]) if entry["examples"]]
    assert full == [8, 14]
    assert result["bins"][8]["to"] == pytest.approx(0.6)
    assert result["bins"][0]["top1"] is None


@given(st.integers(0, 1000))
def test_equals_scikit_learn(seed):
    probabilities, labels = draw(seed)
    result = measure_calibration(np.log(probabilities), labels)
    classes = range(probabilities.shape[1])
    assert result["negative_log_likelihood"] == pytest.approx(
        log_loss(labels, probabilities / probabilities.sum(1, keepdims=True), labels=classes)
    )
    one_hot = np.eye(len(classes))[labels]
    each = [brier_score_loss(one_hot[:, i], probabilities[:, i], pos_label=1) for i in classes]
    assert result["brier_score"] == pytest.approx(sum(each))
    assert sum(entry["examples"] for entry in result["bins"]) == len(labels)


@given(st.integers(0, 1000))
def test_error_is_between_the_overall_gap_and_one(seed):
    probabilities, labels = draw(seed)
    result = measure_calibration(np.log(probabilities), labels)
    gap = abs(probabilities.max(1).mean() - np.mean(probabilities.argmax(1) == labels))
    assert gap - 1e-9 <= result["expected_calibration_error"] <= 1
    assert len(result["bins"]) == BINS


def test_labels_drawn_from_the_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    probabilities = np.maximum(rng.dirichlet(np.full(3, 0.5), 20_000), 1e-12)
    labels = (rng.random((20_000, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 2)
    assert measure_calibration(np.log(probabilities), labels)["expected_calibration_error"] < 0.02
