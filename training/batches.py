"""Images in memory to batches for the model: one `tf.data` pipeline for every data set.

What is drawn at random, the order of the images and their crops and flips, is a function of
(seed, epoch, step) alone, so that a resumed run sees exactly the batches of an unbroken one.
"""

import functools

import tensorflow as tf

import keras_multiception as km


def training_batches(
    images,
    labels,
    *,
    dataset,
    batch_size,
    epochs,
    first_epoch=0,
    seed=0,
    pad_and_crop=0,
    flip=False,
):
    """Make the batches of the epochs `first_epoch` to `epochs`, one after the other.

    Args:
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        dataset: Name of a data set or `keras_multiception.preprocessing.Dataset`, whose statistics
            to normalise with.
        batch_size: Integer. Each epoch has `examples // batch_size` batches and leaves out the
            images that remain, others each time.
        epochs: Integer, the number of the last epoch plus one.
        first_epoch: Integer, the epoch to start from.
        seed: Integer, from which, with the epoch and the step, everything random follows.
        pad_and_crop: Integer, pixels of zeros around an image before a random crop.
        flip: Boolean, whether to mirror half of the images.

    Returns:
        A `tf.data.Dataset` of (normalised float32 images, labels).

    Raises:
        ValueError: If there are fewer images than `batch_size`.
    """
    require_batch(len(images), batch_size)
    steps = len(images) // batch_size
    with tf.device("CPU"):
        images, labels = tf.constant(images), tf.constant(labels)

    def epoch_steps(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(images)), seed=[tf.constant(seed, tf.int64), epoch]
        )
        rows = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        step = tf.range(steps, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps], epoch), step, rows))

    def batch(epoch, step, rows):
        pixels = tf.gather(images, rows)
        if pad_and_crop or flip:
            offsets, flips = random_choices(seed, epoch, step, batch_size, pad_and_crop, flip)
            pixels = crop_and_flip(pixels, offsets, flips, pad_and_crop)
        return _normalise(pixels, dataset), tf.gather(labels, rows)

    return (
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(epoch_steps)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(images, labels, *, dataset, batch_size):
    """Make batches of all images in their order, normalised and not augmented.

    Args:
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        dataset: Name of a data set or `keras_multiception.preprocessing.Dataset`, whose statistics
            to normalise with.
        batch_size: Integer.

    Returns:
        A `tf.data.Dataset` of (normalised float32 images, labels).
    """
    with tf.device("CPU"):
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    normalise = functools.partial(_normalise, dataset=dataset)
    return batches.map(
        lambda pixels, labels: (normalise(pixels), labels), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(tf.data.AUTOTUNE)


def require_batch(examples, batch_size):
    """Raise a `ValueError` if there are fewer training images than one batch takes."""
    if examples < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )


def random_choices(seed, epoch, step, batch_size, pad_and_crop, flip):
    """Draw how to crop and flip each image of a batch.

    Args:
        seed: Integer.
        epoch: Integer or scalar tensor.
        step: Integer or scalar tensor, the number of the batch in its epoch.
        batch_size: Integer.
        pad_and_crop: Integer, pixels padded on each side.
        flip: Boolean, whether to mirror half of the images.

    Returns:
        Offsets, int32 of shape (batch_size, 2): where each crop begins, from 0 to
        `2 * pad_and_crop`; and flips, bool of shape (batch_size,).
    """
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    crop_seed, flip_seed = tf.unstack(
        tf.random.split(tf.random.fold_in(pair, tf.cast(step, tf.int64)))
    )
    offsets = tf.random.stateless_uniform(
        [batch_size, 2], crop_seed, 0, 2 * pad_and_crop + 1, tf.int32
    )
    flips = tf.random.stateless_uniform([batch_size], flip_seed) < (0.5 if flip else 0.0)
    return offsets, flips


def crop_and_flip(images, offsets, flips, pad):
    """Pad images with zeros, cut their own size out of them and mirror some of the cuts.

    Args:
        images: Tensor of shape (batch, height, width, channels), any type.
        offsets: Tensor of shape (batch, 2): row and column of the padded image at which each
            crop begins.
        flips: Boolean tensor of shape (batch,): which crops to mirror.
        pad: Integer, pixels of zeros on each side.

    Returns:
        A tensor of the shape and type of `images`.
    """
    height, width = images.shape[1:3]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    rows = offsets[:, :1] + tf.range(height)
    columns = tf.where(flips[:, None], tf.range(width)[::-1], tf.range(width)) + offsets[:, 1:]
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def _normalise(pixels, dataset):
    return km.preprocessing.preprocess_input(tf.cast(pixels, tf.float32), dataset)
