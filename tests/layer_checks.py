"""Checks that hold for every layer or model, on every Keras backend."""

import json

import keras
import numpy as np
import pytest


def slow_if(is_slow, values):
    """Return the values as parameters of a test, some of them marked as slow."""
    return [pytest.param(x, marks=[pytest.mark.slow] if is_slow(x) else []) for x in values]


def forward(layer, x, training=False):
    """Return the outputs of a built layer or model as arrays; JAX compiles it as one, sooner."""
    if keras.backend.backend() != "jax":
        outputs = layer(x, training=training)
    elif isinstance(layer, keras.Model) and not training:
        outputs = layer.predict_on_batch(x)
    else:
        import jax

        variables = layer.trainable_variables, layer.non_trainable_variables
        states = [[variable.value for variable in each] for each in variables]
        step = jax.jit(lambda *states, x: layer.stateless_call(*states, x, training=training)[0])
        outputs = step(*states, x=x)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def forward_backward(layer, x, dy, training=True):
    """Run a built layer or model forward and backward.

    Returns (y, dx, {id(variable): its gradient}) as NumPy arrays, for the scalar sum(y * dy); the
    non-trainable variables are updated as in training.
    """
    backend = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    y, dx, gradients = backend(layer, x, dy, training)
    gradients = [None if g is None else keras.ops.convert_to_numpy(g) for g in gradients]
    return (
        keras.ops.convert_to_numpy(y),
        keras.ops.convert_to_numpy(dx),
        dict(zip(map(id, layer.trainable_variables), gradients, strict=True)),
    )


def _tensorflow(layer, x, dy, training):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32") * dy)
    dx, *gradients = tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])
    return y, dx, gradients


def _jax(layer, x, dy, training):
    import jax

    def loss(x, trainable):
        y, state = layer.stateless_call(
            trainable, [v.value for v in layer.non_trainable_variables], x, training=training
        )
        return (y.astype("float32") * dy).sum(), (y, state)

    trainable = [v.value for v in layer.trainable_variables]
    # compiled as one: of a whole network, every operation by itself takes minutes to compile
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, state)), (dx, gradients) = step(jax.numpy.asarray(x), trainable)
    for variable, value in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return y, dx, gradients


def _torch(layer, x, dy, training):
    x = keras.ops.convert_to_tensor(x).requires_grad_(True)
    for variable in layer.trainable_variables:
        variable.value.grad = None
    y = layer(x, training=training)
    (y.float() * keras.ops.convert_to_tensor(dy)).sum().backward()
    return y.detach(), x.grad, [v.value.grad for v in layer.trainable_variables]


def assert_close(actual, expected, relative):
    """Compare arrays by the largest error relative to the largest expected value."""
    expected = np.asarray(expected)
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error <= relative, f"relative error {error:.2e} above {relative:.0e}"


def check_layer(make, input_shape, output_shape, weights):
    """Check a layer: shapes, weight count, config round trip, symbolic = eager, saving, one fit.

    `make` builds a new layer; `weights` is its number of weights (trainable, non-trainable).
    """
    layer = make()
    assert tuple(layer.compute_output_shape(input_shape)) == output_shape

    inputs = keras.Input(batch_shape=input_shape)
    outputs = layer(inputs)
    assert outputs.shape == output_shape
    counts = len(layer.trainable_variables), len(layer.non_trainable_variables)
    assert counts == weights

    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copy = keras.saving.deserialize_keras_object(config)  # builds it as well
    assert copy.get_config() == layer.get_config()
    copy.set_weights(layer.get_weights())
    x = np.random.default_rng(0).normal(size=[d or 4 for d in input_shape]).astype("float32")
    model = keras.Model(inputs, outputs)
    expected = forward(model, x)
    assert_close(keras.ops.convert_to_numpy(copy(x)), expected, 1e-6)

    # a bias may stay as it is: before a batch norm its gradient is zero
    moving = [w for w in model.trainable_variables if not w.path.endswith("bias")]
    before = [keras.ops.convert_to_numpy(w) for w in moving]
    target = np.random.default_rng(1).normal(size=expected.shape)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    assert np.isfinite(model.train_on_batch(x, target))
    after = [keras.ops.convert_to_numpy(w) for w in moving]
    assert all(np.any(a != b) for a, b in zip(after, before, strict=True))
