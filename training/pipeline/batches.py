"""Images in memory to batches for the model, by `tf.data` or, without TensorFlow, by NumPy."""

import keras_multiception as km
from keras_multiception.machine import import_tensorflow
from training.pipeline.augmentation import Augmentation


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
    mixup=0.0,
    cutmix=0.0,
):
    """Make the batches of the epochs `first_epoch` to `epochs`, one after the other.

    Args:
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        dataset: Name of a data set or `keras_multiception.preprocessing.Dataset`, whose statistics
            to normalize with.
        batch_size: Integer. Each epoch has `examples // batch_size` batches and leaves out the
            images that remain, others each time.
        epochs: Integer, the number of the last epoch plus one.
        first_epoch: Integer, the epoch to start from.
        seed: Integer, from which, with the epoch and the step, everything random follows.
        pad_and_crop: As in `training.pipeline.augmentation.Augmentation`.
        flip: As in `training.pipeline.augmentation.Augmentation`.
        mixup: As in `training.pipeline.augmentation.Augmentation`.
        cutmix: As in `training.pipeline.augmentation.Augmentation`.

    Returns:
        A `tf.data.Dataset`, or a `keras.utils.PyDataset` where TensorFlow is not installed, of
        (normalized float32 images, labels). The labels are integers, or, where images are
        mixed, float32 of shape (batch, classes).

    Raises:
        ValueError: If there are fewer images than `batch_size`.
    """
    require_batch(len(images), batch_size)
    return _implementation().training_batches(
        images,
        labels,
        facts=km.preprocessing.get_dataset(dataset),
        batch_size=batch_size,
        epochs=range(first_epoch, epochs),
        seed=seed,
        augmentation=Augmentation(pad_and_crop, flip, mixup, cutmix),
    )


def evaluation_batches(images, labels, *, dataset, batch_size):
    """Make batches of all images in their order, normalized and not augmented.

    Args:
        images: Array of shape (examples, height, width, channels), uint8.
        labels: Array of shape (examples,).
        dataset: Name of a data set or `keras_multiception.preprocessing.Dataset`, whose statistics
            to normalize with.
        batch_size: Integer; the last batch has what remains.

    Returns:
        A `tf.data.Dataset`, or a `keras.utils.PyDataset` where TensorFlow is not installed, of
        (normalized float32 images, labels).
    """
    facts = km.preprocessing.get_dataset(dataset)
    return _implementation().evaluation_batches(images, labels, facts, batch_size)


def require_batch(examples, batch_size):
    """Raise a `ValueError` if there are fewer training images than one batch takes."""
    if examples < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )


def _implementation():
    """Return the module that makes batches here."""
    if import_tensorflow() is None:
        from training.pipeline import batches_numpy

        return batches_numpy
    from training.pipeline import batches_tensorflow

    return batches_tensorflow
