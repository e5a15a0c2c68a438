"""MixConv: one kernel size for each group of channels."""

import keras
from keras import constraints, initializers, ops, regularizers

from keras_multiception.layers.arguments import (
    require_same_channels_last,
    standardize_integer,
    standardize_kernel_sizes,
    standardize_pair,
    strided_length,
)
from keras_multiception.layers.initializers import (
    branch_initializer,
    depthwise_he_normal,
    he_normal,
)


@keras.saving.register_keras_serializable(package="keras_multiception")
class MixConv2D(keras.layers.Layer):
    """Mixed convolution: the channels in groups, each group with a kernel size of its own.

    The channels are split evenly into as many groups as there are kernel sizes, the remainder
    going to the first group; each group is convolved with its kernel size; the outputs are
    concatenated. Two forms:

    - `depthwise=True`: MixConv as published by Tan & Le, a depthwise convolution in each group.
      It mixes no channels; a 1x1 convolution usually follows.
    - `depthwise=False`: a full convolution from the group's input channels to its share of the
      `filters`: what the Multiception paper's authors compared against.

    The padding is symmetric, `dilation * (k - 1) / 2` on each side, at every stride, so that all
    groups look at the same positions. There is no batch norm inside.

    Args:
        filters: Integer, number of output channels. With `depthwise=True` it may be left out, for
            as many as the input has, or be a multiple of that (the channel multiplier).
        kernel_sizes: Odd integer, or a list of odd integers or of pairs of them (height, width):
            one group each.
        strides: Positive integer, or pair of equal ones with `depthwise=True`.
        padding: Only `"same"`; there for the likeness to `Conv2D`.
        data_format: Only `"channels_last"` (or `None`).
        dilation_rate: Positive integer or pair; above 1 only with strides of 1.
        depthwise: Boolean, which of the two forms.
        activation: Activation of the output; `None` for linear.
        use_bias: Boolean, whether to add a bias.
        kernel_initializer: Initializer of the kernels. The default is He-normal, fan-in.
        bias_initializer: Initializer of the bias.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the bias.
        kernel_constraint: Constraint of the kernels.
        bias_constraint: Constraint of the bias.
        **kwargs: `name`, `dtype`, `trainable` and the other arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`; height and width may be `None`.

    Output shape:
        `(batch, ceil(height / strides[0]), ceil(width / strides[1]), filters)`.

    Raises:
        ValueError: If an argument is out of its range, or there are fewer input channels or
            filters than groups.

    Example:
        >>> x = np.random.rand(2, 32, 32, 16)
        >>> km.layers.MixConv2D(kernel_sizes=(3, 5, 7), strides=2)(x).shape
        (2, 16, 16, 16)

    Reference:
        Tan, Le: MixConv: Mixed Depthwise Convolutional Kernels (BMVC 2019), Section 3.
    """

    def __init__(
        self,
        filters=None,
        kernel_sizes=(3, 5, 7),
        strides=1,
        padding="same",
        data_format=None,
        dilation_rate=1,
        depthwise=True,
        activation=None,
        use_bias=False,
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_same_channels_last(type(self).__name__, padding, data_format)
        if filters is None and not depthwise:
            raise ValueError("`filters` must be given when `depthwise=False`.")
        self.filters = None if filters is None else standardize_integer(filters, "filters")
        self.kernel_sizes = standardize_kernel_sizes(kernel_sizes)
        self.strides = standardize_pair(strides, "strides")
        self.padding = padding
        self.data_format = "channels_last"
        self.dilation_rate = standardize_pair(dilation_rate, "dilation_rate")
        self.depthwise = bool(depthwise)
        if self.depthwise and self.strides[0] != self.strides[1]:
            raise ValueError(
                "`strides` must be the same along height and width for a depthwise convolution. "
                f"Received: strides={strides}"
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` cannot both be above 1. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )
        if self.filters is not None and self.filters < len(self.kernel_sizes):
            raise ValueError(
                f"`filters` must be at least the number of kernel sizes, {len(self.kernel_sizes)}. "
                f"Received: filters={filters}"
            )
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        if kernel_initializer is None:
            kernel_initializer = depthwise_he_normal() if self.depthwise else he_normal()
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        """Create the weights for inputs of `input_shape`."""
        channels, groups = input_shape[-1], len(self.kernel_sizes)
        if channels is None or channels < groups:
            raise ValueError(
                f"The input of MixConv2D must have at least {groups} channels, one for each kernel "
                f"size. Received: input_shape={input_shape}"
            )
        filters = self.filters or channels
        if self.depthwise and filters % channels:
            raise ValueError(
                f"`filters` must be a multiple of the input's {channels} channels for a depthwise "
                "convolution; put a 1x1 convolution behind it for any other number. "
                f"Received: filters={filters}"
            )
        self.group_channels = split_channels(channels, groups)
        self.convs = [
            self._make_conv(index, size, group_filters, filters // channels)
            for index, (size, group_filters) in enumerate(
                zip(self.kernel_sizes, split_channels(filters, groups), strict=True)
            )
        ]
        for conv, group, padding in zip(
            self.convs, self.group_channels, self._paddings(), strict=True
        ):
            height, width = (
                length and length + 2 * pad
                for length, pad in zip(input_shape[1:3], padding, strict=True)
            )
            conv.build((input_shape[0], height, width, group))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def _paddings(self):
        """Return the explicit padding of each group; at stride 1, "same" is symmetric by itself."""
        strided = max(self.strides) > 1
        return [(h // 2, w // 2) if strided else (0, 0) for h, w in self.kernel_sizes]

    def _make_conv(self, index, kernel_size, filters, depth_multiplier):
        kernel_initializer = branch_initializer(self.kernel_initializer, index)
        common = {
            "strides": self.strides,
            "padding": "valid" if max(self.strides) > 1 else "same",
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "use_bias": self.use_bias,
            "bias_initializer": self.bias_initializer,
            "bias_regularizer": self.bias_regularizer,
            "bias_constraint": self.bias_constraint,
            "dtype": self.dtype_policy,
            "trainable": self.trainable,
            "name": f"group_{index}",
        }
        if self.depthwise:
            return keras.layers.DepthwiseConv2D(
                kernel_size,
                depth_multiplier=depth_multiplier,
                depthwise_initializer=kernel_initializer,
                depthwise_regularizer=self.kernel_regularizer,
                depthwise_constraint=self.kernel_constraint,
                **common,
            )
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=self.kernel_regularizer,
            kernel_constraint=self.kernel_constraint,
            **common,
        )

    def call(self, inputs):
        """Apply the convolution."""
        ends = [sum(self.group_channels[: i + 1]) for i in range(len(self.group_channels) - 1)]
        groups = ops.split(inputs, ends, axis=-1) if ends else [inputs]
        outputs = [
            conv(ops.pad(x, [[0, 0], [height] * 2, [width] * 2, [0, 0]]) if height or width else x)
            for conv, x, (height, width) in zip(self.convs, groups, self._paddings(), strict=True)
        ]
        return self.activation(ops.concatenate(outputs, axis=-1))

    def compute_output_shape(self, input_shape):
        """Return the shape of the output for inputs of `input_shape`."""
        batch, height, width, channels = input_shape
        return (
            batch,
            strided_length(height, self.strides[0]),
            strided_length(width, self.strides[1]),
            self.filters or channels,
        )

    def get_config(self):
        """Return the arguments that rebuild this layer."""
        config = super().get_config()
        config.update(
            {
                "filters": self.filters,
                "kernel_sizes": self.kernel_sizes,
                "strides": self.strides,
                "padding": self.padding,
                "data_format": self.data_format,
                "dilation_rate": self.dilation_rate,
                "depthwise": self.depthwise,
                "activation": keras.activations.serialize(self.activation),
                "use_bias": self.use_bias,
                "kernel_initializer": initializers.serialize(self.kernel_initializer),
                "bias_initializer": initializers.serialize(self.bias_initializer),
                "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
                "bias_regularizer": regularizers.serialize(self.bias_regularizer),
                "kernel_constraint": constraints.serialize(self.kernel_constraint),
                "bias_constraint": constraints.serialize(self.bias_constraint),
            }
        )
        return config


def split_channels(channels, groups):
    """Split a number of channels evenly into groups; the remainder goes to the first.

    Args:
        channels: Integer, at least `groups`.
        groups: Integer, at least 1.

    Returns:
        A list of `groups` integers with the sum `channels`.
    """
    share = channels // groups
    return [channels - share * (groups - 1)] + [share] * (groups - 1)
