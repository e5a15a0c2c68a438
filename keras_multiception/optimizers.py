"""Optimizers: that of the paper's experiments, and one that gets further in few epochs."""

import re
from typing import Any

import keras
from keras import ops

from keras_multiception.layers.arguments import require_number


@keras.saving.register_keras_serializable(package="keras_multiception")
class SGDL2(keras.optimizers.SGD):
    """Stochastic gradient descent with L2 regularization coupled to every parameter.

    With parameter `w`, gradient `g` and learning rate `lr`, one step is

        g = g + l2 * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v)      # nesterov
        w = w - lr * v                       # otherwise

    which is what PyTorch's `SGD(weight_decay=l2)` does, and so what the paper's experiments used.
    That of `keras.optimizers.SGD` is decoupled, and about nine times weaker at momentum 0.9.
    The penalty covers every trainable variable, those of batch norms too;
    `exclude_from_weight_decay`, called before the first step, takes some out.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1). 0 is plain gradient descent.
        nesterov: Boolean, whether to look ahead along the velocity.
        l2: Float, at least 0: the coefficient of the coupled penalty `l2 / 2 * w ** 2`.
        **kwargs: The other arguments of `keras.optimizers.Optimizer`, but not `weight_decay`.

    Example:
        >>> model.compile(km.optimizers.SGDL2(0.1), loss="sparse_categorical_crossentropy")

    Reference:
        Section IV of the paper: Nesterov momentum 0.9, weight decay 2e-4.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        l2: float = 2e-4,
        name: str = "sgd_l2",
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("weight_decay", None):
            raise ValueError(
                "`weight_decay` is the decoupled decay of other optimizers; "
                "SGDL2 takes the coupled coefficient as `l2`."
            )
        require_number(l2, "l2")
        require_number(momentum, "momentum", below=1)
        super().__init__(
            learning_rate=learning_rate,
            momentum=float(momentum),
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        self.l2 = float(l2)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
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

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this optimizer."""
        config = super().get_config()
        config.pop("weight_decay", None)
        config["l2"] = self.l2
        return config


@keras.saving.register_keras_serializable(package="keras_multiception")
class ConvMuon(keras.optimizers.Muon):
    """Muon for convolutional networks: `keras.optimizers.Muon` with kernels taken as matrices.

    Here a kernel of shape (height, width, channels, filters) is a matrix of shape
    (height * width * channels, filters), a depthwise one of shape (height * width, channels). With
    such a matrix `w`, gradient `g` and learning rate `lr`, one step is

        m = momentum * m + g
        w = w - lr * (weight_decay * w + orthogonalize(g + momentum * m))

    where `orthogonalize` moves all singular values near 1 by five Newton-Schulz iterations.
    All else, the classifier too, is trained by AdamW, and so is what `exclude_layers` names or,
    unless `exclude_embeddings` is false, is called an embedding.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Float in [0, 1), for kernels.
        weight_decay: Float, at least 0, for kernels; `None` is 0.
        adam_lr_ratio: Float, learning rate of AdamW as a share of that of kernels.
        adam_weight_decay: Float, at least 0, the same for what AdamW trains; `None` is 0.
        rms_rate: `None` for the step above, or what Keras' Muon scales it by.
        **kwargs: The other arguments of `keras.optimizers.Muon`.

    Example:
        >>> model.compile(km.optimizers.ConvMuon(0.05), loss="sparse_categorical_crossentropy")

    Reference:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024). The paper
        of Multiception trains with `SGDL2`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.05,
        momentum: float = 0.6,
        weight_decay: float | None = 0.025,
        adam_lr_ratio: float = 0.1,
        adam_weight_decay: float | None = 0.0,
        rms_rate: float | None = None,
        name: str = "conv_muon",
        **kwargs: Any,
    ) -> None:
        weight_decay, adam_weight_decay = weight_decay or 0.0, adam_weight_decay or 0.0
        require_number(weight_decay, "weight_decay")
        require_number(adam_weight_decay, "adam_weight_decay")
        require_number(adam_lr_ratio, "adam_lr_ratio")
        require_number(momentum, "momentum", below=1)
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            adam_lr_ratio=adam_lr_ratio,
            adam_weight_decay=adam_weight_decay,
            rms_rate=rms_rate,
            name=name,
            **kwargs,
        )

    def _should_use_adamw(self, variable: Any) -> bool:
        excluded = [*self.exclude_layers, *(["(?i)embedding"] if self.exclude_embeddings else [])]
        return len(variable.shape) != 4 or any(
            re.search(pattern, variable.path) for pattern in excluded
        )

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, ops.add(gradient, ops.multiply(m, self.momentum - 1)))
        step = ops.add(gradient, ops.multiply(m, self.momentum)) if self.nesterov else m
        *window, filters = variable.shape
        columns = window[-1] if filters == 1 else filters
        matrix = self.zeropower_via_newtonschulz5(ops.reshape(step, (-1, columns)), self.ns_steps)
        matrix = self.lr_adjust(ops.multiply(matrix, ops.cast(lr, variable.dtype)))
        self.assign_sub(variable, ops.reshape(matrix, variable.shape))
