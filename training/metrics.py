"""How well a network does on a split: loss, top-1, top-5, and accuracy by class."""

import math
import os
import textwrap

import keras
import numpy as np

import keras_multiception as km
from training import data

BATCH_SIZE = 256


def load_model(path):
    """Load a trained network.

    Args:
        path: Path of a `.keras` file, or of the version folder of an exported SavedModel, which
            has a signature `serving_default` from `image` to `probabilities`.

    Returns:
        A `keras.Model`, or what `tf.saved_model.load` returns.

    Raises:
        ValueError: If it is neither.
    """
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


def evaluate_model(model, images, labels, *, dataset, trained_on=None, batch_size=BATCH_SIZE):
    """Measure a network on images.

    Args:
        model: As for `log_probabilities`.
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        dataset: Name of the data set of the images or its
            `keras_multiception.preprocessing.Dataset`, whose classes are reported.
        trained_on: As for `log_probabilities`.
        batch_size: Integer.

    Returns:
        A dictionary as of `measure`.

    Raises:
        ValueError: If the model does not fit the data set or has another kind of output.
    """
    predictions = log_probabilities(
        model, images, dataset=dataset, trained_on=trained_on, batch_size=batch_size
    )
    return measure(predictions, labels, km.preprocessing.get_dataset(dataset).class_names)


def log_probabilities(model, images, *, dataset, trained_on=None, batch_size=BATCH_SIZE):
    """Let a network classify images.

    Args:
        model: A `keras.Model` that ends in logits or in a softmax, or a SavedModel, as from
            `load_model`; a SavedModel normalizes images itself.
        images: Array of shape (examples, height, width, channels), uint8.
        dataset: Name or `Dataset` of the images.
        trained_on: Name or `Dataset`, whose statistics a Keras model expects; the default is
            `dataset`.
        batch_size: Integer.

    Returns:
        The logarithm of each class's probability: an array of shape (examples, classes), float64.

    Raises:
        ValueError: If the model does not fit the data set or has another kind of output.
    """
    facts = km.preprocessing.get_dataset(dataset)
    if isinstance(model, keras.Model):
        _require_fit(model.input_shape, model.output_shape, facts)
        log = _log_of_softmax if _ends_in_softmax(model) else _log_softmax_of
        batches = data.evaluation_batches(
            images, np.zeros(len(images)), dataset=trained_on or dataset, batch_size=batch_size
        )
        outputs = model.predict(batches, verbose=0)
    else:
        log, (signature, dtype) = _log_of_softmax, _serving_default(model, facts)
        starts = range(0, len(images), batch_size)
        batches = (images[start : start + batch_size].astype(dtype) for start in starts)
        outputs = np.concatenate([signature(image=batch)["probabilities"] for batch in batches])
    return log(outputs.astype("float64"))


def count_parameters(model):
    """Count the parameters of a network.

    Args:
        model: What `load_model` returns.

    Returns:
        A dictionary of `trainable` and `total`, or `None` for a SavedModel, which does not tell.
    """
    if not isinstance(model, keras.Model):
        return None
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return {"trainable": trainable, "total": model.count_params()}


def measure(log_probabilities, labels, class_names):
    """Compute loss and accuracies from predictions.

    Args:
        log_probabilities: Array of shape (examples, classes), float64.
        labels: Array of shape (examples,).
        class_names: Name of each class.

    Returns:
        A dictionary: `examples`, `loss` (mean cross-entropy), `top1`, `top5` (share of images
        whose label is among the best one and five), and `classes`, for each its `name`,
        `examples` and `top1` (`None` without examples).

    Raises:
        FloatingPointError: If predictions are NaN.
    """
    if np.isnan(log_probabilities).any():
        raise FloatingPointError(
            "The answers of the network must be numbers. Received: NaN for "
            f"{np.isnan(log_probabilities).any(axis=1).sum()} of {len(labels)} images"
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
        "classes": classes,
    }


def _serving_default(model, facts):
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
    _require_fit(tuple(image.shape), tuple(outputs["probabilities"].shape), facts)
    return signature, image.dtype.as_numpy_dtype


def _require_fit(input_shape, output_shape, facts):
    expected = (None, *facts.image_shape)
    fits = len(input_shape) == len(expected) and all(
        size in (None, wanted) for size, wanted in zip(input_shape[1:], expected[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"`model` must take images of shape {facts.image_shape}, those of the data set. "
            f"Received: input_shape={input_shape}"
        )
    if output_shape[-1] not in (None, len(facts.class_names)):
        raise ValueError(
            f"`model` must have {len(facts.class_names)} classes, those of the data set. "
            f"Received: classes={output_shape[-1]}"
        )


def _ends_in_softmax(model):
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


def _log_of_softmax(probabilities):
    return np.log(np.maximum(probabilities, np.finfo("float32").tiny))


def _log_softmax_of(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
