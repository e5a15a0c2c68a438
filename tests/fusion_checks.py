"""What the tests of fusion, replacement and scale analysis share."""

import keras
import numpy as np
from keras import layers

import keras_multiception as km

# networks of `keras.applications`, small
APPLICATIONS = {
    "VGG16": ((32, 32, 3), {"include_top": False, "pooling": "avg"}),
    "MobileNetV2": ((32, 32, 3), {"alpha": 0.35, "classes": 4}),
    "ResNet50V2": ((64, 64, 3), {"classes": 4}),
    "Xception": ((75, 75, 3), {"classes": 4}),
    "DenseNet121": ((32, 32, 3), {"classes": 4}),
    "EfficientNetV2B0": ((64, 64, 3), {"classes": 4}),
}


def application(name):
    """Return a network of `keras.applications`."""
    shape, kwargs = APPLICATIONS[name]
    return getattr(keras.applications, name)(weights=None, input_shape=shape, **kwargs)


def randomize(model):
    """Give every batch norm statistics and weights of its own, negative ones too."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for w in layer.weights:
                signs = 1 if w is layer.moving_variance else rng.choice([-1, 1], w.shape)
                w.assign(signs * rng.uniform(0.5, 1.5, w.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def settle(model):
    """Give every batch norm the statistics of a batch of random images, as after training."""
    norms = [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    rng = np.random.default_rng(0)
    model(rng.uniform(-1, 1, (32, *model.input_shape[1:])).astype("float32"), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def chain(*body, shape=(9, 10, 6), **kwargs):
    """Return a model of layers one after the other, with random weights."""
    x = inputs = keras.Input(shape)
    for layer in body:
        x = layer(x)
    return randomize(keras.Model(inputs, x, **kwargs))


def fuse(model, **kwargs):
    """Call `km.fuse` without its report."""
    return km.fuse(model, verbose=False, **kwargs)


def classes(model):
    """Return the names of the classes of a model's layers."""
    return {type(layer).__name__ for layer in model.layers}


def train(model, x):
    """Train for a step, to the answer 1 everywhere."""
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() != "jax")
    model.fit(x, np.ones((len(x), *model.output_shape[1:])), verbose=0)


def assert_unchanged(model, weights):
    """Check that the weights of a model are those that `get_weights` gave before."""
    for new, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(new, old)
