"""The optimiser of the paper's experiments."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_multiception")
class SGDL2(keras.optimizers.SGD):
    """Stochastic gradient descent with L2 regularisation coupled to every parameter.

    With parameter `w`, gradient `g` and learning rate `lr`, one step is

        g = g + l2 * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v)      # nesterov
        w = w - lr * v                       # otherwise

    which is step by step what PyTorch's `SGD(weight_decay=l2)` does, and so what the
    paper's experiments used. `keras.optimizers.SGD(weight_decay=...)` is another method: it
    decays the weights apart from the momentum, which at momentum 0.9 is about nine times
    weaker, and it multiplies the learning rate into the velocity, so that the two differ
    whenever the learning rate changes.

    The penalty covers every trainable variable, batch normalisation scales and offsets
    included, as in the paper's experiments; `exclude_from_weight_decay`, called before the
    first step as for every Keras optimiser, takes some out.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1). 0 is plain gradient descent.
        nesterov: Boolean, whether to look ahead along the velocity.
        l2: Float, at least 0: the coefficient of the coupled penalty `l2 / 2 * w ** 2`.
        **kwargs: `clipnorm`, `use_ema`, `loss_scale_factor`, `gradient_accumulation_steps`
            and the other arguments of `keras.optimizers.Optimizer`, but not `weight_decay`.

    Raises:
        ValueError: If an argument is out of its range, or `weight_decay` is given.

    Example:
        >>> model.compile(km.optimizers.SGDL2(0.1), loss="sparse_categorical_crossentropy")

    Reference:
        Section IV of the paper: Nesterov momentum 0.9, weight decay 2e-4.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        l2=2e-4,
        name="sgd_l2",
        **kwargs,
    ):
        if kwargs.pop("weight_decay", None):
            raise ValueError(
                "`weight_decay` is the decoupled decay of other optimisers; "
                "SGDL2 takes the coupled coefficient as `l2`."
            )
        if not l2 >= 0:
            raise ValueError(f"`l2` must be at least 0. Received: l2={l2}")
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs
        )
        self.l2 = float(l2)

    def update_step(self, gradient, variable, learning_rate):
        """Apply one step to one variable (called by Keras)."""
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.l2 and self._use_weight_decay(variable):
            gradient = ops.add(gradient, ops.multiply(variable, self.l2))
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            momentum = ops.cast(self.momentum, variable.dtype)
            self.assign(velocity, ops.add(ops.multiply(velocity, momentum), gradient))
            if self.nesterov:
                gradient = ops.add(gradient, ops.multiply(velocity, momentum))
            else:
                gradient = velocity
        self.assign_sub(variable, ops.multiply(gradient, learning_rate))

    def get_config(self):
        """Return the arguments that rebuild this optimiser."""
        config = super().get_config()
        config.pop("weight_decay", None)
        config["l2"] = self.l2
        return config
