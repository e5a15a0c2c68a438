"""Batches by NumPy, for machines without TensorFlow: the same ones as those of `tf.data`."""

import concurrent.futures
import dataclasses
import functools

import keras
import numpy as np

import keras_multiception as km
from training.pipeline.augmentation import Augmentation, draw, order
from training.pipeline.mixing import Mixing

PREFETCH = 4


class Batches(keras.utils.PyDataset):
    """Batches by their number, each made by a function of it, some of them ahead of time.

    Args:
        make: Function from an integer to a batch.
        length: Integer, how many there are.
    """

    def __init__(self, make, length):
        super().__init__()
        self._make, self._length = make, length
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead: dict[int, concurrent.futures.Future] = {}

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(index)
        wanted = range(index, min(index + 1 + PREFETCH, self._length))
        self._ahead = {i: self._ahead.get(i) or self._pool.submit(self._make, i) for i in wanted}
        return self._ahead.pop(index).result()

    def rebatch(self, batch_size, drop_remainder):
        """Divide each batch into ones of `batch_size`, as `tf.data.Dataset.rebatch` does.

        Args:
            batch_size: Integer that divides the size of every batch.
            drop_remainder: Boolean, of no consequence: nothing remains.

        Returns:
            A `Batches`.
        """
        whole = functools.lru_cache(maxsize=2)(self._make)
        parts = len(self._make(0)[1]) // batch_size

        def make(index):
            rows = slice(index % parts * batch_size, (index % parts + 1) * batch_size)
            return tuple(array[rows] for array in whole(index // parts))

        return Batches(make, self._length * parts)


def training_batches(images, labels, *, facts, batch_size, epochs, seed, augmentation):
    """Make augmented batches, as `training.pipeline.batches.training_batches` does.

    Args:
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        facts: A `keras_multiception.preprocessing.Dataset`.
        batch_size: Integer.
        epochs: `range` of epochs.
        seed: Integer.
        augmentation: A `training.pipeline.augmentation.Augmentation`.

    Returns:
        A `keras.utils.PyDataset` of (images, labels) for all the epochs together.
    """
    steps = len(images) // batch_size
    shape = (batch_size, *images.shape[1:3])
    mixing = Mixing(augmentation, keras.backend.backend())
    one_hot = np.eye(len(facts.class_names), dtype="float32")
    order_of = functools.lru_cache(maxsize=2)(lambda epoch: order(seed, epoch, len(images)))

    def make(index):
        epoch, step = epochs[index // steps], index % steps
        rows = order_of(epoch)[step * batch_size : (step + 1) * batch_size]
        pixels, targets = images[rows], labels[rows]
        if augmentation == Augmentation():
            return _normalize(pixels, facts), targets
        draws = draw(seed, epoch, step, shape, augmentation)
        pixels = crop_and_flip(pixels, draws.offsets, draws.flips, augmentation.pad_and_crop)
        pixels = _normalize(pixels, facts)
        if not mixing:
            return pixels, targets
        with keras.device("cpu:0"):
            mixed = mixing(pixels, one_hot[targets], draws)
            return tuple(keras.ops.convert_to_numpy(tensor) for tensor in mixed)

    return Batches(make, len(epochs) * steps)


def evaluation_batches(images, labels, facts, batch_size):
    """Make batches of all images in their order, as `batches.evaluation_batches` does."""

    def make(index):
        rows = slice(index * batch_size, (index + 1) * batch_size)
        return _normalize(images[rows], facts), labels[rows]

    return Batches(make, -(-len(images) // batch_size))


def crop_and_flip(images, offsets, flips, pad):
    """Pad images with zeros, cut their own size out of them and mirror some of the cuts.

    Args:
        images: Array of shape (batch, height, width, channels).
        offsets: Array of shape (batch, 2): row and column of the padded image at which each crop
            begins.
        flips: Boolean array of shape (batch,): which crops to mirror.
        pad: Integer, pixels of zeros on each side.

    Returns:
        An array of the shape and type of `images`.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    result = np.empty_like(images)
    # views of each image are copied faster than all are gathered by index
    for i, ((top, left), flip) in enumerate(zip(offsets, flips, strict=True)):
        crop = padded[i, top : top + height, left : left + width]
        result[i] = crop[:, ::-1] if flip else crop
    return result


def _normalize(pixels, facts):
    """Normalize whole rows of pixels at once, which is faster than pixel by pixel."""
    batch, height, width, channels = pixels.shape
    rows_facts = dataclasses.replace(facts, mean=facts.mean * width, std=facts.std * width)
    rows = pixels.reshape(batch, height, width * channels)
    return km.preprocessing.preprocess_input(rows, rows_facts).reshape(pixels.shape)
