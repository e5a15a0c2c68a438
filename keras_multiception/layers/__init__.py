"""The convolution layers, the mixing layer of Shake-Shake, and a faster batch norm."""

from keras_multiception.layers.batch_normalization import BatchNormalization
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.shake_shake import ShakeShake

__all__ = ["BatchNormalization", "MixConv2D", "MulticeptionConv2D", "ShakeShake"]
