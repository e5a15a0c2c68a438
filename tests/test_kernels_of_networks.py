"""Whole networks in the fast forms against the plain operations of Keras."""

import keras
import numpy as np
import pytest
from kernel_checks import assert_as_exact, assert_equal, images, step

import keras_multiception as km

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")

FAMILIES = {
    "resnet20": {},
    "seresnet20": {},
    "shakeshake26": {"filters": 24},
    "mobilenetv2": {"alpha": 0.35},
}


def network(name):
    arguments = {"classes": 3, "input_shape": (32, 32, 3), "classifier_activation": None}
    return km.create_model(name, **arguments, **FAMILIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_a_network_equals_its_plain_form(name):
    """Every Multiception and batch norm of a backbone, each combination of sizes once."""
    found = {}
    for layer in network(name)._flatten_layers(recursive=False):
        if isinstance(layer, km.layers.MulticeptionConv2D | km.layers.BatchNormalization):
            shape = layer.input.shape[1:]
            sizes = [getattr(layer, key, ()) for key in ("kernel_sizes", "strides", "filters")]
            found.setdefault((type(layer), shape, *map(str, sizes)), layer)
    assert any(isinstance(layer, km.layers.MulticeptionConv2D) for layer in found.values())
    for (kind, shape, *_), layer in found.items():
        layer = kind.from_config(layer.get_config())
        x = images(8, *shape)
        layer.build(x.shape)
        for training in (True, False):
            assert_equal(step(layer, x, training), step(layer, x, training, plain=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_networks_are_as_exact_as_their_plain_form(name, monkeypatch):
    """Outputs, gradients and moving statistics of whole networks, whose depth adds rounding."""
    uniform = keras.random.uniform  # Shake-Shake's numbers, the same in float64

    def same_numbers(shape, dtype, seed):
        return keras.ops.cast(uniform(shape, dtype="float32", seed=seed), dtype)

    monkeypatch.setattr(keras.random, "uniform", same_numbers)
    model = network(name)
    keras.config.set_dtype_policy("float64")
    double = network(name)
    names = [variable.path for variable in model.variables]
    x = images(8, 32, 32, 3)
    start = [v.numpy() for v in model.variables]  # with the states of random numbers

    def run(model, x, training):
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            y = model(x, training=training)
            loss = tf.reduce_mean((y - 1) ** 2)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        gradients = {id(v): g for v, g in zip(model.trainable_variables, gradients, strict=True)}
        found = {"y": y}
        for path, variable in zip(names, model.variables, strict=True):
            if id(variable) in gradients:
                found[f"gradient of {path}"] = gradients[id(variable)]
            else:
                found[path] = variable.value
        return {path: np.asarray(value, "float64") for path, value in found.items()}

    signs = np.random.default_rng(3).choice([-1, 0, 1], (3, *x.shape))
    rounded = [tf.cast(x * (1 + each * 2**-23), "float32") for each in (0, *signs)]
    for training in (True, False):
        fast = run(model, x, training)
        with km.kernels.plain_operations():
            plain = [run(model, each, training) for each in rounded]
            exact = run(double, tf.cast(x, "float64"), training)
        assert_as_exact(fast, plain, exact)
