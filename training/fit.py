"""A training run, from its recipe to its final metrics."""

import dataclasses
import importlib.metadata
import os
import platform
import statistics
import sys

import keras

import keras_multiception as km
from training import data, metrics, network
from training.callbacks import AveragedWeights, Recorder
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
    model = network.build(recipe, facts)
    train_set = data.load(recipe.dataset, recipe.train_split, data_dir)
    test_set = data.load(recipe.dataset, recipe.test_split, data_dir)
    steps_per_epoch = _steps_per_epoch(recipe, len(train_set[0]))
    network.compile_for_training(model, recipe, steps_per_epoch)
    with folder.lock():
        history = folder.load_checkpoint(model)
        folder.begin(config)
        _fit(model, recipe, folder, history, train_set, test_set)
        final = _save_with_softmax(model, recipe, facts, folder)
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


def _fit(model, recipe, folder, history, train_set, test_set):
    """Train for the epochs that the history lacks."""
    if len(history) == recipe.epochs:
        return
    if history:
        print(f"Resuming after epoch {len(history)} of {recipe.epochs}.")
    batches = data.training_batches(
        *train_set,
        dataset=recipe.dataset,
        batch_size=recipe.batch_size * recipe.accumulate_steps,
        epochs=recipe.epochs,
        first_epoch=len(history),
        seed=recipe.seed,
        pad_and_crop=recipe.pad_and_crop,
        flip=recipe.flip,
    )
    if recipe.accumulate_steps > 1:
        batches = batches.rebatch(recipe.batch_size)
    steps = _steps_per_epoch(recipe, len(train_set[0]))
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
            *([AveragedWeights()] if recipe.ema else []),
            keras.callbacks.TensorBoard(folder.logs, write_graph=False),
            Recorder(folder, history, recipe, steps * recipe.batch_size),
        ],
        verbose="auto" if sys.stdout.isatty() else 2,
    )


def _steps_per_epoch(recipe, examples):
    """Return the batches of an epoch; those of a step that would not be complete are left out."""
    images = recipe.batch_size * recipe.accumulate_steps
    data.require_batch(examples, images)
    return examples // images * recipe.accumulate_steps


def _save_with_softmax(model, recipe, facts, folder):
    model.optimizer.finalize_variable_values(model.trainable_variables)  # averages, if kept
    final = network.build(recipe, facts, activation="softmax")
    final.set_weights(model.get_weights())
    network.compile_for_users(final, recipe)
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
