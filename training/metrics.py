"""How well a network does on a split: loss, accuracies, calibration, and accuracy by class."""

import functools
import math
import os
import textwrap
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import scipy.special

from keras_multiception.graphs import fits
from keras_multiception.preprocessing import Dataset, get_dataset
from training import data

BATCH_SIZE = 256
CALIBRATION_BINS = 15


def load_model(path: str | os.PathLike[str]) -> Any:
    """Load a `.keras` file, or the version folder of an exported SavedModel."""
    try:
        if not os.path.isdir(path):
            return keras.models.load_model(path, compile=False)
        import tensorflow as tf  # a SavedModel is TensorFlow's, whatever the backend of Keras

        return tf.saved_model.load(str(path))
    except Exception as error:
        reason = textwrap.shorten(str(error), 120)
        raise ValueError(
            "`model` must be a .keras file or the version folder of a SavedModel, and cannot be "
            f"loaded as such ({reason}). Received: model={path}"
        ) from error


def evaluate_model(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    dataset: str | Dataset,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Return the `measure` of a model on images of a data set; arguments as `log_probabilities`."""
    predictions = log_probabilities(model, images, dataset=dataset, batch_size=batch_size)
    return measure(predictions, labels, get_dataset(dataset).class_names)


def log_probabilities(
    model: Any,
    images: np.ndarray,
    *,
    dataset: str | Dataset,
    trained_on: str | Dataset | None = None,
    batch_size: int = BATCH_SIZE,
) -> np.ndarray:
    """Return the logarithm of the probability of each class, float64 of (examples, classes).

    A Keras model ends in logits or a softmax, and expects the statistics of the data set
    `trained_on`, by default `dataset`; a SavedModel normalizes images itself.
    """
    spec = get_dataset(dataset)
    if isinstance(model, keras.Model):
        _require_fit(model.input_shape, model.output_shape, spec)
        log = (
            log_of_softmax
            if _ends_in_softmax(model)
            else functools.partial(scipy.special.log_softmax, axis=1)
        )
        batches = data.evaluation_batches(
            images, np.zeros(len(images)), dataset=trained_on or dataset, batch_size=batch_size
        )
        outputs = model.predict(batches, verbose=0)
    else:
        log, (signature, dtype) = log_of_softmax, _serving_default(model, spec)
        starts = range(0, len(images), batch_size)
        batches = (images[start : start + batch_size].astype(dtype) for start in starts)
        outputs = np.concatenate([signature(image=batch)["probabilities"] for batch in batches])
    return log(outputs.astype("float64"))


def count_parameters(model: Any) -> dict[str, int]:
    """Return the `trainable` and `total` parameters; nothing for a SavedModel."""
    if not isinstance(model, keras.Model):
        return {}
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return {"trainable": trainable, "total": model.count_params()}


def measure(
    log_probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Compute mean cross-entropy, accuracies and calibration error, and accuracies by class."""
    if lost := np.isnan(log_probabilities).any(axis=1).sum():
        raise FloatingPointError(
            "The answers of the network must be numbers. Received: NaN for "
            f"{lost} of {len(labels)} images"
        )
    own = log_probabilities[np.arange(len(labels)), labels][:, None]
    # where scores are equal, the class that comes first goes before the label
    before = np.arange(len(class_names)) < labels[:, None]
    rank = ((log_probabilities > own) | ((log_probabilities == own) & before)).sum(axis=1)
    classes = []
    for label, name in enumerate(class_names):
        hits = rank[labels == label] == 0
        accuracy = float(hits.mean()) if len(hits) else None
        classes.append({"name": name, "examples": len(hits), "top1": accuracy})
    return {
        "examples": len(labels),
        "loss": float(-own.mean()),
        "top1": float((rank == 0).mean()),
        "top5": float((rank < 5).mean()),
        "expected_calibration_error": _calibration_error(log_probabilities, rank == 0),
        "classes": classes,
    }


def _calibration_error(log_probabilities: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al., 2017), over bins of equal width."""
    confidence = np.exp(log_probabilities.max(axis=1))
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins.astype(int), weights=right - confidence)
    return float(np.abs(gaps).sum() / len(right))


def _serving_default(model: Any, spec: Dataset) -> tuple[Callable, type]:
    """Return the signature of a SavedModel and the type of image it takes."""
    signature = model.signatures.get("serving_default")
    inputs = signature.structured_input_signature[1] if signature else {}
    outputs = signature.structured_outputs if signature else {}
    if "image" not in inputs or "probabilities" not in outputs:
        raise ValueError(
            "`model` must have a signature serving_default from `image` to `probabilities`. "
            f"Received: {', '.join(inputs) or 'nothing'} to {', '.join(outputs) or 'nothing'}"
        )
    image = inputs["image"]
    _require_fit(tuple(image.shape), tuple(outputs["probabilities"].shape), spec)
    return signature, image.dtype.as_numpy_dtype


def _require_fit(input_shape: tuple, output_shape: tuple, spec: Dataset) -> None:
    if not fits(spec.image_shape, input_shape[1:]):
        raise ValueError(
            f"`model` must take images of shape {spec.image_shape}, those of the data set. "
            f"Received: input_shape={input_shape}"
        )
    if output_shape[-1] not in (None, len(spec.class_names)):
        raise ValueError(
            f"`model` must have {len(spec.class_names)} classes, those of the data set. "
            f"Received: classes={output_shape[-1]}"
        )


def _ends_in_softmax(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax:
        return True
    if activation in (None, keras.activations.linear):
        return False
    raise ValueError(
        "`model` must end in logits or a softmax. "
        f"Received: activation={keras.activations.serialize(activation)}"
    )


def log_of_softmax(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithm of probabilities, those that are 0 at the smallest float32."""
    return np.log(np.maximum(probabilities, np.finfo("float32").tiny))
