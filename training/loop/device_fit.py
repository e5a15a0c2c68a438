"""A run whose images are all in the memory of one device, epoch by epoch; for JAX.

A step of a small network is over before a GPU has been given the next one. Here an epoch is
compiled as a whole, and its batches are cut out of the images on the device: they are those of
`training.pipeline`, so that the outcome is that of `keras.Model.fit` but for rounding.
"""

import concurrent.futures
import functools

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp

import keras_multiception as km
from training import metrics
from training.loop import network
from training.pipeline.augmentation import Augmentation, draw, order


def require_support(recipe):
    """Raise a `ValueError` if a recipe has what is not done here."""
    alone = {"accumulate_steps": 1, "mixup": 0, "cutmix": 0, "ema": 0}
    for name, value in alone.items():
        if getattr(recipe, name) != value:
            raise ValueError(
                f'`{name}` must be {value} with `loop` "device". '
                f"Received: {name}={getattr(recipe, name)}"
            )


def fit(model, recipe, facts, train_set, test_set, *, callbacks, initial_epoch, verbose):
    """Train for the epochs from `initial_epoch` on.

    Args:
        model: A compiled `keras.Model`, at the state after `initial_epoch` epochs.
        recipe: A `Recipe`.
        facts: The `keras_multiception.preprocessing.Dataset`.
        train_set: Images, uint8 of shape (examples, height, width, channels), and labels.
        test_set: Images and labels to measure on after each epoch.
        callbacks: List of `keras.callbacks.Callback`; an epoch is one batch to them.
        initial_epoch: Integer.
        verbose: As in `keras.Model.fit`.
    """
    calls = keras.callbacks.CallbackList(
        callbacks,
        add_progbar=verbose != 0,
        verbose=1 if verbose == "auto" else verbose,
        epochs=recipe.epochs,
        steps=1,
        model=model,
    )
    train_images, test_images = _to_train_on(train_set, recipe.pad_and_crop), _to_test_on(test_set)
    train_epoch = jax.jit(_make_epoch(model, recipe, facts))
    evaluate = jax.jit(_make_evaluation(model, recipe, facts))
    state = [[variable.value for variable in part] for part in _parts(model)]
    drawing = functools.partial(_draw_epoch, recipe, train_set[0].shape)
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


def _parts(model):
    """Return all that training changes."""
    return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables


def _draw_epoch(recipe, shape, epoch):
    """Draw the batches of an epoch.

    Args:
        recipe: A `Recipe`.
        shape: (examples, height, width, channels) of the images.
        epoch: Integer, its number from 0.

    Returns:
        Rows of the images, int32 of shape (steps, batch), offsets of the crops, of shape
        (steps, batch, 2), and which to mirror, bool of shape (steps, batch).
    """
    augmentation = Augmentation(recipe.pad_and_crop, recipe.flip)
    steps = shape[0] // recipe.batch_size
    one_batch = (recipe.batch_size, *shape[1:3])
    draws = [draw(recipe.seed, epoch, step, one_batch, augmentation) for step in range(steps)]
    rows = order(recipe.seed, epoch, shape[0])[: steps * recipe.batch_size]
    return (
        rows.reshape(steps, -1).astype("int32"),
        np.stack([each.offsets for each in draws]),
        np.stack([each.flips for each in draws]),
    )


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


def _make_epoch(model, recipe, facts):
    """Return a function that trains an epoch.

    Args:
        model: A compiled `keras.Model`.
        recipe: A `Recipe`.
        facts: The `keras_multiception.preprocessing.Dataset`.

    Returns:
        A function of the state, of what `_draw_epoch` returns, of padded images and of labels. It
        returns the state after the epoch and, by name, the mean of what is measured.
    """
    functions = network.functions_of(recipe)
    pad = recipe.pad_and_crop

    def cut(pixels, row, offset, flip):
        _, height, width, channels = pixels.shape
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
            with keras.StatelessScope(zip(model.optimizer.variables, optimizer, strict=True)):
                loss = model.optimizer.scale_loss(measured["loss"])  # in float16, times a factor
            return loss, (measured, changed)

        gradients, (measured, changed) = jax.grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return [trainable, changed, optimizer], measured

    def epoch(state, batches, pixels, labels):
        state, measured = lax.scan(functools.partial(step, pixels, labels), state, batches)
        return state, {name: values.mean() for name, values in measured.items()}

    return epoch


def _make_evaluation(model, recipe, facts):
    """Return a function of the state and of test images in batches: means of what is measured."""
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

    return evaluate
