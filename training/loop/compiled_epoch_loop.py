"""A run whose images are all in the memory of one device, epoch by epoch; for JAX.

A step of a small network is over before a GPU has been given the next one. Here an epoch is
compiled as a whole, and its batches are cut out of the images on the device. They are the batches
of `training.data`, so that the outcome is that of `keras.Model.fit` but for rounding.
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp

from keras_multiception.preprocessing import Dataset, preprocess_input
from training import metrics
from training.data.arrays import Examples
from training.data.batches import Augmentation, draw, order
from training.loop import network
from training.recipe import Recipe

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, offsets of crops, which to mirror
State = list[list[Any]]  # the values of `_parts` of a model


def fit(
    model: keras.Model,
    recipe: Recipe,
    spec: Dataset,
    train_set: Examples,
    test_set: Examples,
    *,
    callbacks: list[keras.callbacks.Callback],
    initial_epoch: int,
    verbose: int | str,
) -> None:
    """Train a compiled model on images and labels; an epoch is one batch to the callbacks."""
    calls = keras.callbacks.CallbackList(
        callbacks,
        add_progbar=verbose != 0,
        verbose=1 if verbose == "auto" else verbose,
        epochs=recipe.epochs,
        steps=1,
        model=model,
    )
    images, pad = train_set[0], recipe.pad_and_crop
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    train_images = jnp.asarray(padded), jnp.asarray(train_set[1], "int32")
    test_images = _to_test_on(test_set)
    train_epoch = jax.jit(_make_epoch(model, recipe, spec))
    evaluate = jax.jit(_make_evaluation(model, recipe, spec))
    state = [[variable.value for variable in part] for part in _parts(model)]
    drawing = functools.partial(_draw_epoch, recipe, images.shape)
    calls.on_train_begin()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(drawing, initial_epoch)
        for epoch in range(initial_epoch, recipe.epochs):
            calls.on_epoch_begin(epoch)
            calls.on_train_batch_begin(0)
            drawn = ahead.result()
            ahead = pool.submit(drawing, epoch + 1)
            state, of_training = train_epoch(state, drawn, *train_images)
            of_training = jax.device_get(of_training)
            for variables, leaves in zip(_parts(model), state, strict=True):
                for variable, leaf in zip(variables, leaves, strict=True):
                    variable.assign(leaf)
            calls.on_train_batch_end(0, of_training)
            calls.on_test_begin()
            of_test = jax.device_get(evaluate(state, test_images))
            calls.on_test_end(of_test)
            logs = of_training | {f"val_{name}": value for name, value in of_test.items()}
            calls.on_epoch_end(epoch, {name: float(value) for name, value in logs.items()})
    calls.on_train_end()


def _parts(model: keras.Model) -> tuple[list, list, list]:
    """Return all that training changes."""
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables


def _draw_epoch(recipe: Recipe, shape: tuple[int, int, int, int], epoch: int) -> Drawn:
    """Draw the batches of an epoch of images of a shape."""
    augmentation = Augmentation(recipe.pad_and_crop, recipe.flip)
    steps = shape[0] // recipe.batch_size
    one_batch = (recipe.batch_size, shape[1], shape[2])
    draws = [draw(recipe.seed, epoch, step, one_batch, augmentation) for step in range(steps)]
    rows = order(recipe.seed, epoch, shape[0])[: steps * recipe.batch_size]
    return (
        rows.reshape(steps, -1).astype("int32"),
        np.stack([each.offsets for each in draws]),
        np.stack([each.flips for each in draws]),
    )


def _to_test_on(test_set: Examples) -> list[jax.Array]:
    """Bring images and labels to the device in batches, and 1 for each of them, 0 for the rest."""
    images, labels = test_set
    size = metrics.BATCH_SIZE
    fill = -len(images) % size
    arrays = images, labels.astype("int32"), np.ones(len(images), "float32")
    filled = [np.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1)) for array in arrays]
    return [jnp.asarray(array.reshape(-1, size, *array.shape[1:])) for array in filled]


def _make_epoch(model: keras.Model, recipe: Recipe, spec: Dataset) -> Callable:
    """Return a function of the state, of `_draw_epoch`, of padded images and of labels.

    It trains an epoch, and returns the state and, by name, the means of loss and metrics.
    """
    functions = network.loss_and_metrics(recipe)
    pad = recipe.pad_and_crop

    def cut(pixels: jax.Array, row: jax.Array, offset: jax.Array, flip: jax.Array) -> jax.Array:
        _, height, width, channels = pixels.shape
        size = (1, height - 2 * pad, width - 2 * pad, channels)
        image = lax.dynamic_slice(pixels, (row, *offset, jnp.int32(0)), size)[0]
        return jnp.where(flip, image[:, ::-1], image)

    def step(
        pixels: jax.Array, labels: jax.Array, state: State, batch: Drawn
    ) -> tuple[State, dict[str, jax.Array]]:
        trainable, non_trainable, optimizer = state
        images = jax.vmap(functools.partial(cut, pixels))(*batch)
        x, y = preprocess_input(images, spec), labels[batch[0]]

        def loss_of(trainable: list) -> tuple[jax.Array, Any]:
            logits, changed = model.stateless_call(trainable, non_trainable, x, training=True)
            measured = {name: function(y, logits).mean() for name, function in functions.items()}
            with keras.StatelessScope(zip(model.optimizer.variables, optimizer, strict=True)):
                loss = model.optimizer.scale_loss(measured["loss"])  # in float16, times a factor
            return loss, (measured, changed)

        gradients, (measured, changed) = jax.grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return [trainable, changed, optimizer], measured

    def epoch(
        state: State, batches: Drawn, pixels: jax.Array, labels: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        state, measured = lax.scan(functools.partial(step, pixels, labels), state, batches)
        return state, {name: values.mean() for name, values in measured.items()}

    return epoch


def _make_evaluation(model: keras.Model, recipe: Recipe, spec: Dataset) -> Callable:
    """Return a function of the state and of test images in batches: means of what is measured."""
    functions = network.loss_and_metrics(recipe)

    def evaluate(state: State, test_images: list[jax.Array]) -> dict[str, jax.Array]:
        def measure(_: None, batch: list[jax.Array]) -> tuple[None, dict[str, jax.Array]]:
            images, y, counted = batch
            x = preprocess_input(images, spec)
            logits = model.stateless_call(state[0], state[1], x, training=False)[0]
            return None, {
                name: (function(y, logits) * counted).sum() for name, function in functions.items()
            }

        _, sums = lax.scan(measure, None, test_images)
        return {name: values.sum() / test_images[2].sum() for name, values in sums.items()}

    return evaluate
