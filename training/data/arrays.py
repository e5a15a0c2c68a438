"""Data sets as NumPy files, which need nothing but NumPy to be read.

<data_dir>/<data set>/arrays.json   the `Dataset`; size and SHA-256 of each split
<data_dir>/<data set>/train.npz     `images`, uint8, and `labels`, int64
"""

import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np

from keras_multiception.atomic import replacing
from keras_multiception.preprocessing import Dataset
from training.data import splits

Path = str | os.PathLike[str]
Examples = tuple[np.ndarray, np.ndarray]  # images, uint8, and labels, int64


def exist(dataset: str, data_dir: Path) -> bool:
    """Return whether a directory has a data set as arrays."""
    return (pathlib.Path(data_dir) / dataset / "arrays.json").is_file()


def write(
    dataset: str,
    data_dir: Path,
    spec: Dataset,
    contents: Iterable[tuple[str, np.ndarray, np.ndarray]],
) -> pathlib.Path:
    """Write a data set, all of it or nothing, from (name of a split, images, labels)."""
    folder = pathlib.Path(data_dir) / dataset
    if folder.exists():
        raise ValueError(f"`output` must not have {dataset} already. Received: {folder}")
    with replacing(folder) as temporary:
        temporary.mkdir()
        index = {}
        for name, images, labels in contents:
            path = temporary / f"{name}.npz"
            np.savez(path, images=images, labels=labels)
            index[name] = {"examples": len(images), "sha256": sha256_of(path)}
        known = {**spec.to_dict(), "splits": index}
        (temporary / "arrays.json").write_text(json.dumps(known, indent=2) + "\n")
    return folder


def load(dataset: str, split: str, data_dir: Path) -> Examples:
    """Read images and labels of a split, if its files are as they were written."""
    _, sizes, checksums = _read_index(dataset, data_dir)
    images, labels = [], []
    for name, part in splits.select(split, sizes):
        whole = _read(pathlib.Path(data_dir) / dataset / f"{name}.npz", checksums[name])
        images.append(whole[0][part])
        labels.append(whole[1][part])
    return np.concatenate(images), np.concatenate(labels)


def spec(dataset: str, data_dir: Path) -> Dataset:
    """Return the `Dataset` that was written with the arrays."""
    return _read_index(dataset, data_dir)[0]


def _read_index(dataset: str, data_dir: Path) -> tuple[Dataset, dict[str, int], dict[str, str]]:
    """Return the `Dataset`, and size and SHA-256 by split."""
    path = pathlib.Path(data_dir) / dataset / "arrays.json"
    try:
        index = json.loads(path.read_text())
        entries = index["splits"].items()
        sizes = {name: entry["examples"] for name, entry in entries}
        checksums = {name: entry["sha256"] for name, entry in entries}
        return Dataset.from_dict(index), sizes, checksums
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`data_dir` has a file that cannot be read ({error!r}). Received: {path}"
        ) from error


def _read(path: pathlib.Path, sha256: str) -> Examples:
    try:
        if sha256_of(path) != sha256:
            raise ValueError(f"it is not as it was written, of SHA-256 {sha256}")
        with np.load(path) as file:
            return file["images"], file["labels"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`data_dir` has a file that cannot be read ({error}). Received: {path}"
        ) from error


def sha256_of(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
