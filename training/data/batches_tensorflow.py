"""Batches by `tf.data`: what NumPy draws is applied to whole batches, on every core."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_multiception.machine import count_cores
from keras_multiception.preprocessing import Dataset
from training.data.batches import Augmentation, Draws, Mixing, draw, normalize, order


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    spec: Dataset,
    batch_size: int,
    epochs: range,
    seed: int,
    augmentation: Augmentation,
) -> tf.data.Dataset:
    """Make augmented batches, as `training.data.training_batches` does."""
    examples, steps = len(images), len(images) // batch_size
    shape = (batch_size, *images.shape[1:3])
    mixing = Mixing(augmentation, "tensorflow")
    with tf.device("CPU"):
        images, labels = tf.constant(images), tf.constant(labels)

    def epoch_steps(epoch: tf.Tensor) -> tf.data.Dataset:
        drawn = tf.numpy_function(
            lambda epoch: order(seed, epoch, examples), [epoch], tf.int64, stateful=False
        )
        rows = tf.reshape(drawn[: steps * batch_size], [steps, batch_size])
        step = tf.range(steps, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps], epoch), step, rows))

    def batch(epoch: tf.Tensor, step: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, targets = tf.gather(images, rows), tf.gather(labels, rows)
        if augmentation == Augmentation():
            return _normalize(pixels, spec), targets
        draws = _draw(seed, epoch, step, shape, augmentation)
        pixels = crop_and_flip(pixels, draws.offsets, draws.flips, augmentation.pad_and_crop)
        pixels = _normalize(pixels, spec)
        if not mixing:
            return pixels, targets
        return mixing(pixels, tf.one_hot(targets, len(spec.class_names)), draws)

    return _map_in_parallel(
        tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch_steps), batch
    )


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, spec: Dataset, batch_size: int
) -> tf.data.Dataset:
    """Make batches of all images in their order, as `training.data.evaluation_batches` does."""
    with tf.device("CPU"):
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    return _map_in_parallel(batches, lambda pixels, labels: (_normalize(pixels, spec), labels))


def crop_and_flip(images: tf.Tensor, offsets: tf.Tensor, flips: tf.Tensor, pad: int) -> tf.Tensor:
    """Pad images with zeros, cut their own size out of them and mirror some of the cuts."""
    height, width, channels = images.shape[1:]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    image = tf.range(tf.shape(images)[0])[:, None]
    rows = image * (height + 2 * pad) + offsets[:, :1] + tf.range(height)
    columns = tf.where(flips[:, None], tf.range(width)[::-1], tf.range(width)) + offsets[:, 1:]
    pixels = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def _map_in_parallel(batches: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Map batches on every core, a few ahead, in their order.

    The numbers are fixed and the tuner of `tf.data` is off: the end of an iterator waits for the
    tuner's thread, which sleeps for twice as long each time (2.6 s after 2.6 s of work).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    cores = count_cores()
    mapped = batches.map(function, num_parallel_calls=cores, deterministic=True)
    return mapped.prefetch(cores).with_options(options)


def _draw(
    seed: int,
    epoch: tf.Tensor,
    step: tf.Tensor,
    shape: tuple[int, int, int],
    augmentation: Augmentation,
) -> Draws:
    """Return the `Draws` of a batch as tensors with their shapes."""

    def arrays(epoch: int, step: int) -> list[np.ndarray]:
        return list(vars(draw(seed, epoch, step, shape, augmentation)).values())

    examples = arrays(0, 0)
    types = [array.dtype for array in examples]
    tensors = tf.numpy_function(arrays, [epoch, step], types, stateful=False)
    return Draws(
        *(tf.ensure_shape(t, array.shape) for t, array in zip(tensors, examples, strict=True))
    )


def _normalize(pixels: tf.Tensor, spec: Dataset) -> tf.Tensor:
    return normalize(tf.cast(pixels, tf.float32), spec, tf.reshape)
