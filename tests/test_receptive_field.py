"""The receptive fields that `km.cost` counts are those that a gradient reaches."""

import keras
import numpy as np
import pytest
from keras import layers
from layer_checks import forward_backward

import keras_multiception as km
from keras_multiception.cost_table import ReceptiveField


def sees(model, length=63):
    """The extent of the input that reaches the middle of the output, measured by its gradient."""
    model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
    x = np.ones((1, length, length, 1), "float32")
    shape = keras.ops.shape(model(x))
    dy = np.zeros(shape, "float32")
    dy[0, shape[1] // 2, shape[2] // 2] = 1
    _, dx, _ = forward_backward(model, x, dy, training=False)
    return tuple(np.ptp(axis) + 1 for axis in np.nonzero(dx)[1:3])


def plain(x):
    x = layers.Conv2D(1, (3, 5), dilation_rate=(2, 1), padding="same")(x)
    x = layers.AveragePooling2D(2)(x)
    return layers.Conv2D(1, 3, strides=2, padding="same")(x)


def branched(x):
    x = km.layers.MulticeptionConv2D(2, (3, (5, 7)), strides=2)(x)
    y = km.layers.MixConv2D(2, (3, 5), strides=2, depthwise=False)(x)
    # not of size 1: of one image with few channels, the gradient of such a kernel with strides
    # corrupts the memory on CPUs with AVX512 (TensorFlow 2.21)
    z = layers.Conv2D(2, 3, strides=2, padding="same")(x)
    return layers.Conv2D(2, 3, padding="same")(layers.Add()([y, z]))


def encoder_decoder(x):
    x = layers.ZeroPadding2D(2)(x)
    x = layers.Conv2D(1, 3, strides=4)(x)
    x = layers.Conv2DTranspose(1, 4, strides=2)(x)
    x = layers.UpSampling2D(2)(x)
    return layers.Cropping2D(1)(x)


@pytest.mark.parametrize(
    ("build", "size", "strides"),
    [
        (plain, (10, 10), (4, 4)),
        (branched, (21, 23), (4, 4)),
        (encoder_decoder, (7, 7), (1, 1)),
    ],
)
def test_receptive_field_is_what_the_gradient_reaches(build, size, strides):
    x = keras.Input((63, 63, 1))
    model = keras.Model(x, build(x))
    assert km.cost(model).receptive_field == ReceptiveField(size, strides)
    assert sees(model) == size


def test_receptive_field_of_known_networks():
    vgg = km.cost(keras.applications.VGG16(weights=None, include_top=False), (224, 224, 3))
    assert vgg.receptive_field == ReceptiveField((212, 212), (32, 32))
    stages = km.cost(km.ResNet20(conv="standard")).stages
    assert stages["stage1"].receptive_field == ReceptiveField((15, 15), (1, 1))
    assert stages["top"].receptive_field == ReceptiveField((32, 32), (32, 32))


def test_receptive_field_beyond_the_rules_is_unknown():
    x = keras.Input((8, 8, 3))
    sliced = x[:, ::2]
    pooled = layers.GlobalMaxPooling2D()(sliced)
    fields = [step.receptive_field for step in km.cost(keras.Model(x, pooled)).layers]
    assert fields == [None, ReceptiveField((8, 8), (8, 8))]
