"""Images in memory to batches for the model, by `tf.data` or, without TensorFlow, by NumPy."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_multiception.machine import import_tensorflow
from keras_multiception.preprocessing import Dataset, get_dataset, preprocess_input
from training.data.augmentation import Augmentation, Mixing, draw, order

_PREFETCH = 4


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

    Each epoch drops what does not fill a batch. All that is random follows from seed, epoch and
    step; `augmentation` has the fields of `Augmentation`.

    Returns:
        A `tf.data.Dataset`, or a `keras.utils.PyDataset` where TensorFlow is not installed, of
        (normalized float32 images, labels). The labels are integers, or, where images are
        mixed, float32 of shape (batch, classes).
    """
    require_batch(len(images), batch_size)
    arguments: dict[str, Any] = {
        "spec": get_dataset(dataset),
        "batch_size": batch_size,
        "epochs": range(first_epoch, epochs),
        "seed": seed,
        "augmentation": Augmentation(**augmentation),
    }
    if import_tensorflow():
        from training.data import batches_tensorflow

        return batches_tensorflow.training_batches(images, labels, **arguments)
    return numpy_training_batches(images, labels, **arguments)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, *, dataset: str | Dataset, batch_size: int
) -> Any:
    """Make batches of all images in their order, normalized and not augmented."""
    spec = get_dataset(dataset)
    if import_tensorflow():
        from training.data import batches_tensorflow

        return batches_tensorflow.evaluation_batches(images, labels, spec, batch_size)
    return numpy_evaluation_batches(images, labels, spec, batch_size)


def require_batch(examples: int, batch_size: int) -> None:
    """Raise a `ValueError` if there are fewer training images than one batch takes."""
    if examples < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )


class NumpyBatches(keras.utils.PyDataset):
    """Batches by their number, each made by a function of it, some of them ahead of time."""

    def __init__(self, make: Callable[[int], tuple[np.ndarray, ...]], length: int) -> None:
        super().__init__()
        self._make, self._length = make, length
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead: dict[int, concurrent.futures.Future] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        wanted = range(index, min(index + 1 + _PREFETCH, self._length))
        self._ahead = {i: self._ahead.get(i) or self._pool.submit(self._make, i) for i in wanted}
        return self._ahead.pop(index).result()

    def rebatch(self, batch_size: int, drop_remainder: bool) -> "NumpyBatches":
        """Divide each batch, as `tf.data.Dataset.rebatch` does where nothing remains."""
        whole = functools.lru_cache(maxsize=2)(self._make)
        parts = len(self._make(0)[1]) // batch_size

        def make(index: int) -> tuple[np.ndarray, ...]:
            rows = slice(index % parts * batch_size, (index % parts + 1) * batch_size)
            return tuple(array[rows] for array in whole(index // parts))

        return NumpyBatches(make, self._length * parts)


def numpy_training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    spec: Dataset,
    batch_size: int,
    epochs: range,
    seed: int,
    augmentation: Augmentation,
) -> NumpyBatches:
    """Make augmented batches of all epochs, as `training_batches` does."""
    steps = len(images) // batch_size
    shape = (batch_size, *images.shape[1:3])
    mixing = Mixing(augmentation, keras.backend.backend())
    one_hot = np.eye(len(spec.class_names), dtype="float32")
    order_of = functools.lru_cache(maxsize=2)(lambda epoch: order(seed, epoch, len(images)))

    def make(index: int) -> tuple[np.ndarray, ...]:
        epoch, step = epochs[index // steps], index % steps
        rows = order_of(epoch)[step * batch_size : (step + 1) * batch_size]
        pixels, targets = images[rows], labels[rows]
        if augmentation == Augmentation():
            return _normalize(pixels, spec), targets
        draws = draw(seed, epoch, step, shape, augmentation)
        pixels = crop_and_flip(pixels, draws.offsets, draws.flips, augmentation.pad_and_crop)
        pixels = _normalize(pixels, spec)
        if not mixing:
            return pixels, targets
        with keras.device("cpu:0"):
            mixed = mixing(pixels, one_hot[targets], draws)
            return tuple(keras.ops.convert_to_numpy(tensor) for tensor in mixed)

    return NumpyBatches(make, len(epochs) * steps)


def numpy_evaluation_batches(
    images: np.ndarray, labels: np.ndarray, spec: Dataset, batch_size: int
) -> NumpyBatches:
    """Make batches of all images in their order, as `evaluation_batches` does."""

    def make(index: int) -> tuple[np.ndarray, ...]:
        rows = slice(index * batch_size, (index + 1) * batch_size)
        return _normalize(images[rows], spec), labels[rows]

    return NumpyBatches(make, -(-len(images) // batch_size))


def crop_and_flip(
    images: np.ndarray, offsets: np.ndarray, flips: np.ndarray, pad: int
) -> np.ndarray:
    """Pad images with zeros, cut their own size out of them and mirror some of the cuts."""
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    result = np.empty_like(images)
    # views of each image are copied faster than all are gathered by index
    for i, ((top, left), flip) in enumerate(zip(offsets, flips, strict=True)):
        crop = padded[i, top : top + height, left : left + width]
        result[i] = crop[:, ::-1] if flip else crop
    return result


def _normalize(pixels: np.ndarray, spec: Dataset) -> np.ndarray:
    """Normalize whole rows of pixels at once, which is faster than pixel by pixel."""
    batch, height, width, channels = pixels.shape
    row_spec = dataclasses.replace(spec, mean=spec.mean * width, std=spec.std * width)
    rows = pixels.reshape(batch, height, width * channels)
    return preprocess_input(rows, row_spec).reshape(pixels.shape)
