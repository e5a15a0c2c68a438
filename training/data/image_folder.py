"""A user's own images in a folder for each class.

DATA_DIR/cat/1.jpg  DATA_DIR/dog/1.png                         every fifth image is for testing
DATA_DIR/train/cat/1.jpg  DATA_DIR/test/cat/2.jpg              or as the user has split them
"""

import concurrent.futures
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from keras_multiception.images import decode
from keras_multiception.preprocessing import Dataset
from training.data import splits
from training.data.arrays import Examples, Path

if TYPE_CHECKING:
    import PIL.Image

TEST_NAMES = ("test", "val", "validation")
TEST_EVERY = 5


def load(split: str, data_dir: Path | None, image_size: int) -> Examples:
    """Read a split of `data_dir`, its images resized, whatever their proportions.

    With a folder `train` and one or more of `TEST_NAMES` in it, these are the splits; otherwise
    `test` is every fifth file of each class, by name. The order within a split is mixed, and
    always the same for the same files.
    """
    if image_size < 1:
        raise ValueError(
            "`image_size` must be given for a folder of images: the height and width in pixels to "
            f"resize them to. Received: image_size={image_size}"
        )
    files = _files(data_dir)
    parts = splits.select(split, {name: len(examples) for name, examples in files.items()})
    examples = [example for name, part in parts for example in files[name][part]]
    labels = np.array([label for _, label in examples], "int64")
    versions = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path, _ in examples)
    return _decode(versions, image_size), labels


def spec(data_dir: Path | None, image_size: int) -> Dataset:
    """Measure mean and standard deviation of the training images, and name the classes."""
    pixels, _ = load("train", data_dir, image_size)
    # exactly, for pixels scaled to 0..1
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
    shares, values = np.array(counts) / pixels[..., 0].size, np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return Dataset(
        mean=tuple(mean.round(6).tolist()),
        std=tuple(std.round(6).tolist()),
        image_shape=(image_size, image_size, 3),
        class_names=class_names(data_dir),
    )


def class_names(data_dir: Path | None) -> tuple[str, ...]:
    """Return the names of the class folders, in the order of their labels."""
    return _class_names(_split_folders(_root(data_dir))["train"])


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 images of shape (images, height, width, 3)."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([_resize(image, size) for image in images])


def _resize(pixels: np.ndarray, size: int) -> "PIL.Image.Image":
    import PIL.Image

    image = PIL.Image.fromarray(pixels)
    return image.resize((size, size), PIL.Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=1)
def _decode(versions: tuple[tuple[pathlib.Path, int, int], ...], size: int) -> np.ndarray:
    """Decode files and keep the last ones: `spec` and `load` both read the training images."""
    images = np.empty((len(versions), size, size, 3), "uint8")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda version: _resize(decode(version[0]), size), versions)
        for i, image in enumerate(decoded):
            images[i] = image
    return images


def _files(data_dir: Path | None) -> dict[str, list[tuple[pathlib.Path, int]]]:
    """Return the (path, label) of every split, in a fixed order in which the classes mix."""
    folders = _split_folders(_root(data_dir))
    names = _class_names(folders["train"])
    for folder in folders.values():
        for odd in sorted(set(names) ^ set(_class_names(folder))):
            raise ValueError(
                f"`data_dir` must have the same classes in every split, and {odd} is not in both "
                f"{folders['train'].name} and {folder.name}. Received: data_dir={data_dir}"
            )
    files = {
        split: [sorted(_visible(folder / name)) for name in names]
        for split, folder in folders.items()
    }
    if len(folders) == 1:
        classes = files["train"]
        files = {
            "train": [[p for i, p in enumerate(paths) if i % TEST_EVERY] for paths in classes],
            "test": [paths[::TEST_EVERY] for paths in classes],
        }
    mixed = {}
    for split, classes in files.items():
        for name, paths in zip(names, classes, strict=True):
            if not paths:
                raise ValueError(
                    "`data_dir` must have images of every class, at least two where it has no "
                    f"folder of test images. Received: no {split} images in folder={name}"
                )
        examples = [(path, label) for label, paths in enumerate(classes) for path in paths]
        order = np.random.default_rng(0).permutation(len(examples))
        mixed[split] = [examples[i] for i in order]
    return mixed


def _split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the folder of each split; all of it is `train` where the user has not split it."""
    found = {name: root / name for name in ("train", *TEST_NAMES) if (root / name).is_dir()}
    return found if len(found) > 1 and "train" in found else {"train": root}


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
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


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _root(data_dir: Path | None) -> pathlib.Path:
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise ValueError(
            "`data_dir` must be a folder with a folder of images for each class. "
            f"Received: data_dir={data_dir}"
        )
    return pathlib.Path(data_dir)
