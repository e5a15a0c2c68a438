"""A training run, from its recipe to its final metrics."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time

import keras

import keras_multiception as km
from training import data, metrics
from training.run_folder import RunFolder, replacing


def train(recipe, workdir, name="", data_dir=None):
    """Train by a recipe, or go on where the run in the folder stopped.

    Args:
        recipe: A `Recipe`.
        workdir: Path of the folder of the run.
        name: String, what the recipe is called.
        data_dir: Directory of prepared TensorFlow Datasets; `None` for the user's default one.

    Returns:
        A dictionary, the final metrics as in `metrics.json`.

    Raises:
        ValueError: If the recipe, the data or the folder do not fit; nothing is changed then.
        FloatingPointError: If the loss is not finite.
    """
    facts = km.preprocessing.get_dataset(recipe.dataset)
    folder = RunFolder(workdir)
    config = {
        "name": name,
        "recipe": dataclasses.asdict(recipe),
        "data": {"dataset": recipe.dataset, **dataclasses.asdict(facts)},
        "versions": _versions(),
        "hardware": _hardware(),
    }
    folder.check(config)
    if folder.metrics():
        print("This run is finished.")
        return folder.metrics()

    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.dtype_policy)
    model = _build(recipe, activation=None)
    train_set = data.load(recipe.dataset, recipe.train_split, data_dir)
    test_set = data.load(recipe.dataset, recipe.test_split, data_dir)
    data.require_batch(len(train_set[0]), recipe.batch_size)
    with folder.lock():
        history = folder.load_checkpoint(model)
        folder.begin(config)
        _fit(model, recipe, folder, history, train_set, test_set)
        final = _save_with_softmax(model, recipe, folder)
        result = {
            "train": metrics.evaluate_model(final, *train_set, dataset=recipe.dataset),
            "test": metrics.evaluate_model(final, *test_set, dataset=recipe.dataset),
            "parameters": metrics.count_parameters(final),
            "epochs": len(history),
            "wall_seconds": sum(row["seconds"] for row in history),
            "images_per_second": statistics.median(row["images_per_second"] for row in history),
        }
        folder.finish(result)
    return result


def _build(recipe, activation):
    """Build and compile the network, ending in logits (`None`) or in a softmax."""
    facts = km.preprocessing.get_dataset(recipe.dataset)
    model = km.create_model(
        recipe.model,
        classes=len(facts.class_names),
        conv=recipe.conv,
        kernel_sizes=recipe.kernel_sizes,
        input_shape=facts.image_shape,
        classifier_activation=activation,
    )
    model.compile(
        km.optimizers.SGDL2(recipe.learning_rate, momentum=recipe.momentum, l2=recipe.l2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(
                min(5, len(facts.class_names)), name="top5"
            ),
        ],
    )
    return model


def _fit(model, recipe, folder, history, train_set, test_set):
    """Train for the epochs that the history lacks."""
    if len(history) == recipe.epochs:
        return
    if history:
        print(f"Resuming after epoch {len(history)} of {recipe.epochs}.")
    batches = data.training_batches(
        *train_set,
        dataset=recipe.dataset,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        first_epoch=len(history),
        seed=recipe.seed,
        pad_and_crop=recipe.pad_and_crop,
        flip=recipe.flip,
    )
    steps = len(train_set[0]) // recipe.batch_size
    model.fit(
        batches,
        epochs=recipe.epochs,
        initial_epoch=len(history),
        steps_per_epoch=steps,
        shuffle=False,  # the batches come shuffled
        validation_data=data.evaluation_batches(
            *test_set, dataset=recipe.dataset, batch_size=metrics.BATCH_SIZE
        ),
        callbacks=[
            keras.callbacks.LearningRateScheduler(recipe.learning_rate_at),
            keras.callbacks.TensorBoard(folder.logs, write_graph=False),
            _Recorder(folder, history, steps * recipe.batch_size),
        ],
        verbose="auto" if sys.stdout.isatty() else 2,
    )


class _Recorder(keras.callbacks.Callback):
    """Keeps the history, saves a checkpoint after each epoch, and stops if the loss is lost."""

    def __init__(self, folder, history, images_per_epoch):
        super().__init__()
        self._folder, self._history, self._images = folder, history, images_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._begin = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {logs['loss']} in epoch {self._epoch + 1}, step {batch + 1}; "
                f"{len(self._history)} epochs are saved. Try a lower learning_rate in a new workdir"
            )

    def on_test_begin(self, logs=None):
        self._train_seconds = time.perf_counter() - self._begin

    def on_epoch_end(self, epoch, logs=None):
        self._history.append(
            {
                "epoch": epoch + 1,
                **{name: float(value) for name, value in logs.items()},
                "seconds": time.perf_counter() - self._begin,
                "images_per_second": self._images / self._train_seconds,
            }
        )
        self._folder.save_checkpoint(self.model, self._history)


def _save_with_softmax(model, recipe, folder):
    final = _build(recipe, activation="softmax")
    final.set_weights(model.get_weights())
    final.optimizer.build(final.trainable_variables)  # or loading the file warns of its absence
    with replacing(folder.model) as temporary:
        final.save(temporary)
    return final


def _versions():
    packages = ("keras", "tensorflow", "numpy", "tensorflow-datasets")
    return {
        "python": platform.python_version(),
        "keras_multiception": km.__version__,
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _hardware():
    return {
        "backend": keras.backend.backend(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "gpus": data.gpu_names(),
    }
