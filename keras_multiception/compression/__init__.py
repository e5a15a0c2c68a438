"""Smaller networks; nothing else of the library imports this.

`prune_branches` drops whole kernel branches and needs Keras alone. All else takes TensorFlow's
model optimization toolkit, and that takes Keras 2 models only: `to_tf_keras` makes them. Both are
imported where they are used, and leave `keras` and `tf.keras` what they are.
"""

import contextlib
import importlib
from types import ModuleType

from keras_multiception.compression.branches import Branch, prune_branches, weakest_branches
from keras_multiception.compression.litert import convert_to_litert, save_litert
from keras_multiception.compression.litert_files import LiteRTModel, float_operators, operators
from keras_multiception.compression.onnx_quantization import quantize_onnx
from keras_multiception.compression.pruning import (
    cluster_model,
    prune_model,
    pruning_callback,
    size_report,
    sparsity_report,
    strip_clustering,
    strip_pruning,
)
from keras_multiception.compression.quantization import calibrate_ranges, quantize_model
from keras_multiception.compression.tf_keras_bridge import to_tf_keras

with contextlib.suppress(ImportError):  # comes with TensorFlow
    import wrapt

    @wrapt.when_imported("tensorflow_model_optimization")
    def _register_classes(toolkit: ModuleType) -> None:
        """Let models of `quantize_model` load under the toolkit's `quantize_scope`."""
        importlib.import_module("keras_multiception.compression.quantization_scheme")


__all__ = [
    "Branch",
    "LiteRTModel",
    "calibrate_ranges",
    "cluster_model",
    "convert_to_litert",
    "float_operators",
    "operators",
    "prune_branches",
    "prune_model",
    "pruning_callback",
    "quantize_model",
    "quantize_onnx",
    "save_litert",
    "size_report",
    "sparsity_report",
    "strip_clustering",
    "strip_pruning",
    "to_tf_keras",
    "weakest_branches",
]
