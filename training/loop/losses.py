"""Loss and accuracies for labels of either form: class numbers, or a share for each class.

Mixed images have shares, and smoothing makes them of any label; an accuracy then asks for the
class with the largest share.
"""

import keras
from keras import ops


def cross_entropy(labels, logits, smoothing=0.0):
    """Compute the cross-entropy of each example.

    Args:
        labels: Tensor of shape (batch,) or (batch, 1), class numbers, or of shape
            (batch, classes), the share of each class.
        logits: Tensor of shape (batch, classes).
        smoothing: Float, the part of each label to spread evenly over all classes.

    Returns:
        A tensor of shape (batch,).
    """
    if not smoothing and not _are_shares(labels, logits):
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if not _are_shares(labels, logits):
        labels = ops.one_hot(_numbers(labels, logits), logits.shape[-1], dtype=logits.dtype)
    return keras.losses.categorical_crossentropy(
        labels, logits, from_logits=True, label_smoothing=smoothing
    )


def top1(labels, logits):
    """Return for each example of a batch whether its label has the highest score: 1 or 0."""
    return keras.metrics.sparse_categorical_accuracy(_numbers(labels, logits), logits)


def top5(labels, logits):
    """Return for each example of a batch whether its label is among the five highest scores."""
    return keras.metrics.sparse_top_k_categorical_accuracy(
        _numbers(labels, logits), ops.cast(logits, "float32"), k=min(5, logits.shape[-1])
    )


def _are_shares(labels, logits):
    return len(labels.shape) == len(logits.shape) and labels.shape[-1] == logits.shape[-1] > 1


def _numbers(labels, logits):
    if _are_shares(labels, logits):
        return ops.argmax(labels, axis=-1)
    return ops.reshape(labels, (-1,))
