"""Images of any data set in memory: where they come from and what is known of them."""

import dataclasses

import numpy as np

import keras_multiception as km
from keras_multiception.machine import gpu_names
from training.pipeline.batches import evaluation_batches, require_batch, training_batches
from training.readers import arrays, digits, image_folder, images, tfds_reader

__all__ = [
    "evaluation_batches",
    "facts",
    "gpu_names",
    "load",
    "recorded_facts",
    "require_batch",
    "require_classes",
    "training_batches",
]

FOLDER = "folder"


def load(dataset, split, data_dir=None, image_size=0, archive_dir=None):
    """Read a split of a data set into memory.

    Args:
        dataset: String. "folder" is a user's own images by class, see `readers.image_folder`;
            "digits" is scikit-learn's; the others of `keras_multiception.preprocessing.DATASETS`
            are read, or downloaded, by TensorFlow Datasets. Any of them is read without it where
            `data_dir` has what `training.write_arrays` wrote.
        split: String in the notation of TensorFlow Datasets, such as "train" or "test[:10%]".
        data_dir: Directory of the images by class, of arrays or of prepared TensorFlow Datasets;
            `None` for the default one of these.
        image_size: Integer, height and width in pixels to resize the images to; 0 for the data
            set's own.
        archive_dir: Directory of the original archives of a data set of TensorFlow Datasets, to
            prepare it from in `data_dir` if it is not; `None` to download them.

    Returns:
        Images, uint8 of shape (examples, height, width, 3), and labels, int64.

    Raises:
        ValueError: If the data set or split is unknown, or cannot be had or read.
    """
    _require_size(image_size)
    if arrays.exist(dataset, data_dir):
        pixels, labels = arrays.load(dataset, split, data_dir)
    elif dataset == FOLDER:
        pixels, labels = image_folder.load(split, data_dir, image_size)
    elif dataset == "digits":
        pixels, labels = digits.load(split)
    else:
        known = _get_dataset(dataset)
        pixels, labels = tfds_reader.load(dataset, split, data_dir, archive_dir)
        _require_fit(pixels, labels, known, dataset)
    if not len(pixels):
        raise ValueError(f"`split` must not be empty. Received: split={split}")
    return images.resize_all(pixels, image_size) if image_size else pixels, labels


def facts(dataset, data_dir=None, image_size=0):
    """Tell what is known of a data set; of a folder of images, measure it.

    Args:
        dataset: As in `load`.
        data_dir: As in `load`.
        image_size: As in `load`.

    Returns:
        A `keras_multiception.preprocessing.Dataset` with the shape that `load` gives images.

    Raises:
        ValueError: If the data set is unknown, or the folder cannot be read.
    """
    _require_size(image_size)
    if arrays.exist(dataset, data_dir):
        known = arrays.facts(dataset, data_dir)
    elif dataset == FOLDER:
        return image_folder.facts(data_dir, image_size)
    else:
        known = _get_dataset(dataset)
    if not image_size:
        return known
    return dataclasses.replace(known, image_shape=(image_size, image_size, 3))


def recorded_facts(config):
    """Return what a run has recorded of its data.

    Args:
        config: Dictionary, the content of a run's `config.json`.

    Returns:
        A `keras_multiception.preprocessing.Dataset`.
    """
    return km.preprocessing.Dataset.from_dict(config["data"])


def require_classes(class_names, data_dir):
    """Raise a `ValueError` if a folder of images has other classes than a network knows."""
    if arrays.exist(FOLDER, data_dir):
        found = arrays.facts(FOLDER, data_dir).class_names
    else:
        found = image_folder.class_names(data_dir)
    if found != tuple(class_names):
        raise ValueError(
            "`data_dir` must have the classes that the run was trained on, "
            f"{', '.join(class_names)}. Received: {', '.join(found)}"
        )


def _require_size(image_size):
    if image_size < 0:
        raise ValueError(f"`image_size` must be at least 0. Received: image_size={image_size}")


def _get_dataset(dataset):
    if dataset not in km.preprocessing.DATASETS:
        names = ", ".join([*km.preprocessing.DATASETS, FOLDER])
        raise ValueError(f"`dataset` must be one of {names}. Received: dataset={dataset}")
    return km.preprocessing.get_dataset(dataset)


def _require_fit(pixels, labels, known, dataset):
    if pixels.shape[1:] != known.image_shape:
        raise ValueError(
            f"`dataset` must hold images of shape {known.image_shape}, but those of {dataset} "
            f"have another one. Received: shape={pixels.shape[1:]}"
        )
    classes = len(known.class_names)
    for i in np.flatnonzero((labels < 0) | (labels >= classes))[:1]:
        raise ValueError(
            f"`dataset` must have labels from 0 to {classes - 1}, but image {i} of {dataset} has "
            f"another one. Received: label={labels[i]}"
        )
