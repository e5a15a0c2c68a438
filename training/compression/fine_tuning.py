"""Further training of a network, of Keras 3 or Keras 2, that goes on where it was stopped."""

import dataclasses
import math

import keras

from training import data


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a network is trained further.

    Attributes:
        epochs: Number of passes over the training split.
        learning_rate: Highest learning rate, from which a cosine falls to zero.
        batch_size: Images per step.
        seed: Seed of the order of the images and their augmentation.
    """

    epochs: int = 2
    learning_rate: float = 0.01
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self):
        for name, least in {"epochs": 1, "batch_size": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "`learning_rate` must be a finite number above 0. "
                f"Received: learning_rate={self.learning_rate}"
            )

    def steps_per_epoch(self, examples):
        """Return the steps of an epoch over a number of images."""
        data.require_batch(examples, self.batch_size)
        return examples // self.batch_size


def fine_tune(model, tuning, train_set, facts, checkpoint, *, augmentation, callbacks=()):
    """Train a network further, or go on from a checkpoint.

    Args:
        model: A `keras.Model` or `tf_keras.Model` that gives class probabilities; it is trained
            in place.
        tuning: A `FineTuning`.
        train_set: Images, uint8, and labels.
        facts: A `keras_multiception.preprocessing.Dataset`, whose statistics to normalize with.
        checkpoint: Path of a folder for the state after each epoch; who keeps the result
            removes it.
        augmentation: Dictionary of `pad_and_crop` and `flip`, as for `data.training_batches`.
        callbacks: Callbacks of the model's own Keras.

    Returns:
        A list of a dictionary for each epoch trained here: `loss` and `accuracy`.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    module = _keras_of(model)
    steps = tuning.steps_per_epoch(len(train_set[0]))
    schedule = module.optimizers.schedules.CosineDecay(tuning.learning_rate, steps * tuning.epochs)
    model.compile(
        module.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    checkpoints = _checkpoints(model, checkpoint)
    checkpoints.restore_or_initialize()
    epochs = checkpoints.checkpoint.epochs
    history = []
    for epoch in range(int(epochs.numpy()), tuning.epochs):
        batches = data.training_batches(
            *train_set,
            dataset=facts,
            batch_size=tuning.batch_size,
            epochs=epoch + 1,
            first_epoch=epoch,
            seed=tuning.seed,
            **augmentation,
        )
        log = model.fit(
            batches,
            steps_per_epoch=steps,
            epochs=epoch + 1,
            initial_epoch=epoch,
            callbacks=list(callbacks),
            shuffle=False,  # the batches come shuffled
            verbose=2,
        ).history
        row = {key: float(log[key][-1]) for key in ("loss", "accuracy")}
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"The loss is not finite in epoch {epoch + 1}; lower --learning_rate."
            )
        history.append(row)
        epochs.assign(epoch + 1)
        checkpoints.save()
    return history


def _keras_of(model):
    if isinstance(model, keras.Model):
        return keras
    import tf_keras

    return tf_keras


def _checkpoints(model, folder):
    """Return the manager of a compiled model's checkpoints; `save` and `restore` are atomic."""
    import tensorflow as tf

    # all that the model tracks: wrappers have masks and steps that are none of its weights
    state = tf.train.Checkpoint(
        model=model, optimizer=model.optimizer, epochs=tf.Variable(0, dtype=tf.int64)
    )
    return tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
