"""The toolkit's 8-bit scheme, with what the LiteRT converter wants of our networks.

To be imported where it is used: it imports the toolkit.
"""

import copy
from typing import Any

import tensorflow as tf

from keras_multiception.compression.tf_keras_models import import_tfmot

tfmot: Any = import_tfmot()
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (  # noqa: E402
    default_8bit_quantize_configs,
    default_8bit_quantize_registry,
)

WEIGHTS = ("Conv2D", "Conv2DTranspose", "Dense", "DepthwiseConv2D")
FUSED_ACTIVATIONS = ("linear", "relu")
OutputConfig: Any = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig


class DepthwiseWeightsQuantizer(tfmot.quantization.keras.quantizers.LastValueQuantizer):
    """Symmetric 8-bit ranges, one for each output channel of a depthwise kernel.

    The toolkit's own would be one for each index of the last axis of (height, width, channels,
    multiplier), the multiplier. And it has none that preserves sparsity.
    """

    def __init__(self, preserve_sparsity: bool = False) -> None:
        super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)
        self.preserve_sparsity = preserve_sparsity

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Make the variables of the ranges, and remember which weights are zero."""
        variables = super().build((tensor_shape[2] * tensor_shape[3],), name, layer)
        if self.preserve_sparsity:
            kernel = getattr(layer.layer, name)
            variables["sparsity_mask"] = tf.cast(tf.not_equal(kernel, 0), kernel.dtype)
        return variables

    def __call__(self, inputs: Any, training: Any, weights: dict, **kwargs: Any) -> Any:
        """Fake-quantize the kernel."""
        height, width, channels, multiplier = inputs.shape
        kernel = inputs * weights["sparsity_mask"] if self.preserve_sparsity else inputs
        kernel = tf.reshape(kernel, (height, width, 1, channels * multiplier))
        return tf.reshape(super().__call__(kernel, training, weights, **kwargs), inputs.shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"preserve_sparsity": self.preserve_sparsity}


class DepthwiseConfig(default_8bit_quantize_registry.Default8BitQuantizeConfig):
    """How a `DepthwiseConv2D` is quantized."""

    def __init__(
        self, preserve_sparsity: bool = False, activation_attrs: tuple[str, ...] = ("activation",)
    ) -> None:
        super().__init__(["depthwise_kernel"], list(activation_attrs), False)
        self.weight_quantizer = DepthwiseWeightsQuantizer(preserve_sparsity)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "preserve_sparsity": self.weight_quantizer.preserve_sparsity,
            "activation_attrs": self.activation_attrs,
        }


def make_scheme(preserve: tuple[str, ...], fixed: set[str]) -> Any:
    """Return a scheme for `tfmot.quantization.keras.quantize_apply`.

    `preserve` is as in `quantize_model`; `fixed` names the 1x1 depthwise convolutions whose kernels
    are constants.
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
    def __init__(self, base: Any, fixed: set[str], preserve_sparsity: bool) -> None:
        self._base = base
        self._fixed = fixed
        self._preserve_sparsity = preserve_sparsity

    def get_layout_transformer(self) -> Any:
        return _LayoutTransform(self._base, self.get_quantize_registry(), self._fixed)

    def get_quantize_registry(self) -> Any:
        return _Registry(self._base.get_quantize_registry(), self._preserve_sparsity)


class _Registry(tfmot.quantization.keras.QuantizeRegistry):
    """That of the base, and the layers of our networks that it does not know."""

    def __init__(self, base: Any, preserve_sparsity: bool) -> None:
        self._base = base
        self._preserve_sparsity = preserve_sparsity
        self._default = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()

    def supports(self, layer: Any) -> bool:
        if type(layer).__name__ in ("Multiply", "Rescaling"):
            return True
        # combined schemes claim to support every layer without weights
        return self._default.supports(layer) and self._base.supports(layer)

    def get_quantize_config(self, layer: Any) -> Any:
        kind = type(layer).__name__
        if kind == "DepthwiseConv2D":
            return DepthwiseConfig(self._preserve_sparsity)
        if kind in ("Multiply", "Rescaling"):
            return OutputConfig()
        return self._base.get_quantize_config(layer)


class _LayoutTransform(tfmot.quantization.keras.QuantizeLayoutTransform):
    """That of the base, which leaves weights without their quantizer in two places.

    It means no quantization of the output, but says none at all, of a convolution before a ReLU;
    and it gives convolutions before a concatenation the default of their class.
    """

    def __init__(self, base: Any, registry: _Registry, fixed: set[str]) -> None:
        self._base = base
        self._registry = registry
        self._fixed = fixed

    def apply(self, model: Any, layer_quantize_map: Any) -> Any:
        model, configs = self._base.get_layout_transformer().apply(model, layer_quantize_map)
        for layer in model.layers:
            if type(layer).__name__ not in WEIGHTS or layer.name not in configs:
                continue
            name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
            is_chosen = configs[layer.name].get("quantize_config") is not None
            joined = name == "NoOpActivation" or (is_chosen and name in FUSED_ACTIVATIONS)
            configs[layer.name]["quantize_config"] = self._config(layer, joined)
        return model, configs

    def _config(self, layer: Any, joined: bool) -> Any:
        """Return how weights and activation are quantized; `joined` means not the latter."""
        if layer.name in self._fixed:
            return OutputConfig(not joined)
        config = self._registry.get_quantize_config(layer)
        if joined:
            config = copy.copy(config)  # the base has one for all layers of a class
            config.activation_attrs = []
        return config
