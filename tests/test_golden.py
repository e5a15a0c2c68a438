"""The layers, the networks and the optimizer against the arrays of the paper's released code."""

import json
import math
import pathlib

import keras
import numpy as np
import pytest
from layer_checks import assert_close, forward_backward

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
    assert_close(model.predict(x, verbose=0), nhwc(golden["y_eval"]), 1e-5)

    y, dx, gradients = forward_backward(model, x, dy)
    assert_close(y, nhwc(golden["y_train"]), 1e-5)
    assert_close(dx, nhwc(golden["dx"]), 1e-5)
    scale = max(np.abs(v).max() for k, v in golden.items() if k.startswith("grad/"))
    for name, (variable, to_keras) in entries.items():
        if f"grad/{name}" not in golden:
            continue
        expected = to_keras(golden[f"grad/{name}"])
        # the gradient of a bias in front of a batch norm is zero but for rounding
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


def check_model(golden, model, tolerance=1e-4, never_used=0):
    """Check a network that gives logits; `never_used` are weights of the file that it lacks."""
    state = {k.removeprefix("state/"): v for k, v in golden.items() if k.startswith("state/")}
    km.load_torch_state_dict(model, state)
    parameters = sum(math.prod(w.shape) for w in model.trainable_variables)
    assert parameters == int(golden["params"]) - never_used
    logits = model.predict(nhwc(golden["x"]), verbose=0)
    assert_close(logits, golden["logits_eval"], tolerance)
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
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


@pytest.mark.slow
def test_resnet20_multiception_in_float64(float64):
    golden = dict(np.load(GOLDEN / "resnet20_multiception.npz"))
    check_model(golden, km.ResNet20(classifier_activation=None))


@pytest.mark.parametrize("conv", ["standard", "dsconv"])
def test_resnet20_in_float64(conv, shared_golden, float64):
    golden = dict(np.load(shared_golden / f"resnet20_{conv}.npz"))
    check_model(golden, km.ResNet20(conv=conv, classifier_activation=None))


def test_resnet20_multiception():
    golden = dict(np.load(GOLDEN / "resnet20_multiception.npz"))
    check_model(golden, km.ResNet20(classifier_activation=None))


@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv"])
def test_resnet20(conv, shared_golden):
    golden = dict(np.load(shared_golden / f"resnet20_{conv}.npz"))
    check_model(golden, km.ResNet20(conv=conv, classifier_activation=None))


@pytest.mark.slow
def test_seresnet56(shared_golden):
    golden = dict(np.load(shared_golden / "senet56_multiception.npz"))
    check_model(golden, km.SEResNet56(classifier_activation=None), 1e-3)


def test_shakeshake26(shared_golden):
    """The released blocks that keep their shape hold a shortcut too, and add the input itself."""
    golden = dict(np.load(shared_golden / "shakenet26_2x16d_multiception.npz"))
    model = km.ShakeShake26(filters=16, classifier_activation=None)
    check_model(golden, model, never_used=17_088)


def test_mobilenetv2(shared_golden):
    golden = dict(np.load(shared_golden / "mobilenetv2_multiception.npz"))
    check_model(golden, km.MobileNetV2(input_shape=(32, 32, 3), classifier_activation=None))


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
