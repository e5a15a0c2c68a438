"""The training loop over the replicas of a `tf.distribute` strategy, in one process or several.

What `keras.Model.fit` is on one device, and with the numbers of one device for the same batches.
Keras' own fit fails over several workers (keras issue 20585), clips and checks gradients before
their sum over the replicas, cannot accumulate them there, and leaves each replica its own moving
statistics. Here every process makes the same batches and takes its share of each.
"""

import keras
import numpy as np
import tensorflow as tf


def fit(
    model,
    strategy,
    batches,
    validation,
    functions,
    *,
    epochs,
    initial_epoch,
    steps_per_epoch,
    accumulate_steps,
    callbacks,
    verbose,
):
    """Train a model.

    Args:
        model: A compiled `keras.Model` whose variables were made in the strategy's scope. Its
            `steps_per_execution` run between two calls of the callbacks.
        strategy: A `tf.distribute.Strategy`.
        batches: A `tf.data.Dataset` of whole (images, labels), the same in every process.
        validation: Tuple of a `tf.data.Dataset` of (images, labels), the same in every process;
            the size of its batches, a multiple of the number of replicas; and the number of its
            examples, for which the last batch may be too large.
        functions: Dictionary from names to functions of labels and predictions that give a value
            for each example. "loss" is minimized; the means of all of them are logged.
        epochs: Integer, the number of the last epoch plus one.
        initial_epoch: Integer, the epoch to start from.
        steps_per_epoch: Integer, steps of the optimizer.
        accumulate_steps: Integer, the batches of one step.
        callbacks: List of `keras.callbacks.Callback`.
        verbose: Integer, as in `keras.Model.fit`.
    """
    callbacks = keras.callbacks.CallbackList(
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
    iterator = iter(_shares(strategy, batches))
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        callbacks.on_epoch_begin(epoch)
        sums = np.zeros(len(functions))
        for begin in range(0, steps_per_epoch, model.steps_per_execution):
            end = min(begin + model.steps_per_execution, steps_per_epoch)
            callbacks.on_train_batch_begin(begin)
            sums += train_steps(iterator, tf.constant(end - begin)).numpy()
            logs = _means(functions, sums, end * images)
            callbacks.on_train_batch_end(end - 1, logs)
        average_statistics()
        callbacks.on_test_begin()
        results = evaluate()
        callbacks.on_test_end(results)
        logs |= {f"val_{name}": value for name, value in results.items()}
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callbacks.on_train_end(logs)


def _shares(strategy, batches):
    """Divide batches over the replicas, each of which gets its part of every batch."""
    size, replicas = batches.element_spec[0].shape[0], strategy.num_replicas_in_sync

    def of_process(context):
        share = size // context.num_input_pipelines
        begin = context.input_pipeline_id * share

        def cut(*batch):
            return tuple(part[begin : begin + share] for part in batch)

        # endless, so that the replicas need not agree at each step on whether there is more
        own = batches.map(cut) if context.num_input_pipelines > 1 else batches
        return own.rebatch(size // replicas, drop_remainder=True).repeat().prefetch(2)

    return strategy.distribute_datasets_from_function(of_process)


def _train_function(model, strategy, functions, accumulate_steps):
    """Return a function of an iterator and a number of steps that gives sums over examples."""
    optimizer, replicas = model.optimizer, strategy.num_replicas_in_sync
    clips = getattr(optimizer, "inner_optimizer", optimizer).global_clipnorm
    # whatever depends on the whole gradient, and not only on its parts, has to see their sum
    needs_sum = clips or isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def step(batches):
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
    def train_steps(iterator, steps):
        sums = tf.zeros(len(functions))
        for _ in tf.range(steps):
            batches = [next(iterator) for _ in range(accumulate_steps)]
            sums += _first(strategy, strategy.run(step, args=(batches,)))
        return sums

    return train_steps


def _evaluation(model, strategy, functions, batches, batch_size, examples):
    """Return a function that gives the means over all examples."""

    def fill(images, labels):
        missing = batch_size - tf.shape(images)[0]
        counts = tf.concat([tf.ones_like(labels, "float32"), tf.zeros([missing])], 0)
        images = tf.pad(images, [[0, missing]] + [[0, 0]] * 3)
        parts = images, tf.pad(labels, [[0, missing]]), counts
        return tuple(tf.ensure_shape(part, [batch_size, *part.shape[1:]]) for part in parts)

    def step(images, labels, counts):
        predictions = model(images, training=False)
        values = [function(labels, predictions) for function in functions.values()]
        return tf.distribute.get_replica_context().all_reduce("SUM", _sums(values, counts))

    @tf.function
    def test_steps(iterator):
        sums = tf.zeros(len(functions))
        for _ in tf.range(-(-examples // batch_size)):
            sums += _first(strategy, strategy.run(step, args=next(iterator)))
        return sums

    shares = _shares(strategy, batches.map(fill))
    return lambda: _means(functions, test_steps(iter(shares)).numpy(), examples)


def _averaging_function(model, strategy):
    """Return a function that gives all replicas the mean of their moving statistics."""
    statistics = [v for v in model.non_trainable_variables if v.dtype.startswith("float")]

    def average():
        context = tf.distribute.get_replica_context()
        means = context.all_reduce("MEAN", [tf.identity(v) for v in statistics])
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    return tf.function(lambda: strategy.run(average))


def _sums(values, counts=1.0):
    return tf.stack([tf.reduce_sum(tf.cast(value, "float32") * counts) for value in values])


def _first(strategy, value):
    return strategy.experimental_local_results(value)[0]


def _means(functions, sums, examples):
    return {
        name: float(value) for name, value in zip(functions, np.divide(sums, examples), strict=True)
    }
