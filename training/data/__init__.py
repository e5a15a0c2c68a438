"""Images of any data set in memory, what is known of them, and their batches."""

import dataclasses

import numpy as np

import keras_multiception as km
from keras_multiception.preprocessing import DATASETS, Dataset
from training.data import arrays, image_folder, splits, tfds_reader
from training.data.arrays import Examples, Path
from training.data.batches import evaluation_batches, require_batch, training_batches

__all__ = [
    "FOLDER",
    "Examples",
    "evaluation_batches",
    "load",
    "require_batch",
    "require_classes",
    "spec",
    "training_batches",
]

FOLDER = "folder"


def load(
    dataset: str,
    split: str,
    data_dir: Path | None = None,
    image_size: int = 0,
    archive_dir: Path | None = None,
) -> Examples:
    """Read a split of a data set into memory.

    Args:
        dataset: "folder" for a user's own images by class, "digits" for scikit-learn's, or another
            of `keras_multiception.preprocessing.DATASETS`, which TensorFlow Datasets reads or
            downloads. Where `data_dir` has what `training.write_arrays` wrote, that is read.
        split: In the notation of TensorFlow Datasets, for example "train" or "test[:10%]".
        data_dir: Directory of images by class, of arrays or of prepared TensorFlow Datasets.
        image_size: Height and width in pixels to resize the images to; 0 keeps the data set's own.
        archive_dir: Directory of the original archives, to prepare the data set from in
            `data_dir`; `None` downloads them.

    Returns:
        Images, uint8 of shape (examples, height, width, 3), and labels, int64.

    Raises:
        ValueError: If the data set or split is unknown or cannot be read.
    """
    _require_size(image_size)
    if data_dir is not None and arrays.exist(dataset, data_dir):
        pixels, labels = arrays.load(dataset, split, data_dir)
    elif dataset == FOLDER:
        pixels, labels = image_folder.load(split, data_dir, image_size)
    elif dataset == "digits":
        pixels, labels = _load_digits(split)
    else:
        known = _known(dataset)
        pixels, labels = tfds_reader.load(dataset, split, data_dir, archive_dir)
        _require_fit(pixels, labels, known, dataset)
    if not len(pixels):
        raise ValueError(f"`split` must not be empty. Received: split={split}")
    return image_folder.resize_all(pixels, image_size) if image_size else pixels, labels


def spec(dataset: str, data_dir: Path | None = None, image_size: int = 0) -> Dataset:
    """Return the `Dataset` of the images that `load` reads; a folder of images is measured."""
    _require_size(image_size)
    if data_dir is not None and arrays.exist(dataset, data_dir):
        known = arrays.spec(dataset, data_dir)
    elif dataset == FOLDER:
        return image_folder.spec(data_dir, image_size)
    else:
        known = _known(dataset)
    if not image_size:
        return known
    return dataclasses.replace(known, image_shape=(image_size, image_size, 3))


def require_classes(class_names: tuple[str, ...], data_dir: Path | None) -> None:
    """Raise a `ValueError` if a folder of images has not the classes of a trained network."""
    if data_dir is not None and arrays.exist(FOLDER, data_dir):
        found = arrays.spec(FOLDER, data_dir).class_names
    else:
        found = image_folder.class_names(data_dir)
    if found != tuple(class_names):
        raise ValueError(
            "`data_dir` must have the classes that the run was trained on, "
            f"{', '.join(class_names)}. Received: {', '.join(found)}"
        )


def _load_digits(split: str) -> Examples:
    """Return the 8x8 digits as 32x32 in three channels, each pixel a block of 4x4.

    A fixed, stratified choice of 360 of the 1,797 images is the test split. Pixel values 0 to 16
    become 0 to 255.
    """
    import sklearn.datasets  # takes a second, and other data sets do without it
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype("uint8")
    images = np.kron(pixels[..., None], np.ones((4, 4, 3), "uint8"))
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(images)), test_size=360, stratify=digits.target, random_state=0
    )
    rows = {"train": train, "test": test}
    parts = splits.select(split, {name: len(values) for name, values in rows.items()})
    chosen = np.concatenate([rows[name][part] for name, part in parts])
    return images[chosen], digits.target[chosen]


def _require_size(image_size: int) -> None:
    if image_size < 0:
        raise ValueError(f"`image_size` must be at least 0. Received: image_size={image_size}")


def _known(dataset: str) -> Dataset:
    if dataset not in DATASETS:
        names = ", ".join([*DATASETS, FOLDER])
        raise ValueError(f"`dataset` must be one of {names}. Received: dataset={dataset}")
    return km.preprocessing.get_dataset(dataset)


def _require_fit(pixels: np.ndarray, labels: np.ndarray, known: Dataset, dataset: str) -> None:
    if pixels.shape[1:] != known.image_shape:
        raise ValueError(
            f"`dataset` {dataset} must hold images of shape {known.image_shape}. "
            f"Received: shape={pixels.shape[1:]}"
        )
    classes = len(known.class_names)
    for i in np.flatnonzero((labels < 0) | (labels >= classes))[:1]:
        raise ValueError(
            f"`dataset` must have labels from 0 to {classes - 1}, but image {i} of {dataset} has "
            f"another one. Received: label={labels[i]}"
        )
