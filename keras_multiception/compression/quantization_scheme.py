"""The toolkit's 8-bit scheme, with what the LiteRT converter wants of our networks.

To be imported where it is used: it imports the toolkit.
"""

import copy
from collections.abc import Collection
from typing import Any

import tensorflow as tf
import tf_keras

from keras_multiception.compression.tf_keras_bridge import import_tfmot

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

    The toolkit's own are per index of the last axis, the multiplier, and lose zeros.
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


tf_keras.utils.get_custom_objects()["DepthwiseConfig"] = DepthwiseConfig  # for saved models


class Scheme(
    tfmot.quantization.keras.QuantizeScheme,
    tfmot.quantization.keras.QuantizeRegistry,
    tfmot.quantization.keras.QuantizeLayoutTransform,
):
    """A scheme for `tfmot.quantization.keras.quantize_apply`, with its registry and layout.

    It knows more layers than the toolkit's, and corrects the layout, which leaves weights without
    their quantizer before a ReLU and before a concatenation. `preserve` is as in `quantize_model`;
    `fixed` names the 1x1 depthwise convolutions whose kernels are constants.
    """

    def __init__(self, preserve: Collection[str], fixed: Collection[str] = ()) -> None:
        combine, default = tfmot.experimental.combine, tfmot.quantization.keras.default_8bit
        self._sparse, self._fixed = "sparsity" in preserve, fixed
        if "clusters" in preserve:
            base = combine.Default8BitClusterPreserveQuantizeScheme(self._sparse)
        elif self._sparse:
            base = combine.Default8BitPrunePreserveQuantizeScheme()
        else:
            base = default.Default8BitQuantizeScheme()
        self._layout, self._registry = base.get_layout_transformer(), base.get_quantize_registry()
        self._default = default.Default8BitQuantizeRegistry()

    def get_layout_transformer(self) -> Any:
        """Return what changes a model's layers."""
        return self

    def get_quantize_registry(self) -> Any:
        """Return what knows how each layer is quantized."""
        return self

    def supports(self, layer: Any) -> bool:
        """Tell whether a layer can be quantized."""
        # combined schemes claim to support every layer without weights
        known = self._default.supports(layer) and self._registry.supports(layer)
        return known or type(layer).__name__ in ("Multiply", "Rescaling")

    def get_quantize_config(self, layer: Any) -> Any:
        """Return how a layer is quantized."""
        kind = type(layer).__name__
        if kind == "DepthwiseConv2D":
            return DepthwiseConfig(self._sparse)
        if kind in ("Multiply", "Rescaling"):
            return OutputConfig()
        return self._registry.get_quantize_config(layer)

    def apply(self, model: Any, layer_quantize_map: Any) -> Any:
        """Change a model's layers, and say how each is quantized."""
        model, configs = self._layout.apply(model, layer_quantize_map)
        for layer in model.layers:
            if type(layer).__name__ not in WEIGHTS or layer.name not in configs:
                continue
            name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
            is_chosen = configs[layer.name].get("quantize_config") is not None
            joined = name == "NoOpActivation" or (is_chosen and name in FUSED_ACTIVATIONS)
            if layer.name in self._fixed:
                config = OutputConfig(not joined)
            else:
                config = copy.copy(self.get_quantize_config(layer))  # the base shares them
                if joined:  # with the next layer, which is where the output is quantized
                    config.activation_attrs = []
            configs[layer.name]["quantize_config"] = config
        return model, configs
