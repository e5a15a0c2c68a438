"""Several runs of one recipe at once on one device, whose memory holds all images; for JAX.

A step of a small network is over before a GPU is given the next one. Here an epoch is compiled as
a whole, its batches are cut out of the images on the device, and runs that differ in their seed
are one more axis of every computation. The batches are those of `training.pipeline`, so that each
run comes out as if trained alone, but for rounding.
"""

import concurrent.futures
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp

import keras_multiception as km
from training import metrics
from training.loop import callbacks, network
from training.pipeline.augmentation import Augmentation, draw, order
from training.recipe import Recipe
from training.run_folder import RunFolder

SAVE_SECONDS = 30


class Run(NamedTuple):
    """A run to train.

    Attributes:
        recipe: A `Recipe`; those of one call differ in their seed alone.
        model: A compiled `keras.Model`, at the state that the history ends with.
        folder: The `RunFolder` to save checkpoints in.
        history: List of the rows of the epochs so far.
    """

    recipe: Recipe
    model: Any
    folder: RunFolder
    history: list


def unsupported(recipe):
    """Return the names of the values of a recipe that runs cannot be trained together with."""
    alone = {"accumulate_steps": 1, "mixup": 0, "cutmix": 0, "ema": 0}
    return [name for name, value in alone.items() if getattr(recipe, name) != value]


def fit(runs, facts, train_set, test_set, save_seconds=SAVE_SECONDS):
    """Train for the epochs that the histories lack, and save a checkpoint now and then.

    Args:
        runs: List of `Run` with histories of one length.
        facts: The `keras_multiception.preprocessing.Dataset`.
        train_set: Images, uint8 of shape (examples, height, width, channels), and labels.
        test_set: Images and labels to measure on after each epoch.
        save_seconds: Float, the time between checkpoints; there is one at the end too.

    Raises:
        FloatingPointError: If a loss or a variable is not finite; checkpoints remain.
    """
    recipe, first = runs[0].recipe, len(runs[0].history)
    train_images, test_images = _to_train_on(train_set, recipe.pad_and_crop), _to_test_on(test_set)
    train_epoch = jax.jit(_epoch(runs[0].model, recipe, facts, len(runs)), donate_argnums=0)
    evaluate = jax.jit(_evaluation(runs[0].model, recipe, facts, len(runs)))
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(_state(r.model) for r in runs))
    saved = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        batches = pool.submit(_draw_epoch, runs, first, train_set[0].shape)
        for epoch in range(first, recipe.epochs):
            begin = time.perf_counter()
            drawn = batches.result()
            batches = pool.submit(_draw_epoch, runs, epoch + 1, train_set[0].shape)
            states, of_training = train_epoch(states, drawn, *train_images)
            of_training = jax.device_get(of_training)
            train_seconds = time.perf_counter() - begin
            of_test = jax.device_get(evaluate(states, test_images))
            _require_finite(runs, of_training, epoch)
            seconds = time.perf_counter() - begin
            for index, run in enumerate(runs):
                logs = {name: values[index] for name, values in of_training.items()}
                logs |= {f"val_{name}": values[index] for name, values in of_test.items()}
                speed = drawn[0].size / len(runs) / train_seconds
                run.history.append(callbacks.history_row(recipe, epoch, logs, seconds, speed))
            last = epoch + 1 == recipe.epochs
            if last or time.perf_counter() - saved > save_seconds:
                _save(runs, states)
                saved = time.perf_counter()
                print(_progress(runs), flush=True)


def _state(model):
    return [[variable.value for variable in part] for part in _parts(model)]


def _parts(model):
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables


def _draw_epoch(runs, epoch, shape):
    """Draw the batches of an epoch.

    Returns:
        Rows of the images, int32 of shape (steps, runs, batch), offsets of the crops, of shape
        (steps, runs, batch, 2), and which to mirror, of shape (steps, runs, batch).
    """
    recipe = runs[0].recipe
    augmentation = Augmentation(recipe.pad_and_crop, recipe.flip)
    steps = shape[0] // recipe.batch_size
    one_batch = (recipe.batch_size, *shape[1:3])
    rows, offsets, flips = [], [], []
    for run in runs:
        seed = run.recipe.seed
        draws = [draw(seed, epoch, step, one_batch, augmentation) for step in range(steps)]
        used = order(seed, epoch, shape[0])[: steps * recipe.batch_size]
        rows.append(used.reshape(steps, -1).astype("int32"))
        offsets.append(np.stack([each.offsets for each in draws]))
        flips.append(np.stack([each.flips for each in draws]))
    return tuple(np.stack(arrays, 1) for arrays in (rows, offsets, flips))


def _to_train_on(train_set, pad):
    """Bring images, padded for their crops, and labels to the device."""
    images, labels = train_set
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    return jnp.asarray(padded), jnp.asarray(labels, "int32")


def _to_test_on(test_set):
    """Bring images and labels to the device in batches, and 1 for each of them, 0 for the rest."""
    images, labels = test_set
    size = metrics.BATCH_SIZE
    fill = -len(images) % size
    arrays = images, labels.astype("int32"), np.ones(len(images), "float32")
    filled = [np.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1)) for array in arrays]
    return [jnp.asarray(array.reshape(-1, size, *array.shape[1:])) for array in filled]


def _epoch(model, recipe, facts, count):
    """Return a function of states, drawn batches, padded images and labels: an epoch of the runs.

    It gives the states after it and, by name, the mean over the images of what is measured.
    """
    functions = network.functions_of(recipe)
    pad = recipe.pad_and_crop

    def cut(pixels, row, offset, flip):
        height, width, channels = (pixels.shape[axis] for axis in (1, 2, 3))
        size = (1, height - 2 * pad, width - 2 * pad, channels)
        image = lax.dynamic_slice(pixels, (row, *offset, jnp.int32(0)), size)[0]
        return jnp.where(flip, image[:, ::-1], image)

    def step(pixels, labels, state, batch):
        trainable, non_trainable, optimizer = state
        images = jax.vmap(functools.partial(cut, pixels))(*batch)
        x, y = km.preprocessing.preprocess_input(images, facts), labels[batch[0]]

        def loss_of(trainable):
            logits, changed = model.stateless_call(trainable, non_trainable, x, training=True)
            measured = {name: function(y, logits).mean() for name, function in functions.items()}
            return measured["loss"], (measured, changed)

        gradients, (measured, changed) = jax.grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return [trainable, changed, optimizer], measured

    def epoch(states, batches, pixels, labels):
        one_step = _over_runs(functools.partial(step, pixels, labels), count)
        states, measured = lax.scan(one_step, states, batches)
        return states, {name: values.mean(0) for name, values in measured.items()}

    return epoch


def _evaluation(model, recipe, facts, count):
    """Return a function of the states and the test images: means of what is measured on them."""
    functions = network.functions_of(recipe)

    def evaluate(state, test_images):
        def measure(_, batch):
            images, y, counted = batch
            x = km.preprocessing.preprocess_input(images, facts)
            logits = model.stateless_call(state[0], state[1], x, training=False)[0]
            return None, {
                name: (function(y, logits) * counted).sum() for name, function in functions.items()
            }

        _, sums = lax.scan(measure, None, test_images)
        return {name: values.sum() / test_images[2].sum() for name, values in sums.items()}

    return lambda states, test_images: _over_runs(
        functools.partial(evaluate, test_images=test_images), count
    )(states)


def _over_runs(function, count):
    """Return a function of what all runs have, along a first axis, from one of what one has."""
    if count > 1:
        return jax.vmap(function)

    def alone(*arguments):
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return alone


def _save(runs, states):
    """Bring the models to the states, and save a checkpoint of each."""
    states = jax.device_get(states)
    for index, run in enumerate(runs):
        for variables, leaves in zip(_parts(run.model), states, strict=True):
            for variable, leaf in zip(variables, leaves, strict=True):
                variable.assign(leaf[index])
        callbacks.require_finite_variables(run.model, run.history)
        run.folder.save_checkpoint(run.model, run.history)


def _require_finite(runs, measured, epoch):
    for index, run in enumerate(runs):
        loss = float(measured["loss"][index])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of seed {run.recipe.seed} became {loss} in epoch {epoch + 1}. "
                f"{callbacks.ADVICE}"
            )


def _progress(runs):
    rows = [run.history[-1] for run in runs]
    errors = ", ".join(f"{100 * (1 - row['val_top1']):.2f}" for row in rows)
    speed = sum(row["images_per_second"] for row in rows)
    return f"epoch {rows[0]['epoch']}: {errors} % error, {speed:,.0f} images/s together"
