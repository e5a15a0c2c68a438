"""Smaller networks with the tools of Keras 2; nothing else of the library imports this.

TensorFlow's model optimisation toolkit takes Keras 2 models only: `to_tf_keras` makes them. Both
are imported where they are used, and leave `keras` and `tf.keras` what they are.
"""

from keras_multiception.compression.keras_2 import to_tf_keras

__all__ = ["to_tf_keras"]
