"""Smaller networks; nothing else of the library imports this.

`prune_branches` drops whole kernel branches and needs Keras alone. All else takes TensorFlow's
model optimization toolkit, and that Keras 2 models only: `to_tf_keras` makes them. Both are
imported where they are used, and leave `keras` and `tf.keras` what they are.
"""

from keras_multiception.compression.branches import Branch, prune_branches, weakest_branches
from keras_multiception.compression.calibration import calibrate_ranges
from keras_multiception.compression.clustering import cluster_model, strip_clustering
from keras_multiception.compression.keras_2 import to_tf_keras
from keras_multiception.compression.litert import convert_to_litert, save_litert
from keras_multiception.compression.litert_model import LiteRTModel
from keras_multiception.compression.litert_operators import float_operators, operators
from keras_multiception.compression.pruning import prune_model, pruning_callback, strip_pruning
from keras_multiception.compression.quantization import quantize_model
from keras_multiception.compression.sparsity import size_report, sparsity_report

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
    "save_litert",
    "size_report",
    "sparsity_report",
    "strip_clustering",
    "strip_pruning",
    "to_tf_keras",
    "weakest_branches",
]
