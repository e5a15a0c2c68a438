"""Weights of Shake-Shake's released code that no computation uses."""

import keras

from keras_multiception.layers.initializers import he_normal


@keras.saving.register_keras_serializable(package="keras_multiception")
class UnusedShortcut(keras.layers.Layer):
    """The identity, together with the weights of a two-path shortcut that is never computed.

    The code that the paper's authors released makes a shortcut in every block of Shake-Shake and,
    where a block keeps its shape, adds the input itself. The parameter counts of the paper's
    Table V include these weights. They get no gradient.

    Args:
        filters: Even integer, the channels of the input and of the shortcut.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, filters)`.

    Output shape:
        That of the input.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.convs = [
            keras.layers.Conv2D(
                filters // 2,
                1,
                use_bias=False,
                kernel_initializer=he_normal("fan_out"),
                data_format="channels_last",
                trainable=self.trainable,
                name=f"conv{index}",
            )
            for index in (1, 2)
        ]
        self.bn = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, trainable=self.trainable, name="bn"
        )

    def build(self, input_shape):
        """Create the weights."""
        for layer in (*self.convs, self.bn):
            layer.build(input_shape)

    def call(self, inputs):
        """Return the input."""
        return inputs

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "filters": self.filters}
