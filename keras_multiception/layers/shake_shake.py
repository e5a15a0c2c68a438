"""Shake-Shake: two branches mixed at random, with other weights backward than forward."""

from typing import Any

import keras
from keras import ops

from keras_multiception.layers.arguments import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_multiception")
class ShakeShake(keras.layers.Layer):
    """Mix two branches: at random while training, evenly in inference.

    While training, each image of the batch has two random numbers of its own, uniform in 0..1:

        y  = alpha * a + (1 - alpha) * b                     forward
        da = beta * dy,  db = (1 - beta) * dy                backward, beta independent of alpha

    In inference `y = (a + b) / 2`.

    Args:
        seed: Integer, seed of the random numbers; `None` draws one.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Input shape:
        A list of two tensors of the same shape, `(batch, ...)`.

    Output shape:
        The shape of one of them.

    Example:
        >>> a, b = keras.Input((32, 32, 16)), keras.Input((32, 32, 16))
        >>> km.layers.ShakeShake()([a, b]).shape
        (None, 32, 32, 16)

    Reference:
        Gastaldi: Shake-Shake regularization (2017), the form "Shake-Shake-Image".
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: list[Shape]) -> None:
        """Check that there are two inputs of one shape."""
        _require_pair(input_shape)

    def call(self, inputs: list[Tensor], training: bool | None = False) -> Tensor:
        """Mix the branches; `training` chooses random weights or the mean."""
        first, second = inputs
        if not training:
            return (first + second) * 0.5
        alpha, beta = self._draw(first), self._draw(first)
        difference = first - second
        # the value is that of alpha, the gradient that of beta
        return second + beta * difference + ops.stop_gradient((alpha - beta) * difference)

    def _draw(self, x: Tensor) -> Tensor:
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        return keras.random.uniform(shape, dtype=x.dtype, seed=self.seed_generator)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of one input."""
        return _require_pair(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "seed": self.seed}


def _require_pair(input_shape: list[Shape]) -> Shape:
    shapes = [tuple(s) if isinstance(s, tuple | list) else s for s in input_shape]
    if len(shapes) != 2 or not isinstance(shapes[0], tuple) or shapes[0] != shapes[1]:
        raise ValueError(
            "The input of ShakeShake must be a list of two tensors of the same shape. "
            f"Received: input_shape={input_shape}"
        )
    return shapes[0]
