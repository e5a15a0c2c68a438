"""Depthwise Multiception convolution, Algorithm 1 of the paper."""

import collections.abc
import numbers
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_multiception import kernels
from keras_multiception.layers.arguments import (
    KernelSizes,
    Shape,
    Tensor,
    require_number,
    standardize_integer,
)
from keras_multiception.layers.base_conv2d import (
    BaseConv2D,
    branch_initializer,
    depthwise_he_normal,
    he_normal,
    uniform_bias,
)
from keras_multiception.layers.batch_normalization import BatchNormalization


@keras.saving.register_keras_serializable(package="keras_multiception")
class MulticeptionConv2D(BaseConv2D):
    """Depthwise Multiception convolution: multiscale kernels over every input channel.

    Each kernel size is one depthwise convolution over *all* input channels; their outputs are
    concatenated, batch normalized, combined by a 1x1 convolution and batch normalized again:

        branch_k = DepthwiseConv2D(k)(x)                        for each k of `kernel_sizes`
        y = BatchNorm(Conv2D(filters, 1)(BatchNorm(concatenate(branches))))
        y = activation(y)

    With one kernel size it is a depthwise separable convolution (with a batch norm in between).
    The depthwise convolutions run at stride 1 and the 1x1 convolution carries the stride, so the
    first batch norm sees every position. The padding is symmetric, `dilation * (k - 1) / 2` on
    each side, at every stride. Defaults are those of the paper's experiments.

    The layer takes the place of a same-padded `Conv2D` *and the batch norm after it*:
    `MulticeptionConv2D(64, (3, 5, 7), strides=2)` replaces
    `Conv2D(64, 3, strides=2, padding="same", use_bias=False)` and `BatchNormalization()`.

    Args:
        filters: Integer, number of output channels.
        kernel_sizes: Odd integer, or a list of odd integers or of pairs of them (height, width):
            one depthwise branch each. Sizes may repeat; the paper uses (3, 5, 7) in the first
            third of a network, (3, 5) in the second and (3, 3) in the last.
        strides: Positive integer or pair of them.
        padding: Only `"same"`, as in `Conv2D`.
        data_format: Only `"channels_last"` (or `None`).
        dilation_rate: Positive integer or pair, the dilation of every depthwise branch.
        activation: Activation after the last batch norm; `None` for linear.
        use_bias: Boolean, whether the 1x1 convolution has a bias (it has in the paper's code).
        depthwise_initializer, pointwise_initializer, bias_initializer: Initializers. The default
            of the kernels is He-normal, fan-in, which is the area of a depthwise kernel; of the
            bias uniform in +-1 / sqrt(inputs of the 1x1 convolution).
        depthwise_regularizer, pointwise_regularizer, bias_regularizer: Regularizers.
        depthwise_constraint, pointwise_constraint, bias_constraint: Constraints.
        momentum: Float, momentum of the moving statistics of both batch norms.
        epsilon: Float, what both batch norms add to the variance.
        **kwargs: `name`, `dtype`, `trainable` and the other arguments of `keras.layers.Layer`.

    Input shape:
        `(batch, height, width, channels)`; height and width may be `None`.

    Output shape:
        `(batch, ceil(height / strides[0]), ceil(width / strides[1]), filters)`.

    Raises:
        ValueError: If an argument is out of its range, or the number of channels is unknown.

    Example:
        >>> x = keras.Input((32, 32, 16))
        >>> km.layers.MulticeptionConv2D(32, (3, 5, 7), strides=2)(x).shape
        (None, 16, 16, 32)

    Reference:
        Bao, Graeber, Wang: Depthwise Multiception Convolution for Reducing Network Parameters
        without Sacrificing Accuracy (ICARCV 2020), Section III, Figure 2 and Algorithm 1.
    """

    parts = ("depthwise", "pointwise", "bias")

    def __init__(
        self,
        filters: int,
        kernel_sizes: KernelSizes = (3, 5, 7),
        strides: int | tuple[int, int] = 1,
        padding: str = "same",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = None,
        pointwise_initializer: Any = None,
        bias_initializer: Any = None,
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        filters = standardize_integer(filters, "filters")
        own = (filters, kernel_sizes, strides, padding, data_format, dilation_rate)
        super().__init__(*own, activation, use_bias, **kwargs)
        self.depthwise_initializer = initializers.get(
            depthwise_he_normal() if depthwise_initializer is None else depthwise_initializer
        )
        self.pointwise_initializer = initializers.get(
            he_normal() if pointwise_initializer is None else pointwise_initializer
        )
        self.bias_initializer = initializers.get(bias_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.pointwise_regularizer = regularizers.get(pointwise_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)
        self.pointwise_constraint = constraints.get(pointwise_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        require_number(momentum, "momentum", below=1)
        if not isinstance(epsilon, numbers.Real) or not float(epsilon) > 0:
            raise ValueError(f"`epsilon` must be greater than 0. Received: epsilon={epsilon!r}")
        self.momentum: float = momentum
        self.epsilon: float = epsilon
        self._make_layers()

    def _make_layers(self) -> None:
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        norm = {"momentum": self.momentum, "epsilon": self.epsilon, **shared}
        self.depthwise_convs = [
            keras.layers.DepthwiseConv2D(
                size,
                padding="same",
                data_format=self.data_format,
                dilation_rate=self.dilation_rate,
                use_bias=False,
                depthwise_initializer=branch_initializer(self.depthwise_initializer, index),
                depthwise_regularizer=self.depthwise_regularizer,
                depthwise_constraint=self.depthwise_constraint,
                name=f"depthwise_{index}",
                **shared,
            )
            for index, size in enumerate(self.kernel_sizes)
        ]
        self.depthwise_bn = BatchNormalization(name="depthwise_bn", **norm)
        self.pointwise_conv = keras.layers.Conv2D(
            self.filters,
            1,
            strides=self.strides,
            data_format=self.data_format,
            use_bias=self.use_bias,
            kernel_initializer=self.pointwise_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.pointwise_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.pointwise_constraint,
            bias_constraint=self.bias_constraint,
            name="pointwise",
            **shared,
        )
        self.pointwise_bn = BatchNormalization(name="pointwise_bn", **norm)

    def build(self, input_shape: Shape) -> None:
        """Create the weights for inputs of `input_shape`."""
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The last axis of the input of MulticeptionConv2D must be known. "
                f"Received: input_shape={input_shape}"
            )
        for conv in self.depthwise_convs:
            conv.build(input_shape)
        concatenated = (*input_shape[:-1], channels * len(self.kernel_sizes))
        self.depthwise_bn.build(concatenated)
        if self.bias_initializer is None:
            self.pointwise_conv.bias_initializer = uniform_bias(concatenated[-1])
        self.pointwise_conv.build(concatenated)
        self.pointwise_bn.build((*input_shape[:-1], self.filters))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the convolution; `training` chooses batch or moving statistics."""
        fused = kernels.fused_op("multiception", inputs, self.kernel_sizes, self.dilation_rate)
        if fused and self.depthwise_bn.can_be_fused():
            x = self._call_fused(fused, inputs, training)
        else:
            branches = self._branches(inputs)
            x = branches[0] if len(branches) == 1 else ops.concatenate(branches, axis=-1)
            x = self.depthwise_bn(x, training=training)
            x = self._pointwise(x)
        x = self.pointwise_bn(x, training=training)
        return self.activation(x)

    def _branches(self, x: Tensor) -> list[Tensor]:
        """Apply the depthwise convolutions."""
        fused = kernels.fused_op("depthwise_branches", x, self.kernel_sizes, self.dilation_rate)
        if fused:
            return fused(x, [conv.kernel for conv in self.depthwise_convs])
        return [conv(x) for conv in self.depthwise_convs]

    def _pointwise(self, x: Tensor) -> Tensor:
        """Apply the 1x1 convolution."""
        rows, columns = self.strides  # if unequal, oneDNN's gradient of a strided kernel is wrong
        if rows == columns:
            return self.pointwise_conv(x)
        x = ops.conv(
            x[:, ::rows, ::columns], self.pointwise_conv.kernel, data_format=self.data_format
        )
        return ops.add(x, self.pointwise_conv.bias) if self.use_bias else x

    def _call_fused(
        self, multiception: collections.abc.Callable, inputs: Tensor, training: bool | None
    ) -> Tensor:
        """Compute everything before the last batch norm by the fused op of the backend."""
        norm = self.depthwise_bn
        training = training and norm.trainable
        x, mean, variance = multiception(
            inputs,
            [conv.kernel for conv in self.depthwise_convs],
            norm.gamma,
            norm.beta,
            self.pointwise_conv.kernel,
            self.strides,
            self.epsilon,
            None if training else norm.statistics(),
        )
        if training:
            norm.update(mean, variance)
        return ops.add(x, self.pointwise_conv.bias) if self.use_bias else x

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
