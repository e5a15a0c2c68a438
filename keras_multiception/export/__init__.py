"""A Keras model as what a server loads, with everything that it needs inside."""

from keras_multiception.export.saved_model import export_saved_model, fit_image_shape

__all__ = ["export_saved_model", "fit_image_shape"]
