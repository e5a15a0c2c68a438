"""A bare training step of a Keras model, on TensorFlow and on JAX."""

import keras


def make_step(model, x, y):
    """Compile a training step without anything around it.

    Args:
        model: A compiled classifier `keras.Model` with class probabilities.
        x: Array of images.
        y: Array of integer classes.

    Returns:
        A function without arguments that makes one step and waits for it.
    """
    return {"tensorflow": _tensorflow_step, "jax": _jax_step}[keras.backend.backend()](model, x, y)


def make_fit(model, x, y, steps):
    """Return a function without arguments that trains some steps with `model.fit`.

    Args:
        model: A compiled classifier `keras.Model`.
        x: Array, the images of a batch.
        y: Array, their classes.
        steps: Integer, how often the batch is trained on.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        options.autotune.enabled = False  # as in training.pipeline.batches_tensorflow
        batches = tf.data.Dataset.from_tensors((x, y)).repeat(steps).with_options(options)
        return lambda: model.fit(batches, shuffle=False, verbose=0)
    import numpy as np

    images, classes = (np.concatenate([array] * steps) for array in (x, y))
    return lambda: model.fit(images, classes, batch_size=len(x), shuffle=False, verbose=0)


def _loss(y, prediction):
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, prediction))


def _tensorflow_step(model, x, y):
    import tensorflow as tf

    x, y = tf.constant(x), tf.constant(y)
    variables = model.trainable_variables

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = _loss(y, model(x, training=True))
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda: step().numpy()


def _jax_step(model, x, y):
    import jax

    x, y = jax.numpy.asarray(x), jax.numpy.asarray(y)
    model.optimizer.build(model.trainable_variables)

    def loss_of(trainable, non_trainable):
        prediction, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return _loss(y, prediction), non_trainable

    @jax.jit
    def step(trainable, non_trainable, optimizer):
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, non_trainable), gradients = gradient(trainable, non_trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        return loss, (trainable, non_trainable, optimizer)

    variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    # copies: `fit` gives the memory of the model's own to its step
    state = jax.tree.map(jax.numpy.array, [[v.value for v in part] for part in variables])

    def run():
        nonlocal state
        loss, state = step(*state)
        return loss.block_until_ready()

    return run
