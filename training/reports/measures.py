"""What a report says of the predictions of a network, and of those of two networks."""

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from training.metrics import measure
from training.reports.calibration import measure_calibration

# A confusion matrix of more classes than this is not legible.
MATRIX_CLASSES = 20
PAIRS = 20
MISTAKES = 24


def measure_predictions(log_probabilities, labels, class_names):
    """Measure predictions.

    Args:
        log_probabilities: Array of shape (examples, classes), float64.
        labels: Array of shape (examples,), integers.
        class_names: Name of each class.

    Returns:
        A dictionary:

        - `examples`; `top1` and `top5`, as from `share`;
        - `calibration`, as from `measure_calibration`;
        - `classes`, the worst first: for each its `name` and what `share` tells;
        - `confusion`: `matrix`, for each class the share of its images taken for each class
          (`None` for more than `MATRIX_CLASSES`), and the most confused `pairs`;
        - `mistakes`, the surest wrong predictions, with `index` in the split.
    """
    result = measure(log_probabilities, labels, class_names)
    examples = result["examples"]
    classes = [
        {
            "name": entry["name"],
            **share((entry["top1"] or 0) * entry["examples"], entry["examples"]),
        }
        for entry in result["classes"]
    ]
    predicted = log_probabilities.argmax(axis=1)
    return {
        "examples": examples,
        "top1": share(result["top1"] * examples, examples),
        "top5": share(result["top5"] * examples, examples),
        "calibration": measure_calibration(log_probabilities, labels),
        "classes": sorted(classes, key=lambda x: 2 if x["share"] is None else x["share"]),
        "confusion": _confusion(labels, predicted, class_names),
        "mistakes": _mistakes(log_probabilities, labels, predicted, class_names),
    }


def share(hits, examples):
    """Return a share with its 95 % interval, by Wilson's score.

    Args:
        hits: Number of examples that count; rounded to a whole number.
        examples: Integer, number of all.

    Returns:
        A dictionary: `hits`, `examples`, and `share`, `low` and `high` (`None` without examples).
    """
    hits = round(hits)
    if not examples:
        return {"hits": 0, "examples": 0, "share": None, "low": None, "high": None}
    interval = binomtest(hits, examples).proportion_ci(0.95, "wilson")
    return {
        "hits": hits,
        "examples": examples,
        "share": hits / examples,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def compare(first, second):
    """Test whether two networks differ in accuracy, by their answers to the same images.

    This is McNemar's test in its exact form: were both equally good, each image that only one of
    them gets right would be as likely the one's as the other's.

    Args:
        first: Boolean array, which images the first network gets right.
        second: Boolean array of the same shape.

    Returns:
        A dictionary: `examples`, `both` right, `only_first`, `only_second`, the `difference` of
        the accuracies (first minus second), and the two-sided `p_value`.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    return {
        "examples": len(first),
        "both": int((first & second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "difference": (only_first - only_second) / len(first),
        "p_value": float(binomtest(only_first, differing).pvalue) if differing else 1.0,
    }


def _confusion(labels, predicted, class_names):
    counts = confusion_matrix(labels, predicted, labels=range(len(class_names)))
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [
        {
            "true": class_names[true],
            "predicted": class_names[taken_for],
            "examples": int(counts[true, taken_for]),
            "share": float(shares[true, taken_for]),
        }
        for true, taken_for in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[true, taken_for]
    ]
    legible = len(counts) <= MATRIX_CLASSES
    return {"matrix": shares.tolist() if legible else None, "pairs": pairs}


def _mistakes(log_probabilities, labels, predicted, class_names):
    wrong = np.flatnonzero(predicted != labels)
    confidence = log_probabilities[wrong, predicted[wrong]]
    return [
        {
            "index": int(row),
            "true": class_names[labels[row]],
            "predicted": class_names[predicted[row]],
            "confidence": float(np.exp(log_probabilities[row, predicted[row]])),
            "confidence_in_true": float(np.exp(log_probabilities[row, labels[row]])),
        }
        for row in wrong[np.argsort(-confidence, kind="stable")][:MISTAKES]
    ]
