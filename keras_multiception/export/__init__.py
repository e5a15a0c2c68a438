"""A Keras model as what a server or an engine loads, with everything that it needs inside."""

from keras_multiception.export.onnx_file import export_onnx
from keras_multiception.export.saved_model import export_saved_model, fit_image_shape

__all__ = ["export_onnx", "export_saved_model", "fit_image_shape"]
