"""Read, and if need be download, a data set of TensorFlow Datasets."""

import textwrap

import numpy as np

from keras_multiception.machine import import_tensorflow
from training.readers import archives, splits

BATCH_SIZE = 1024


def load(dataset, split, data_dir, archive_dir):
    """Read a split into memory.

    Args:
        dataset: String, the name in TensorFlow Datasets.
        split: String in the notation of TensorFlow Datasets.
        data_dir: Directory of prepared data sets; `None` for the user's default one.
        archive_dir: Directory of the original archives to prepare it from, or `None` to download
            them.

    Returns:
        Images, uint8 of shape (examples, height, width, 3), and labels, int64.

    Raises:
        ValueError: If the split is unknown, or the data set cannot be had or read.
    """
    tfds = _import_tfds(dataset, data_dir)
    tf = import_tensorflow()
    builder = tfds.builder(dataset, data_dir=data_dir)
    if not builder.is_prepared():
        if archive_dir:
            archives.prepare(builder, dataset, archive_dir)
        else:
            _download(builder, dataset)
    try:
        examples = builder.as_dataset(split=split, as_supervised=True)
        batches = list(examples.batch(BATCH_SIZE).as_numpy_iterator())
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise _error(error, builder, dataset, split) from error
    columns = zip(*batches, strict=True) if batches else ((), ())
    images, labels = (
        np.concatenate([np.empty((0, *spec.shape), spec.dtype.as_numpy_dtype), *column])
        for spec, column in zip(examples.element_spec, columns, strict=True)
    )
    return images, labels


def _error(error, builder, dataset, split):
    """Return the `ValueError` of what could not be read: of the split, if that is why."""
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


def _import_tfds(dataset, data_dir):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"`dataset` {dataset} needs TensorFlow Datasets, which is not installed here: run "
            f"`python -m training.write_arrays --dataset {dataset} --output DIR` where it is and "
            f"pass DIR. Received: data_dir={data_dir}"
        ) from error
    return tfds


def _download(builder, dataset):
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
