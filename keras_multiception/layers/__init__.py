"""The convolution layers, and the mixing layer of Shake-Shake."""

from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.shake_shake import ShakeShake

__all__ = ["MixConv2D", "MulticeptionConv2D", "ShakeShake"]
