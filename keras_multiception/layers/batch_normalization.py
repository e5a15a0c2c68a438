"""Batch normalization of images by the fused op of the backend, where it has one."""

import keras

from keras_multiception import kernels
from keras_multiception.layers.arguments import Tensor
from keras_multiception.layers.trainable_parts import TrainableParts


@keras.saving.register_keras_serializable(package="keras_multiception")
class BatchNormalization(TrainableParts, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster on TensorFlow for images with channels last.

    Arguments, weights, shapes and results are those of Keras, results but for rounding. Where the
    backend has no fused op, or it does not fit (a mask, other axes, synchronized statistics,
    weights in another type than float32), this is Keras' own layer.

    Example:
        >>> keras.Sequential([keras.layers.Conv2D(16, 3), km.layers.BatchNormalization()])

    Reference:
        Ioffe, Szegedy: Batch Normalization (ICML 2015).
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize; `training` chooses batch or moving statistics."""
        fused = kernels.fused_op("batch_norm", inputs)
        if mask is not None or fused is None or not self.can_be_fused():
            return super().call(inputs, training=training, mask=mask)
        training = training and self.trainable
        statistics = None if training else self.statistics()
        y, mean, variance = fused(inputs, self.gamma, self.beta, self.epsilon, statistics)
        if training:
            self.update(mean, variance)
        return y

    def can_be_fused(self) -> bool:
        """Return whether a fused op computes what this layer does."""
        return (
            self.axis in (-1, 3)
            and self.scale
            and self.center
            and self.variable_dtype == "float32"
            and not self.synchronized
            and not getattr(self, "renorm", False)
        )

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return the moving mean and variance."""
        return self.moving_mean, self.moving_variance

    def update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the moving statistics towards those of a batch."""
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
