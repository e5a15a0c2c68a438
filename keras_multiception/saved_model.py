"""A Keras model as a SavedModel that takes images as they are and names its answers."""

import dataclasses
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np

from keras_multiception.preprocessing import Dataset, get_dataset, preprocess_input

# How far the probabilities of the written SavedModel may be from those of the model.
TOLERANCE = 1e-4


def export_saved_model(model, path, dataset="cifar10"):
    """Write a classifier as a SavedModel with its preprocessing inside.

    The SavedModel is written under a temporary name, loaded again, compared with the model on
    random images and only then moved to its path, so that what is at the path is whole and right.

    The signatures differ in how they take images and all give the same outputs:

    - `serving_default`: `image`, float32 of shape `(batch, height, width, 3)`, pixels 0 to 255.
    - `serving_uint8`: `image`, the same in uint8.
    - `serving_bytes`: `image_bytes`, strings of shape `(batch,)`: JPEG, PNG, BMP or GIF files of
      any size, decoded to RGB and resized to the size that the model takes.

    Outputs: `probabilities`, float32 `(batch, classes)`; `class_id`, int64 `(batch,)`, the most
    probable class; `label`, string `(batch,)`, its name.

    Args:
        model: A built `keras.Model` that takes normalised images and gives class probabilities,
            or logits when its last layer has no activation.
        path: String or path, the folder to write. It must not exist; its parents may.
        dataset: String, a key of `km.preprocessing.DATASETS`, or a
            `km.preprocessing.Dataset`: whose statistics, class names and image size to use.

    Raises:
        ValueError: If the model does not fit the data set, or the path exists or cannot be
            written.
        RuntimeError: If Keras runs on another backend than TensorFlow, or the SavedModel answers
            otherwise than the model.

    Example:
        >>> km.export_saved_model(model, "models/digits/1", dataset="digits")
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Exporting a SavedModel needs Keras on the TensorFlow backend; save the model as a "
            ".keras file and load it there (KERAS_BACKEND=tensorflow). "
            f"Received: backend={keras.backend.backend()}"
        )
    facts = dataset if isinstance(dataset, Dataset) else get_dataset(dataset)
    facts = _fit_image_shape(model, facts)
    path = pathlib.Path(path)
    if path.exists():
        raise ValueError(f"`path` must not exist yet. Received: path={path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
    except OSError as error:
        raise ValueError(
            f"`path` must be in a folder that can be written ({error.strerror}). "
            f"Received: path={path}"
        ) from error
    try:
        written = temporary / path.name
        archive = keras.export.ExportArchive()
        archive.track(model)
        for name, (function, spec) in _signatures(model, facts).items():
            archive.add_endpoint(name, function, input_signature=[spec])
        archive.write_out(written, verbose=False)
        _require_equal_answers(model, written, facts)
        if path.exists():
            raise ValueError(f"`path` appeared while it was being written. Received: path={path}")
        os.rename(written, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fit_image_shape(model, facts):
    """Return the facts with the image shape of the model; refuse a model of another kind."""
    input_shape, output_shape = model.input_shape, model.output_shape
    classes = len(facts.class_names)
    if not isinstance(input_shape, tuple) or len(input_shape) != 4 or input_shape[-1] != 3:
        raise ValueError(
            "`model` must take one batch of RGB images, (batch, height, width, 3). "
            f"Received: model.input_shape={input_shape}"
        )
    if not isinstance(output_shape, tuple) or output_shape[1:] != (classes,):
        raise ValueError(
            f"`model` must give {classes} values for each image, one for each class of the data "
            f"set. Received: model.output_shape={output_shape}"
        )
    height, width = (
        own or usual for own, usual in zip(input_shape[1:3], facts.image_shape[:2], strict=True)
    )
    return dataclasses.replace(facts, image_shape=(height, width, 3))


def _signatures(model, facts):
    import tensorflow as tf

    height, width, _ = facts.image_shape
    gives_logits = _gives_logits(model)
    class_names = np.array(facts.class_names)

    def classify(image):
        scores = model(preprocess_input(image, facts), training=False)
        scores = tf.cast(scores, tf.float32)
        probabilities = tf.nn.softmax(scores) if gives_logits else scores
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(tf.constant(class_names), class_id),
        }

    def decode(image_bytes):
        image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        image = tf.image.resize(image, (height, width), antialias=True)
        return tf.clip_by_value(image, 0.0, 255.0)

    def classify_bytes(image_bytes):
        spec = tf.TensorSpec([height, width, 3], tf.float32)
        return classify(tf.map_fn(decode, image_bytes, fn_output_signature=spec))

    images = [None, *model.input_shape[1:3], 3]
    return {
        "serving_default": (classify, tf.TensorSpec(images, tf.float32, "image")),
        "serving_uint8": (classify, tf.TensorSpec(images, tf.uint8, "image")),
        "serving_bytes": (classify_bytes, tf.TensorSpec([None], tf.string, "image_bytes")),
    }


def _require_equal_answers(model, path, facts):
    """Hold every signature of a SavedModel against the model, on random images."""
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (2, *facts.image_shape), dtype="uint8")
    expected = model.predict_on_batch(preprocess_input(images, facts)).astype("float32")
    if _gives_logits(model):
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(expected))
    signatures = tf.saved_model.load(path).signatures
    inputs = {
        "serving_default": {"image": tf.constant(images, tf.float32)},
        "serving_uint8": {"image": tf.constant(images)},
        "serving_bytes": {"image_bytes": tf.stack([tf.io.encode_png(image) for image in images])},
    }
    for name, arguments in inputs.items():
        received = signatures[name](**arguments)["probabilities"].numpy()
        difference = np.abs(received - expected).max()
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"The signature {name} of the written SavedModel must answer like the model. "
                f"Received: probabilities that differ by {difference}; nothing was kept"
            )


def _gives_logits(model):
    """Return whether the last layer of the model leaves out the softmax."""
    last = model.layers[-1]
    return getattr(last, "activation", None) is keras.activations.linear
