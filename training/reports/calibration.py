"""How far the probabilities of a network can be believed."""

import itertools

import numpy as np

BINS = 15


def measure_calibration(log_probabilities, labels):
    """Compare how sure a network is with how often it is right.

    The *confidence* of a prediction is the probability of the predicted class. Confidences are
    sorted into `BINS` equally wide bins, each with its upper end. The *expected calibration
    error* (Guo et al., 2017) is the mean, over all images, of the distance between accuracy and
    mean confidence of the image's bin. The *Brier score* is the mean squared distance, from 0 to
    2, between the probabilities of all classes and those of a sure and right prediction.

    Args:
        log_probabilities: Array of shape (examples, classes), float64.
        labels: Array of shape (examples,), integers.

    Returns:
        A dictionary: `expected_calibration_error`, `negative_log_likelihood` (mean, in nats),
        `brier_score`, and `bins`, for each its bounds `above` and `to`, its `examples`, and their
        mean `confidence` and accuracy `top1` (`None` without examples).
    """
    probabilities = np.exp(log_probabilities)
    rows = np.arange(len(labels))
    confidence = probabilities.max(axis=1)
    right = log_probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    where = np.clip(np.searchsorted(edges, confidence) - 1, 0, BINS - 1)
    bins = [
        _bin(above, to, confidence[where == index], right[where == index])
        for index, (above, to) in enumerate(itertools.pairwise(edges))
    ]
    own = probabilities[rows, labels]
    return {
        "expected_calibration_error": sum(
            x["examples"] / len(labels) * abs(x["top1"] - x["confidence"])
            for x in bins
            if x["examples"]
        ),
        "negative_log_likelihood": float(-log_probabilities[rows, labels].mean()),
        "brier_score": float(((probabilities**2).sum(axis=1) - 2 * own + 1).mean()),
        "bins": bins,
    }


def _bin(above, to, confidence, right):
    return {
        "above": float(above),
        "to": float(to),
        "examples": len(right),
        "confidence": float(confidence.mean()) if len(right) else None,
        "top1": float(right.mean()) if len(right) else None,
    }
