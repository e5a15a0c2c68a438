"""Read a data set of TensorFlow Datasets; prepare it from a download or its original archives."""

import hashlib
import pathlib
import tempfile
import textwrap
from typing import Any

import numpy as np

from keras_multiception.machine import import_tensorflow
from training.data import splits
from training.data.arrays import Examples, Path

ARCHIVES = {
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar100": ("cifar-100-binary.tar.gz",),
    "stl10": ("stl10_binary.tar.gz",),
    "imagenet_resized/32x32": ("Imagenet32_train_npz.zip", "Imagenet32_val_npz.zip"),
}
_BATCH_SIZE = 1024


def load(
    dataset: str,
    split: str,
    data_dir: Path | None,
    archive_dir: Path | None,
) -> Examples:
    """Read images and labels of a split; arguments as of `training.data.load`."""
    tfds = _import_tfds(dataset, data_dir)
    tf = import_tensorflow()
    builder = tfds.builder(dataset, data_dir=data_dir)
    if not builder.is_prepared():
        if archive_dir:
            _prepare(builder, dataset, pathlib.Path(archive_dir))
        else:
            _download(builder, dataset)
    try:
        examples = builder.as_dataset(split=split, as_supervised=True)
        batches = list(examples.batch(_BATCH_SIZE).as_numpy_iterator())
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise _error(error, builder, dataset, split) from error
    columns = zip(*batches, strict=True) if batches else ((), ())
    images, labels = (
        np.concatenate([np.empty((0, *spec.shape), spec.dtype.as_numpy_dtype), *column])
        for spec, column in zip(examples.element_spec, columns, strict=True)
    )
    return images, labels


def _error(error: Exception, builder: Any, dataset: str, split: str) -> ValueError:
    """Return why nothing could be read: because of the split, or of the data."""
    try:
        sizes = [builder.info.splits[part.strip()].num_examples for part in split.split("+")]
    except ValueError:
        return splits.error(split, builder.info.splits)
    if min(sizes) < 1:
        return ValueError(f"`split` must not be empty. Received: split={split}")
    return ValueError(
        f"`dataset` {dataset} cannot be read: {getattr(error, 'message', error)}. "
        f"Received: data_dir={builder.data_dir}"
    )


def _import_tfds(dataset: str, data_dir: Path | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"`dataset` {dataset} needs TensorFlow Datasets, which is not installed here: run "
            f"`python -m training.write_arrays --dataset {dataset} --output DIR` where it is and "
            f"pass DIR. Received: data_dir={data_dir}"
        ) from error
    return tfds


def _download(builder: Any, dataset: str) -> None:
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
            f"`tfds build {dataset} --data_dir DIR` where there is a network and pass DIR, or "
            f"pass its archives as `archive_dir` ({reason}). "
            f"Received: data_dir={builder.data_dir_root}"
        ) from error


def _prepare(builder: Any, dataset: str, archive_dir: pathlib.Path) -> None:
    """Check the original archives of a data set and prepare it from them, without a network."""
    import tensorflow_datasets as tfds

    registered = {info.filename: info for info in builder.url_infos.values()}
    for name in ARCHIVES[dataset]:
        _check_archive(archive_dir / name, registered[name])
    root = pathlib.Path(builder.data_dir_root)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extracted-", dir=root) as extracted:
        config = tfds.download.DownloadConfig(
            manual_dir=archive_dir, extract_dir=extracted, try_download_gcs=False
        )
        builder.download_and_prepare(download_dir=extracted, download_config=config)


def _check_archive(path: pathlib.Path, registered: Any) -> None:
    if not path.is_file():
        raise ValueError(
            f"`archive_dir` must have the file {path.name}. Received: archive_dir={path.parent}"
        )
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != registered.checksum:
        raise ValueError(
            f"`archive_dir` must have the original {path.name}, of {registered.size:,} bytes and "
            f"SHA-256 {registered.checksum}. Received: {path} of {path.stat().st_size:,} bytes and "
            f"SHA-256 {checksum}"
        )
