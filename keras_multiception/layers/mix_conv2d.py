"""MixConv: one kernel size for each group of channels."""

from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_multiception.layers.arguments import KernelSizes, Shape, Tensor
from keras_multiception.layers.base_conv2d import (
    BaseConv2D,
    branch_initializer,
    depthwise_he_normal,
    he_normal,
)


@keras.saving.register_keras_serializable(package="keras_multiception")
class MixConv2D(BaseConv2D):
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
        padding: Only `"same"`, as in `Conv2D`.
        data_format: Only `"channels_last"` (or `None`).
        dilation_rate: Positive integer or pair; above 1 only with strides of 1.
        depthwise: Boolean, which of the two forms.
        activation: Activation of the output; `None` for linear.
        use_bias: Boolean, whether to add a bias.
        kernel_initializer, bias_initializer: Initializers, by default He-normal (fan-in) and zeros.
        kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: As in `Conv2D`.
        **kwargs: `name`, `dtype`, `trainable` and the other arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`; height and width may be `None`.

    Output shape:
        `(batch, ceil(height / strides[0]), ceil(width / strides[1]), filters)`.

    Raises:
        ValueError: If an argument is out of its range, or there are fewer channels than groups.

    Example:
        >>> x = keras.Input((32, 32, 16))
        >>> km.layers.MixConv2D(kernel_sizes=(3, 5, 7), strides=2)(x).shape
        (None, 16, 16, 16)

    Reference:
        Tan, Le: MixConv: Mixed Depthwise Convolutional Kernels (BMVC 2019), Section 3.
    """

    parts = ("kernel", "bias")

    def __init__(
        self,
        filters: int | None = None,
        kernel_sizes: KernelSizes = (3, 5, 7),
        strides: int | tuple[int, int] = 1,
        padding: str = "same",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = 1,
        depthwise: bool = True,
        activation: Any = None,
        use_bias: bool = False,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        own = (filters, kernel_sizes, strides, padding, data_format, dilation_rate)
        super().__init__(*own, activation, use_bias, **kwargs)
        self.depthwise = bool(depthwise)
        if self.filters is None and not self.depthwise:
            raise ValueError("`filters` must be given with `depthwise=False`. Received: None")
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
        if kernel_initializer is None:
            kernel_initializer = depthwise_he_normal() if self.depthwise else he_normal()
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def build(self, input_shape: Shape) -> None:
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
                "convolution; add a 1x1 convolution after it for any other number. "
                f"Received: filters={filters}"
            )
        self.group_channels = split_channels(channels, groups)
        self.convs = [
            self._make_conv(index, size, group_filters, filters // channels)
            for index, (size, group_filters) in enumerate(
                zip(self.kernel_sizes, split_channels(filters, groups), strict=True)
            )
        ]
        for conv, group in zip(self.convs, self.group_channels, strict=True):
            conv.build((input_shape[0], None, None, group))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def _paddings(self) -> list[tuple[int, int]]:
        """Return the explicit padding of each group; at stride 1, "same" is symmetric by itself."""
        strided = max(self.strides) > 1
        return [(h // 2, w // 2) if strided else (0, 0) for h, w in self.kernel_sizes]

    def _make_conv(
        self, index: int, kernel_size: tuple[int, int], filters: int, depth_multiplier: int
    ) -> keras.layers.Layer:
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

    def call(self, inputs: Tensor) -> Tensor:
        """Apply the convolution."""
        ends = [sum(self.group_channels[: i + 1]) for i in range(len(self.group_channels) - 1)]
        groups = ops.split(inputs, ends, axis=-1) if ends else [inputs]
        outputs = [
            conv(ops.pad(x, [[0, 0], [height] * 2, [width] * 2, [0, 0]]) if height or width else x)
            for conv, x, (height, width) in zip(self.convs, groups, self._paddings(), strict=True)
        ]
        return self.activation(ops.concatenate(outputs, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "depthwise": self.depthwise}


def split_channels(channels: int, groups: int) -> list[int]:
    """Split a number of channels evenly into groups; the remainder goes to the first."""
    share = channels // groups
    return [channels - share * (groups - 1)] + [share] * (groups - 1)
