"""The training loop over the replicas of a `tf.distribute` strategy, in one process or several.

What `keras.Model.fit` is on one device, and with the numbers of one device for the same batches.
Keras' own fit fails over several workers (keras issue 20585), clips and checks gradients before
their sum over the replicas, cannot accumulate them there, and leaves each replica its own moving
statistics. Here every process makes the same batches and takes its part of each.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Functions = dict[str, Callable[[Any, Any], Any]]


def fit(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    batches: tf.data.Dataset,
    validation: tuple[tf.data.Dataset, int, int],
    functions: Functions,
    *,
    epochs: int,
    initial_epoch: int,
    steps_per_epoch: int,
    accumulate_steps: int,
    callbacks: list[keras.callbacks.Callback],
    verbose: int | str,
) -> None:
    """Train a compiled model whose variables were made in the strategy's scope.

    Batches are the same in every process; those of the `validation` come with their size, a
    multiple of the number of replicas, and the number of examples. Of the `functions`, which give a
    value for each example, "loss" is minimized.
    """
    calls = keras.callbacks.CallbackList(
        callbacks,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=steps_per_epoch,
    )
    train_steps = _train_function(model, strategy, functions, accumulate_steps)
    average_statistics = _averaging_function(model, strategy)
    evaluate = _evaluation(model, strategy, functions, *validation)
    images = accumulate_steps * batches.element_spec[0].shape[0]
    iterator = iter(_shard(strategy, batches))
    model.stop_training = False
    calls.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        calls.on_epoch_begin(epoch)
        sums = np.zeros(len(functions))
        for begin in range(0, steps_per_epoch, model.steps_per_execution):
            end = min(begin + model.steps_per_execution, steps_per_epoch)
            calls.on_train_batch_begin(begin)
            sums += train_steps(iterator, tf.constant(end - begin)).numpy()
            logs = _means(functions, sums, end * images)
            calls.on_train_batch_end(end - 1, logs)
        average_statistics()
        calls.on_test_begin()
        results = evaluate()
        calls.on_test_end(results)
        logs |= {f"val_{name}": value for name, value in results.items()}
        calls.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    calls.on_train_end(logs)


def _shard(strategy: tf.distribute.Strategy, batches: tf.data.Dataset) -> Iterable:
    """Divide batches over the replicas, each of which gets its part of every batch."""
    size, replicas = batches.element_spec[0].shape[0], strategy.num_replicas_in_sync

    def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
        shard = size // context.num_input_pipelines
        begin = context.input_pipeline_id * shard

        def cut(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(part[begin : begin + shard] for part in batch)

        # endless, so that the replicas need not agree at each step on whether there is more
        own = batches.map(cut) if context.num_input_pipelines > 1 else batches
        return own.rebatch(size // replicas, drop_remainder=True).repeat().prefetch(2)

    return strategy.distribute_datasets_from_function(of_process)


def _train_function(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    functions: Functions,
    accumulate_steps: int,
) -> Callable[[Iterator, tf.Tensor], tf.Tensor]:
    """Return a function of an iterator and a number of steps that gives sums over examples."""
    optimizer, replicas = model.optimizer, strategy.num_replicas_in_sync
    clips = getattr(optimizer, "inner_optimizer", optimizer).global_clipnorm
    # whatever depends on the whole gradient, and not only on its parts, has to see their sum
    needs_sum = clips or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def step(batches: list[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
        variables, context = model.trainable_variables, tf.distribute.get_replica_context()
        gradients, sums = None, 0.0
        for images, labels in batches:
            with tf.GradientTape() as tape:
                predictions = model(images, training=True)
                values = [function(labels, predictions) for function in functions.values()]
                count = images.shape[0] * replicas * accumulate_steps
                loss = optimizer.scale_loss(tf.reduce_sum(values[0]) / count)
            new = tape.gradient(loss, variables)
            gradients = new if gradients is None else list(map(tf.add, gradients, new))
            sums += _sums(values)
        if needs_sum:  # each replica has the same one then, which the optimizer adds up again
            gradients = [sum_ / replicas for sum_ in context.all_reduce("SUM", gradients)]
        optimizer.apply(gradients, variables)
        return context.all_reduce("SUM", sums)

    @tf.function
    def train_steps(iterator: Iterator, steps: tf.Tensor) -> tf.Tensor:
        sums = tf.zeros(len(functions))
        for _ in tf.range(steps):
            batches = [next(iterator) for _ in range(accumulate_steps)]
            sums += strategy.experimental_local_results(strategy.run(step, args=(batches,)))[0]
        return sums

    return train_steps


def _evaluation(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    functions: Functions,
    batches: tf.data.Dataset,
    batch_size: int,
    examples: int,
) -> Callable[[], dict[str, float]]:
    """Return a function that gives the means over all examples."""

    def fill(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        missing = batch_size - tf.shape(images)[0]
        counts = tf.concat([tf.ones_like(labels, "float32"), tf.zeros([missing])], 0)
        images = tf.pad(images, [[0, missing]] + [[0, 0]] * 3)
        parts = images, tf.pad(labels, [[0, missing]]), counts
        return tuple(tf.ensure_shape(part, [batch_size, *part.shape[1:]]) for part in parts)

    def step(images: tf.Tensor, labels: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        predictions = model(images, training=False)
        values = [function(labels, predictions) for function in functions.values()]
        return tf.distribute.get_replica_context().all_reduce("SUM", _sums(values, counts))

    @tf.function
    def test_steps(iterator: Iterator) -> tf.Tensor:
        sums = tf.zeros(len(functions))
        for _ in tf.range(-(-examples // batch_size)):
            results = strategy.run(step, args=next(iterator))
            sums += strategy.experimental_local_results(results)[0]
        return sums

    shards = _shard(strategy, batches.map(fill))
    return lambda: _means(functions, test_steps(iter(shards)).numpy(), examples)


def _averaging_function(model: keras.Model, strategy: tf.distribute.Strategy) -> Callable[[], None]:
    """Return a function that gives all replicas the mean of their moving statistics."""
    statistics = [v for v in model.non_trainable_variables if v.dtype.startswith("float")]

    def average() -> None:
        context = tf.distribute.get_replica_context()
        means = context.all_reduce("MEAN", [tf.identity(v) for v in statistics])
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    return tf.function(lambda: strategy.run(average))


def _sums(values: list[tf.Tensor], counts: float | tf.Tensor = 1.0) -> tf.Tensor:
    return tf.stack([tf.reduce_sum(tf.cast(value, "float32") * counts) for value in values])


def _means(functions: Functions, sums: np.ndarray, examples: int) -> dict[str, float]:
    return {
        name: float(value) for name, value in zip(functions, np.divide(sums, examples), strict=True)
    }
