"""The gradient of a function with respect to its input, on every Keras backend."""

import keras


def input_gradient(function, x):
    """Differentiate a scalar function of a tensor.

    Args:
        function: Function of `keras.ops`, layers and models from a tensor to a scalar.
        x: Array, where to differentiate it.

    Returns:
        A NumPy array of the shape of `x`.
    """
    gradient = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    return keras.ops.convert_to_numpy(gradient(function, keras.ops.convert_to_tensor(x)))


def _tensorflow(function, x):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def _jax(function, x):
    import jax

    return jax.grad(function)(x)


def _torch(function, x):
    import torch

    x = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(x), x)
    return gradient
