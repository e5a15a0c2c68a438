"""The toolkit's 8-bit scheme, with what the LiteRT converter wants of our networks.

To be imported where it is used: it imports the toolkit.
"""

import copy
from typing import Any

import tensorflow as tf

from keras_multiception.compression.toolkit import import_tfmot

tfmot: Any = import_tfmot()
quantizers: Any = tfmot.quantization.keras.quantizers
NARROW = {"num_bits": 8, "symmetric": True, "narrow_range": True}
WHOLE = {"num_bits": 8, "per_axis": False, "symmetric": False, "narrow_range": False}
WEIGHTS = ("Conv2D", "Conv2DTranspose", "Dense", "DepthwiseConv2D")
FUSED_ACTIVATIONS = ("linear", "relu")


class DepthwiseWeightsQuantizer(quantizers.LastValueQuantizer):
    """Symmetric 8-bit ranges, one for each output channel of a depthwise kernel.

    The toolkit's own would be one for each index of the last axis of (height, width, channels,
    multiplier), the multiplier. And it has none that preserves sparsity.

    Args:
        preserve_sparsity: Boolean, whether weights that are zero stay zero.
    """

    def __init__(self, preserve_sparsity=False):
        super().__init__(per_axis=True, **NARROW)
        self.preserve_sparsity = preserve_sparsity

    def build(self, tensor_shape, name, layer):
        """Make the variables of the ranges, and remember which weights are zero."""
        variables = super().build((tensor_shape[2] * tensor_shape[3],), name, layer)
        if self.preserve_sparsity:
            kernel = getattr(layer.layer, name)
            variables["sparsity_mask"] = tf.cast(tf.not_equal(kernel, 0), kernel.dtype)
        return variables

    def __call__(self, inputs, training, weights, **kwargs):
        """Fake-quantize the kernel."""
        height, width, channels, multiplier = inputs.shape
        kernel = inputs * weights["sparsity_mask"] if self.preserve_sparsity else inputs
        kernel = tf.reshape(kernel, (height, width, 1, channels * multiplier))
        return tf.reshape(super().__call__(kernel, training, weights, **kwargs), inputs.shape)

    def get_config(self):
        """Return the arguments."""
        return {"preserve_sparsity": self.preserve_sparsity}


class DepthwiseQuantizeConfig(tfmot.quantization.keras.QuantizeConfig):
    """How a `DepthwiseConv2D` is quantized.

    Args:
        quantize_activation: Boolean, whether its output is.
        preserve_sparsity: Boolean, whether zeros of the kernel stay zero.
    """

    def __init__(self, quantize_activation=True, preserve_sparsity=False):
        self.quantize_activation = quantize_activation
        self.preserve_sparsity = preserve_sparsity

    def get_weights_and_quantizers(self, layer):
        """Return the kernel and its quantizer."""
        return [(layer.depthwise_kernel, DepthwiseWeightsQuantizer(self.preserve_sparsity))]

    def get_activations_and_quantizers(self, layer):
        """Return the activation and its quantizer."""
        if not self.quantize_activation:
            return []
        return [(layer.activation, quantizers.MovingAverageQuantizer(**WHOLE))]

    def set_quantize_weights(self, layer, quantize_weights):
        """Put the fake-quantized kernel in the place of the kernel."""
        (layer.depthwise_kernel,) = quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):
        """Put the fake-quantized activation in the place of the activation."""
        if self.quantize_activation:
            (layer.activation,) = quantize_activations

    def get_output_quantizers(self, layer):
        """Return none: the activation is quantized."""
        return []

    def get_config(self):
        """Return the arguments."""
        return {
            "quantize_activation": self.quantize_activation,
            "preserve_sparsity": self.preserve_sparsity,
        }


class OutputQuantizeConfig(tfmot.quantization.keras.QuantizeConfig):
    """How a layer without trainable weights is quantized: its output, or not at all.

    Args:
        quantize_output: Boolean.
    """

    def __init__(self, quantize_output=True):
        self.quantize_output = quantize_output

    def get_weights_and_quantizers(self, layer):
        """Return none."""
        return []

    def get_activations_and_quantizers(self, layer):
        """Return none."""
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        """Do nothing."""
        pass  # AutoGraph needs a statement

    def set_quantize_activations(self, layer, quantize_activations):
        """Do nothing."""
        pass  # AutoGraph needs a statement

    def get_output_quantizers(self, layer):
        """Return the quantizer of the output, if it is to be quantized."""
        return [quantizers.MovingAverageQuantizer(**WHOLE)] if self.quantize_output else []

    def get_config(self):
        """Return the arguments."""
        return {"quantize_output": self.quantize_output}


def make_scheme(preserve, fixed):
    """Return a scheme for `tfmot.quantization.keras.quantize_apply`.

    Args:
        preserve: Tuple of strings, as in `quantize_model`.
        fixed: The names of the 1x1 depthwise convolutions whose kernels are constants.

    Returns:
        A `tfmot.quantization.keras.QuantizeScheme`.
    """
    combine = tfmot.experimental.combine
    if "clusters" in preserve:
        base = combine.Default8BitClusterPreserveQuantizeScheme("sparsity" in preserve)
    elif "sparsity" in preserve:
        base = combine.Default8BitPrunePreserveQuantizeScheme()
    else:
        base = tfmot.quantization.keras.default_8bit.Default8BitQuantizeScheme()
    return _Scheme(base, fixed, "sparsity" in preserve)


class _Scheme(tfmot.quantization.keras.QuantizeScheme):
    def __init__(self, base, fixed, preserve_sparsity):
        self._base = base
        self._fixed = fixed
        self._preserve_sparsity = preserve_sparsity

    def get_layout_transformer(self):
        return _LayoutTransform(self._base, self.get_quantize_registry(), self._fixed)

    def get_quantize_registry(self):
        return _Registry(self._base.get_quantize_registry(), self._preserve_sparsity)


class _Registry(tfmot.quantization.keras.QuantizeRegistry):
    """That of the base, and the layers of our networks that it does not know."""

    def __init__(self, base, preserve_sparsity):
        self._base = base
        self._preserve_sparsity = preserve_sparsity
        self._default = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()

    def supports(self, layer):
        if type(layer).__name__ in ("Multiply", "Rescaling"):
            return True
        # those of the combinations call every layer without weights supported
        return self._default.supports(layer) and self._base.supports(layer)

    def get_quantize_config(self, layer):
        kind = type(layer).__name__
        if kind == "DepthwiseConv2D":
            return DepthwiseQuantizeConfig(True, self._preserve_sparsity)
        if kind in ("Multiply", "Rescaling"):
            return OutputQuantizeConfig()
        return self._base.get_quantize_config(layer)


class _LayoutTransform(tfmot.quantization.keras.QuantizeLayoutTransform):
    """That of the base, which leaves weights without their quantizer in two places.

    It means no quantization of the output, but says none at all, of a convolution in front of a
    ReLU; and it gives convolutions in front of a concatenation the default of their class.
    """

    def __init__(self, base, registry, fixed):
        self._base = base
        self._registry = registry
        self._fixed = fixed

    def apply(self, model, layer_quantize_map):
        model, configs = self._base.get_layout_transformer().apply(model, layer_quantize_map)
        for layer in model.layers:
            if type(layer).__name__ not in WEIGHTS or layer.name not in configs:
                continue
            name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
            is_chosen = configs[layer.name].get("quantize_config") is not None
            joined = name == "NoOpActivation" or (is_chosen and name in FUSED_ACTIVATIONS)
            configs[layer.name]["quantize_config"] = self._config(layer, joined)
        return model, configs

    def _config(self, layer, joined):
        """Return how weights and activation are quantized; `joined` means not the latter."""
        if layer.name in self._fixed:
            return OutputQuantizeConfig(not joined)
        config = self._registry.get_quantize_config(layer)
        if isinstance(config, DepthwiseQuantizeConfig):
            return DepthwiseQuantizeConfig(not joined, config.preserve_sparsity)
        if joined:
            config = copy.copy(config)  # the base has one for all layers of a class
            config.activation_attrs = []
        return config
