"""Batch normalization of images, with the faster form of the backend where it has one."""

import keras

from keras_multiception import kernels


@keras.saving.register_keras_serializable(package="keras_multiception")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster on TensorFlow for images with channels last.

    Arguments, weights, shapes and results are those of Keras, results but for rounding: the
    moving variance is an average of biased variances. Where the backend has no faster form, or
    it does not fit (a mask, other axes, synchronized or renormalized statistics, weights in
    another type than float32), this is Keras' own layer.

    Example:
        >>> keras.Sequential([keras.layers.Conv2D(16, 3), km.layers.BatchNormalization()])

    Reference:
        Ioffe, Szegedy: Batch Normalization (ICML 2015).
    """

    def call(self, inputs, training=None, mask=None):
        """Normalize; `training` chooses batch or moving statistics."""
        fast = self.fast_forms()
        if mask is not None or fast is None or not fast.takes_batch_norm(inputs):
            return super().call(inputs, training=training, mask=mask)
        training = training and self.trainable
        statistics = None if training else self.statistics()
        y, mean, variance = fast.batch_norm(inputs, self.gamma, self.beta, self.epsilon, statistics)
        if training:
            self.update(mean, variance)
        return y

    def fast_forms(self):
        """Return the module of the backend's fast forms if this layer can use it, or `None`."""
        fits = (
            self.axis in (-1, 3)
            and self.scale
            and self.center
            and self.variable_dtype == "float32"
            and not self.synchronized
            and not getattr(self, "renorm", False)
        )
        return kernels.fast_forms() if fits else None

    def statistics(self):
        """Return the moving mean and variance."""
        return self.moving_mean, self.moving_variance

    def update(self, mean, variance):
        """Move the moving statistics towards those of a batch."""
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
