"""Data sets as NumPy files, which need nothing but NumPy to be read.

<data_dir>/<data set>/arrays.json   what is known of the data set; size and SHA-256 by split
<data_dir>/<data set>/train.npz     `images`, uint8, and `labels`, int64
"""

import hashlib
import json
import pathlib
import zipfile

import numpy as np

import keras_multiception as km
from keras_multiception.atomic import replacing
from training.readers import splits


def exist(dataset, data_dir):
    """Return whether a directory has a data set as arrays."""
    return data_dir is not None and (pathlib.Path(data_dir) / dataset / "arrays.json").is_file()


def write(dataset, data_dir, facts, contents):
    """Write a data set: all of it or nothing.

    Args:
        dataset: String, its name.
        data_dir: Path of the directory to write it in.
        facts: A `keras_multiception.preprocessing.Dataset`.
        contents: Iterable of (name of a split, images, labels); only one is held at a time.

    Returns:
        The `pathlib.Path` of the folder.

    Raises:
        ValueError: If the directory has the data set already.
    """
    folder = pathlib.Path(data_dir) / dataset
    if folder.exists():
        raise ValueError(f"`output` must not have {dataset} already. Received: {folder}")
    with replacing(folder) as temporary:
        temporary.mkdir()
        index = {}
        for name, images, labels in contents:
            path = temporary / f"{name}.npz"
            np.savez(path, images=images, labels=labels)
            index[name] = {"examples": len(images), "sha256": _sha256(path)}
        known = {**facts.to_dict(), "splits": index}
        (temporary / "arrays.json").write_text(json.dumps(known, indent=2) + "\n")
    return folder


def load(dataset, split, data_dir):
    """Read a split.

    Args:
        dataset: String, the name of the data set.
        split: String in the notation of TensorFlow Datasets.
        data_dir: Path of the directory, as `write` filled it.

    Returns:
        Images, uint8 of shape (examples, height, width, 3), and labels, int64.

    Raises:
        ValueError: If the split is unknown or a file is not as it was written.
    """
    _, sizes, checksums = _index(dataset, data_dir)
    pieces = []
    for name, part in splits.select(split, sizes):
        images, labels = _read(pathlib.Path(data_dir) / dataset / f"{name}.npz", checksums[name])
        pieces.append((images[part], labels[part]))
    if len(pieces) == 1:
        return pieces[0]
    images, labels = zip(*pieces, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def facts(dataset, data_dir):
    """Return the `keras_multiception.preprocessing.Dataset` that was written with the arrays."""
    return _index(dataset, data_dir)[0]


def _index(dataset, data_dir):
    """Read arrays.json: what is known of the data set, and sizes and SHA-256 by split."""
    path = pathlib.Path(data_dir) / dataset / "arrays.json"
    try:
        index = json.loads(path.read_text())
        known = km.preprocessing.Dataset.from_dict(index)
        sizes, checksums = (
            {name: entry[key] for name, entry in index["splits"].items()}
            for key in ("examples", "sha256")
        )
        return known, sizes, checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`data_dir` has a file that cannot be read ({error!r}). Received: {path}"
        ) from error


def _read(path, sha256):
    try:
        if _sha256(path) == sha256:
            with np.load(path) as file:
                return file["images"], file["labels"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`data_dir` has a file that cannot be read ({error}). Received: {path}"
        ) from error
    raise ValueError(
        f"`data_dir` must have arrays as they were written, of SHA-256 {sha256}; copy or write "
        f"them again. Received: {path}"
    )


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
