"""Exact networks for inference: batch norms folded, strides moved, sizes merged."""

from keras_multiception.fusion.fused_model import fuse
from keras_multiception.fusion.operations import FusionReport

__all__ = ["FusionReport", "fuse"]
