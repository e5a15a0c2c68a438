"""Images of any data set in memory, what is known of them, and their batches."""

import dataclasses
import pathlib
import tempfile
import textwrap
from types import ModuleType
from typing import Any

import numpy as np

from keras_multiception.machine import import_tensorflow
from keras_multiception.preprocessing import Dataset, get_dataset
from training.data import arrays, batches, image_folder, splits
from training.data.arrays import Examples, Path
from training.data.batches import Augmentation

FOLDER = "folder"
ARCHIVES = {
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar100": ("cifar-100-binary.tar.gz",),
    "stl10": ("stl10_binary.tar.gz",),
    "imagenet_resized/32x32": ("Imagenet32_train_npz.zip", "Imagenet32_val_npz.zip"),
}


def load(
    dataset: str,
    split: str,
    data_dir: Path | None = None,
    image_size: int = 0,
    archive_dir: Path | None = None,
) -> Examples:
    """Read a split of a data set, in the notation of TensorFlow Datasets, into memory.

    `data_dir` has images by class, what `training.write_arrays` wrote, or prepared TensorFlow
    Datasets, which are otherwise made in it from `archive_dir` or downloads. An `image_size` of 0
    leaves the images as they are.
    """
    if data_dir is not None and arrays.exist(dataset, data_dir):
        pixels, labels = arrays.load(dataset, split, data_dir)
    elif dataset == FOLDER:
        pixels, labels = image_folder.load(split, data_dir, image_size)
    elif dataset == "digits":
        pixels, labels = _load_digits(split)
    else:
        get_dataset(dataset)  # or it is not known here
        pixels, labels = _load_tfds(dataset, split, data_dir, archive_dir)
    if not len(pixels):
        raise ValueError(f"`split` must not be empty. Received: split={split}")
    return image_folder.resize_all(pixels, image_size) if image_size else pixels, labels


def spec(dataset: str, data_dir: Path | None = None, image_size: int = 0) -> Dataset:
    """Return the `Dataset` of the images that `load` reads; a folder of images is measured."""
    if data_dir is not None and arrays.exist(dataset, data_dir):
        known = arrays.spec(dataset, data_dir)
    elif dataset == FOLDER:
        return image_folder.spec(data_dir, image_size)
    else:
        known = get_dataset(dataset)
    if not image_size:
        return known
    return dataclasses.replace(known, image_shape=(image_size, image_size, 3))


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    dataset: str | Dataset,
    batch_size: int,
    epochs: int,
    first_epoch: int = 0,
    seed: int = 0,
    **augmentation: Any,
) -> Any:
    """Make the shuffled batches of the epochs `first_epoch` to `epochs`, one after the other.

    Each epoch drops what does not fill a batch. `augmentation` has the fields of `Augmentation`.
    The labels are integers, or, where images are mixed, float32 of shape (batch, classes).
    """
    require_batch(len(images), batch_size)
    return _backend().training_batches(
        images,
        labels,
        spec=get_dataset(dataset),
        batch_size=batch_size,
        epochs=range(first_epoch, epochs),
        seed=seed,
        augmentation=Augmentation(**augmentation),
    )


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, *, dataset: str | Dataset, batch_size: int
) -> Any:
    """Make batches of all images in their order, normalized and not augmented."""
    return _backend().evaluation_batches(images, labels, get_dataset(dataset), batch_size)


def require_batch(examples: int, batch_size: int) -> None:
    """Raise a `ValueError` if there are fewer training images than one batch takes."""
    if examples < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )


def _backend() -> ModuleType:
    """Return the module that makes batches: by `tf.data` or, without TensorFlow, by NumPy."""
    if import_tensorflow():
        from training.data import batches_tensorflow

        return batches_tensorflow
    return batches


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


def _load_tfds(
    dataset: str, split: str, data_dir: Path | None, archive_dir: Path | None
) -> Examples:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"`dataset` {dataset} needs TensorFlow Datasets, which is not installed here: run "
            f"`python -m training.write_arrays --dataset {dataset} --output DIR` where it is and "
            f"pass DIR. Received: data_dir={data_dir}"
        ) from error
    tf = import_tensorflow()
    builder = tfds.builder(dataset, data_dir=data_dir)
    if not builder.is_prepared():
        if archive_dir:
            _prepare_tfds(builder, dataset, pathlib.Path(archive_dir))
        else:
            _download_tfds(builder, dataset)
    try:
        examples = builder.as_dataset(split=split, as_supervised=True)
        images, labels = zip(*examples.batch(1024).as_numpy_iterator(), strict=True)
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise ValueError(
            f"`split` of `dataset` {dataset} cannot be read: {getattr(error, 'message', error)}. "
            f"Received: split={split} in data_dir={builder.data_dir}"
        ) from error
    return np.concatenate(images), np.concatenate(labels)


def _download_tfds(builder: Any, dataset: str) -> None:
    import requests

    try:
        # without a network TFDS would try for minutes: see whether one host answers at all
        for url in list(builder.url_infos or ())[:1]:
            requests.head(url, timeout=10)
        builder.download_and_prepare()
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 120)
        raise ValueError(
            f"`dataset` {dataset} is neither prepared in `data_dir` nor can it be downloaded: run "
            f"`tfds build {dataset} --data_dir DIR` where there is a network and pass "
            f"--data_dir DIR, or --archive_dir with its archives ({reason}). "
            f"Received: data_dir={builder.data_dir_root}"
        ) from error


def _prepare_tfds(builder: Any, dataset: str, archive_dir: pathlib.Path) -> None:
    """Check the original archives of a data set and prepare it from them, without a network."""
    import tensorflow_datasets as tfds

    registered = {info.filename: info for info in builder.url_infos.values()}
    for name in ARCHIVES[dataset]:
        path, original = archive_dir / name, registered[name]
        if not path.is_file():
            raise ValueError(
                f"`archive_dir` must have the file {name}. Received: archive_dir={archive_dir}"
            )
        if (checksum := arrays.sha256_of(path)) != original.checksum:
            raise ValueError(
                f"`archive_dir` must have the original {name}, of {original.size:,} bytes and "
                f"SHA-256 {original.checksum}. Received: {path} of {path.stat().st_size:,} bytes "
                f"and SHA-256 {checksum}"
            )
    root = pathlib.Path(builder.data_dir_root)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extracted-", dir=root) as extracted:
        config = tfds.download.DownloadConfig(
            manual_dir=archive_dir, extract_dir=extracted, try_download_gcs=False
        )
        builder.download_and_prepare(download_dir=extracted, download_config=config)
