"""What the two convolution layers share: arguments, output shape, configuration, initializers."""

from typing import Any

import keras
from keras import constraints, initializers, regularizers

from keras_multiception.layers.arguments import (
    KernelSizes,
    Shape,
    Tensor,
    standardize_integer,
    standardize_kernel_sizes,
    standardize_pair,
    strided_length,
)
from keras_multiception.layers.trainable_parts import KEY, TrainableParts

_KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


class BaseConv2D(TrainableParts):
    """A same-padded convolution with several kernel sizes.

    A subclass makes the convolutions, and lists in `parts` what its initializers, regularizers
    and constraints are for: `"kernel"` for `kernel_initializer` and so on.
    """

    parts: tuple[str, ...] = ()

    def __init__(
        self,
        filters: int | None,
        kernel_sizes: KernelSizes,
        strides: int | tuple[int, int],
        padding: str,
        data_format: str | None,
        dilation_rate: int | tuple[int, int],
        activation: Any,
        use_bias: bool,
        **kwargs: Any,
    ) -> None:
        trainable_parts = kwargs.pop(KEY, {})  # of `get_config`, where it is not for `from_config`
        super().__init__(**kwargs)
        self._awaited = tuple(trainable_parts.items())
        if padding != "same":
            raise ValueError(
                f'`padding` of {type(self).__name__} must be "same": only then have the outputs of '
                f"all kernel sizes one size. Received: padding={padding!r}"
            )
        if data_format not in (None, "channels_last"):
            raise ValueError(
                f'`data_format` of {type(self).__name__} must be "channels_last". '
                f"Received: data_format={data_format!r}"
            )
        self.filters = None if filters is None else standardize_integer(filters, "filters")
        self.kernel_sizes = standardize_kernel_sizes(kernel_sizes)
        self.strides = standardize_pair(strides, "strides")
        self.padding = padding
        self.data_format = "channels_last"
        self.dilation_rate = standardize_pair(dilation_rate, "dilation_rate")
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.input_spec: Any = keras.layers.InputSpec(ndim=4)

    def call(self, inputs: Tensor) -> Tensor:
        """Apply the convolution."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for inputs of `input_shape`."""
        batch, height, width, channels = input_shape
        rows, columns = self.strides
        filters = self.filters or channels
        return batch, strided_length(height, rows), strided_length(width, columns), filters

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        config = {
            **super().get_config(),
            "filters": self.filters,
            "kernel_sizes": self.kernel_sizes,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
        for part in self.parts:
            for kind, module in _KINDS.items():
                config[f"{part}_{kind}"] = module.serialize(getattr(self, f"{part}_{kind}"))
        return config


# The initializers of the paper's experiments. PyTorch takes the fans of a depthwise kernel from one
# channel: its fan-in, `k * k`, is what Keras calls fan-out of a `(k, k, channels, 1)` kernel.


def he_normal(mode: str = "fan_in") -> keras.initializers.Initializer:
    """He-normal initializer of a full or pointwise convolution.

    `mode` is `"fan_in"` (the paper's ResNets) or `"fan_out"` (its MobileNetV2 and Shake-Shake).
    """
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")


def depthwise_he_normal(mode: str = "fan_in") -> keras.initializers.Initializer:
    """He-normal initializer of a depthwise convolution, with PyTorch's meaning of `mode`.

    `"fan_in"` is the area of the kernel, `"fan_out"` the area times the channels.
    """
    return he_normal({"fan_in": "fan_out", "fan_out": "fan_in"}[mode])


def uniform_bias(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's initializer of a bias (and of a dense kernel): uniform in +-1 / sqrt(fan_in)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def branch_initializer(initializer: Any, index: int) -> Any:
    """Copy an initializer so that it draws other values in each branch of a layer.

    A Keras initializer object repeats its draws, and branches that start equal stay equal. One
    without a seed in its config, or with a `keras.random.SeedGenerator`, is returned as it is.
    """
    if not isinstance(initializer, keras.initializers.Initializer) or isinstance(
        getattr(initializer, "seed", None), keras.random.SeedGenerator
    ):
        return initializer
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    if isinstance(config["seed"], int):
        config["seed"] += index
    return type(initializer).from_config(config)
