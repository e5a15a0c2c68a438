"""The layers, the networks and the optimizer against the arrays of the paper's released code."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
from layer_checks import assert_close, forward, forward_backward, slow_if
from references import Released

import keras_multiception as km
from keras_multiception.torch_import import _layer_entries

pytestmark = pytest.mark.backend
GOLDEN = pathlib.Path(__file__).parent / "golden"
LAYER_FILES = sorted(GOLDEN.glob("layer_*.npz"))


def nhwc(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def layer_model(golden):
    """The convolution of a golden file as a model, with its entries by their PyTorch names."""
    config = json.loads(str(golden["config"]))
    x = keras.Input(nhwc(golden["x"]).shape[1:])
    y = km.conv_bn(
        x,
        config["filters"],
        config["strides"],
        config["kernel_sizes"] or None,
        config["type"],
        name="conv",
    )
    model = keras.Model(x, y)
    modules = {
        "standard": {"conv_conv": "0", "conv_bn": "1"},
        "dsconv": {
            "conv_depthwise": "depthwise",
            "conv_pointwise": "pointwise",
            "conv_pointwise_bn": "bn",
        },
    }.get(config["type"], {"conv": ""})
    entries = {
        name.removeprefix("."): entry
        for layer in model.layers
        if layer.weights
        for name, entry in _layer_entries(layer, modules[layer.name])
    }
    assert set(entries) == {k.removeprefix("state/") for k in golden if k.startswith("state/")}
    for name, (variable, to_keras) in entries.items():
        variable.assign(to_keras(golden[f"state/{name}"]))
    return model, entries


@pytest.mark.parametrize("path", LAYER_FILES, ids=lambda path: path.stem)
def test_layer(path):
    golden = dict(np.load(path))
    model, entries = layer_model(golden)
    x, dy = nhwc(golden["x"]), nhwc(golden["dy"])
    y = forward(model, x)
    assert_close(y, nhwc(golden["y_eval"]), 1e-5)

    y, dx, gradients = forward_backward(model, x, dy)
    assert_close(y, nhwc(golden["y_train"]), 1e-5)
    assert_close(dx, nhwc(golden["dx"]), 1e-5)
    scale = max(np.abs(v).max() for k, v in golden.items() if k.startswith("grad/"))
    for name, (variable, to_keras) in entries.items():
        if f"grad/{name}" not in golden:
            continue
        expected = to_keras(golden[f"grad/{name}"])
        # the gradient of a bias before a batch norm is zero but for rounding
        if np.abs(expected).max() < 1e-4 * scale:
            assert np.abs(gradients[id(variable)] - expected).max() < 1e-5 * scale
        else:
            assert_close(gradients[id(variable)], expected, 1e-5)

    # PyTorch updates the running variance with the unbiased estimate, Keras with the biased one
    for name, (variable, _) in entries.items():
        if f"after/{name}" not in golden:
            continue
        after, before = golden[f"after/{name}"], golden[f"state/{name}"]
        if name.endswith("running_var"):
            n = dy[..., 0].size if name.startswith(("bn2", "bn.", "1.")) else x[..., 0].size
            after = 0.9 * before + (after - 0.9 * before) * (n - 1) / n
        assert_close(keras.ops.convert_to_numpy(variable), after, 1e-5)


def check_model(golden, network):
    """Check a network against a file: its parameters, logits and, if there, steps of training."""
    model = network.build(classifier_activation=None)
    state = {k.removeprefix("state/"): v for k, v in golden.items() if k.startswith("state/")}
    km.load_torch_state_dict(model, state)
    parameters = sum(math.prod(w.shape) for w in model.trainable_variables)
    assert parameters == int(golden["params"]) - network.never_used
    logits = model.predict(nhwc(golden["x"]), verbose=0)
    assert_close(logits, golden["logits_eval"], network.tolerance)
    if "train/loss" not in golden:
        return
    model.compile(
        km.optimizers.SGDL2(0.1, l2=2e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # In float32 rounding grows from step to step: weights changed by 1e-6 of themselves move the
    # third loss by up to 6e-4. In float64 (below) the same steps end where the original's end.
    wide = keras.config.floatx() == "float64"
    steps = zip(golden["train/loss"], (1e-4, 1e-4, 2e-4 if wide else 2e-3), strict=False)
    for step, (expected, tolerance) in enumerate(steps):
        model.optimizer.learning_rate = float(golden["train/lr"][step])
        x = nhwc(golden["train/x"][step]).astype(keras.config.floatx())
        loss = model.train_on_batch(x, golden["train/y"][step])
        assert_close(loss, expected, tolerance)


@pytest.fixture
def float64():
    """Make weights and computations float64 for one test."""
    if keras.backend.backend() == "jax":
        pytest.skip("JAX computes in float64 only where the whole process does")
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


@dataclasses.dataclass(frozen=True)
class Network:
    """A released network: our factory, the NumPy reference, and weights that are never used."""

    build: Callable
    reference: Callable
    tolerance: float = 1e-4
    never_used: int = 0


NETWORKS = {
    f"resnet20_{conv}": Network(functools.partial(km.ResNet20, conv=conv), Released.resnet)
    for conv in ("standard", "dsconv", "mixconv", "multiception")
} | {
    "senet56_multiception": Network(km.SEResNet56, Released.resnet, 1e-3),
    # the released blocks that keep their shape hold a shortcut too, and add the input itself
    "shakenet26_2x16d_multiception": Network(
        functools.partial(km.ShakeShake26, filters=16), Released.shake_shake, never_used=17_088
    ),
    "mobilenetv2_multiception": Network(
        functools.partial(km.MobileNetV2, input_shape=(32, 32, 3)), Released.mobilenet_v2
    ),
}


def random_state(shapes):
    """Random weights by the names of the released code, with outputs of moderate size."""
    rng, state = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 2, shape)
        elif len(shape) == 1:
            state[name] = rng.normal(1.0 if name.endswith("weight") else 0.0, 0.2, shape)
        else:
            state[name] = rng.normal(0, (2 / math.prod(shape[1:])) ** 0.5, shape)
    return state


# JAX compiles the others for long
QUICK = ("resnet20_standard", "resnet20_dsconv") if keras.backend.backend() == "jax" else NETWORKS


@pytest.mark.parametrize("name", slow_if(lambda name: name not in QUICK, NETWORKS))
def test_network_equals_the_numpy_reference(name):
    """With weights of the names and shapes that the released code has."""
    state = random_state(json.loads((GOLDEN / "state_shapes.json").read_text())[name])
    network, x = NETWORKS[name], np.random.default_rng(1).normal(size=(2, 32, 32, 3))
    model = network.build(classifier_activation=None)
    km.load_torch_state_dict(model, state)
    with km.kernels.plain_operations():  # which JAX compiles in half the time
        logits = forward(model, x.astype("float32"))
    expected = network.reference(Released(state), x)
    assert np.std(expected) > 1e-2
    assert_close(logits, expected, network.tolerance)


SLOW = ("senet56_multiception", "resnet20_standard")
SHARED = [name for name in NETWORKS if not (GOLDEN / f"{name}.npz").is_file()]


@pytest.mark.parametrize("name", slow_if(lambda name: name in SLOW, SHARED))
def test_network_equals_the_released_code(name, shared_golden):
    golden = dict(np.load(shared_golden / f"{name}.npz"))
    network, x = NETWORKS[name], nhwc(golden["x"][:1])
    state = {k.removeprefix("state/"): v for k, v in golden.items() if k.startswith("state/")}
    shapes = {key: list(value.shape) for key, value in state.items()}
    assert shapes == json.loads((GOLDEN / "state_shapes.json").read_text())[name]
    assert_close(network.reference(Released(state), x), golden["logits_eval"][:1], 1e-4)
    check_model(golden, network)


def test_resnet20_multiception():
    golden = dict(np.load(GOLDEN / "resnet20_multiception.npz"))
    check_model(golden, NETWORKS["resnet20_multiception"])


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["multiception", "standard", "dsconv"])
def test_resnet20_in_float64(conv, request, float64):
    own = GOLDEN / f"resnet20_{conv}.npz"
    file = own if own.is_file() else request.getfixturevalue("shared_golden") / own.name
    check_model(dict(np.load(file)), NETWORKS[own.stem])


def test_optimizer():
    golden = np.load(GOLDEN / "sgd_nesterov_l2.npz")
    weights = keras.Variable(golden["w0"])
    optimizer = km.optimizers.SGDL2(0.1, momentum=0.9, nesterov=True, l2=2e-4)
    for gradient, rate in zip(golden["gradients"], golden["learning_rate"], strict=True):
        optimizer.learning_rate = float(rate)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    weights = keras.ops.convert_to_numpy(weights)
    expected = golden["w_after"]
    assert np.linalg.norm(weights - expected) / np.linalg.norm(expected) < 1e-5
