"""A user's own images in a folder for each class.

DATA_DIR/cat/1.jpg  DATA_DIR/dog/1.png                         every fifth image is for testing
DATA_DIR/train/cat/1.jpg  DATA_DIR/test/cat/2.jpg              or as the user has split them
"""

import functools
import pathlib

import numpy as np

import keras_multiception as km
from training.readers import images, splits

TEST_NAMES = ("test", "val", "validation")
TEST_EVERY = 5


def load(split, data_dir, image_size):
    """Read a split.

    Args:
        split: String in the notation of TensorFlow Datasets.
        data_dir: Path of the folder. With a folder `train` and one or more of `TEST_NAMES` in it,
            these are the splits; otherwise `test` is every fifth file of each class, by name.
            The order within a split is mixed, and always the same for the same files.
        image_size: Integer, height and width in pixels to resize the images to.

    Returns:
        Images, uint8 of shape (examples, image_size, image_size, 3), and labels, int64.

    Raises:
        ValueError: If the folder is not of that form or a file is no image.
    """
    _require_size(image_size)
    files = _files(data_dir)
    parts = splits.select(split, {name: len(examples) for name, examples in files.items()})
    examples = [example for name, part in parts for example in files[name][part]]
    labels = np.array([label for _, label in examples], "int64")
    versions = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path, _ in examples)
    return _decode(versions, image_size), labels


def facts(data_dir, image_size):
    """Measure the mean and standard deviation of the training images and name the classes.

    Args:
        data_dir: As in `load`.
        image_size: As in `load`.

    Returns:
        A `keras_multiception.preprocessing.Dataset`.

    Raises:
        ValueError: As `load` does, or if a channel has the same value everywhere.
    """
    pixels, _ = load("train", data_dir, image_size)
    mean, std = _statistics(pixels)
    if not all(std):
        raise ValueError(
            "`data_dir` must hold training images whose red, green and blue each vary. "
            f"Received: data_dir={data_dir}"
        )
    return km.preprocessing.Dataset(
        mean=mean,
        std=std,
        image_shape=(image_size, image_size, 3),
        class_names=class_names(data_dir),
    )


def class_names(data_dir):
    """Return the names of the classes, those of the folders, in the order of their labels."""
    return _class_names(_split_folders(_root(data_dir))["train"])


@functools.lru_cache(maxsize=1)
def _decode(versions, size):
    """Decode files and keep the last ones: `facts` and `load` both read those for training."""
    return images.read_all([path for path, *_ in versions], size)


def _statistics(pixels):
    """Return mean and standard deviation of each channel, exactly, for pixels scaled to 0..1."""
    values = np.arange(256) / 255
    shares = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
    means = [np.average(values, weights=share) for share in shares]
    stds = [
        np.sqrt(np.average((values - mean) ** 2, weights=share))
        for mean, share in zip(means, shares, strict=True)
    ]
    return tuple(round(float(m), 6) for m in means), tuple(round(float(s), 6) for s in stds)


def _files(data_dir):
    """Return a dictionary from the name of each split to its (path, label), in a fixed order."""
    folders = _split_folders(_root(data_dir))
    names = _class_names(folders["train"])
    for folder in folders.values():
        for odd in sorted(set(names) ^ set(_class_names(folder))):
            raise ValueError(
                f"`data_dir` must have the same classes in every split, and {odd} is not in both "
                f"{folders['train'].name} and {folder.name}. Received: data_dir={data_dir}"
            )
    files = {
        split: [_class_files(folder / name) for name in names] for split, folder in folders.items()
    }
    if len(folders) == 1:
        classes = files["train"]
        files = {
            "train": [[p for i, p in enumerate(paths) if i % TEST_EVERY] for paths in classes],
            "test": [paths[::TEST_EVERY] for paths in classes],
        }
        for name, paths in zip(names, files["train"], strict=True):
            if not paths:
                raise ValueError(
                    "`data_dir` must have at least two images of each class, one of them for "
                    f"testing. Received: folder={folders['train'] / name}"
                )
    return {
        split: _mixed([(path, label) for label, paths in enumerate(classes) for path in paths])
        for split, classes in files.items()
    }


def _mixed(examples):
    """Return examples in an order in which the classes mix, so that slices have all of them."""
    return [examples[i] for i in np.random.default_rng(0).permutation(len(examples))]


def _split_folders(root):
    """Return a dictionary from split to folder; the whole is `train` where there are no splits."""
    found = {name: root / name for name in ("train", *TEST_NAMES) if (root / name).is_dir()}
    return found if len(found) > 1 and "train" in found else {"train": root}


def _class_names(folder):
    names = tuple(sorted(path.name for path in _visible(folder) if path.is_dir()))
    for name in names:
        # an exported model names its classes in UTF-8, a line each
        if name.encode(errors="replace").decode().splitlines() != [name]:
            raise ValueError(
                "`data_dir` must have folders of classes whose names are a line of UTF-8. "
                f"Received: folder={str(folder / name)!r}"
            )
    if len(names) < 2:
        raise ValueError(
            "`data_dir` must have a folder of images for each of two or more classes. "
            f"Received: folder={folder} with {', '.join(names) or 'none'}"
        )
    return names


def _class_files(folder):
    paths = sorted(_visible(folder))
    if not paths:
        raise ValueError(f"`data_dir` must have images of every class. Received: folder={folder}")
    for path in paths:
        if path.is_dir():
            raise ValueError(
                f"`data_dir` must have no folder within a class. Received: folder={path}"
            )
    return paths


def _visible(folder):
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _root(data_dir):
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise ValueError(
            "`data_dir` must be a folder with a folder of images for each class. "
            f"Received: data_dir={data_dir}"
        )
    return pathlib.Path(data_dir)


def _require_size(image_size):
    if image_size < 1:
        raise ValueError(
            "`image_size` must be given for a folder of images: the height and width in pixels to "
            f"resize them to. Received: image_size={image_size}"
        )
