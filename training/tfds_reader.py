"""Read, and if need be download, a data set of TensorFlow Datasets."""

import textwrap

from training import splits


def load(dataset, split, data_dir):
    """Read a split into memory.

    Args:
        dataset: String, the name in TensorFlow Datasets.
        split: String in the notation of TensorFlow Datasets.
        data_dir: Directory of prepared data sets; `None` for the user's default one.

    Returns:
        Images, uint8 of shape (examples, height, width, 3), and labels, int64.

    Raises:
        ValueError: If the split is unknown, or the data set cannot be had or read.
    """
    tfds = _import_tfds(dataset, data_dir)
    import tensorflow as tf

    builder = tfds.builder(dataset, data_dir=data_dir)
    if not builder.is_prepared():
        _download(builder, dataset)
    try:
        whole = builder.as_dataset(split, batch_size=-1, as_supervised=True)
    except (ValueError, AssertionError) as error:
        raise splits.error(split, builder.info.splits) from error
    except tf.errors.OpError as error:
        raise ValueError(
            f"`dataset` {dataset} cannot be read: {error.message}. "
            f"Received: data_dir={builder.data_dir}"
        ) from error
    images, labels = tfds.as_numpy(whole)
    return images, labels


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
            f"`tfds build {dataset} --data_dir DIR` where there is a network and pass DIR "
            f"({reason}). Received: data_dir={builder.data_dir_root}"
        ) from error
