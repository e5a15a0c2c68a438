import keras
import numpy as np
import pytest

from training.loop import network

LOGITS = np.random.default_rng(0).normal(size=(16, 7)).astype("float32")
LABELS = np.arange(16) % 7
SHARES = np.eye(7, dtype="float32")[LABELS]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.backend
@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], SHARES, 0.6 * SHARES + 0.4 / 7])
def test_cross_entropy_of_either_form_of_labels(labels, smoothing):
    shares = labels if labels.shape == SHARES.shape else SHARES
    expected = -((1 - smoothing) * shares + smoothing / 7) * log_softmax(LOGITS)
    loss = network.cross_entropy(keras.ops.convert_to_tensor(labels), LOGITS, smoothing)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss), expected.sum(axis=1), rtol=2e-5, atol=1e-6
    )


@pytest.mark.backend
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], SHARES, 0.6 * SHARES + 0.4 / 7])
@pytest.mark.parametrize(("accuracy", "best"), [(network.top1, 1), (network.top5, 5)])
def test_accuracies_of_either_form_of_labels(labels, accuracy, best):
    rank = np.argsort(-LOGITS, axis=1)[:, :best]
    hits = accuracy(keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(LOGITS))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(hits), (rank == LABELS[:, None]).any(axis=1)
    )


@pytest.mark.backend
def test_top5_of_three_classes_is_always_right():
    hits = network.top5(keras.ops.zeros((4,), "int32"), keras.ops.ones((4, 3)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(hits), np.ones(4))
