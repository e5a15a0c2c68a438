"""Prepare a data set of TensorFlow Datasets from its original archives, without a network."""

import hashlib
import pathlib
import tempfile

ARCHIVES = {
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar100": ("cifar-100-binary.tar.gz",),
    "stl10": ("stl10_binary.tar.gz",),
    "imagenet_resized/32x32": ("Imagenet32_train_npz.zip", "Imagenet32_val_npz.zip"),
}


def prepare(builder, dataset, archive_dir):
    """Check archives and let TensorFlow Datasets read them.

    Args:
        builder: The `tfds.core.DatasetBuilder` of the data set.
        dataset: String, a key of `ARCHIVES`.
        archive_dir: Path of the folder that holds the files of `ARCHIVES`, as they are offered
            for download.

    Raises:
        ValueError: If a file is missing, or its size or SHA-256 is not what TensorFlow Datasets
            has registered.
    """
    import tensorflow_datasets as tfds

    registered = {info.filename: info for info in builder.url_infos.values()}
    for name in ARCHIVES[dataset]:
        _check(pathlib.Path(archive_dir) / name, registered[name])
    root = pathlib.Path(builder.data_dir_root)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extracted-", dir=root) as extracted:
        config = tfds.download.DownloadConfig(
            manual_dir=archive_dir, extract_dir=extracted, try_download_gcs=False
        )
        builder.download_and_prepare(download_dir=extracted, download_config=config)


def _check(path, registered):
    if not path.is_file():
        raise ValueError(
            f"`archive_dir` must have the file {path.name}. Received: archive_dir={path.parent}"
        )
    size = path.stat().st_size
    if size != registered.size:
        raise ValueError(
            f"`archive_dir` must have the original {path.name}, of {registered.size:,} bytes; is "
            f"this one whole? Received: {path} of {size:,} bytes"
        )
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != registered.checksum:
        raise ValueError(
            f"`archive_dir` must have the original {path.name}, of SHA-256 {registered.checksum}. "
            f"Received: {path} of SHA-256 {checksum}"
        )
