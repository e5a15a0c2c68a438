import itertools

import keras
import ml_dtypes
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception.torch_import import _torch_entries


def torch_state(model, rng):
    """A random state in PyTorch's layout that fits the model."""
    state = {}
    for name, (variable, to_keras) in _torch_entries(model):
        value = rng.normal(size=variable.shape).astype("float32")
        layouts = [value.transpose(axes) for axes in itertools.permutations(range(value.ndim))]
        (state[name], *_) = (x for x in layouts if np.array_equal(to_keras(x), value))
    return state


@pytest.fixture
def model():
    return km.ResNet20(input_shape=(8, 8, 3))


@pytest.fixture
def state(model):
    return torch_state(model, np.random.default_rng(0))


@pytest.mark.backend
def test_loads_every_weight(model, state):
    before = model.get_weights()
    assert km.load_torch_state_dict(model, state) is model
    assert all(np.any(a != b) for a, b in zip(model.get_weights(), before, strict=True))


def test_accepts_what_a_checkpoint_brings(model, state):
    """DataParallel's prefix and PyTorch's batch counters, as the released code writes them."""
    km.load_torch_state_dict(model, state)
    expected = model.get_weights()
    other = km.ResNet20(input_shape=(8, 8, 3))
    state = {f"module.{name}": value for name, value in state.items()}
    state["module.bn1.num_batches_tracked"] = np.array(3)
    km.load_torch_state_dict(other, state)
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), expected, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_takes_every_float_type(dtype, model, state):
    scalar = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    km.load_torch_state_dict(model, {name: x.astype(scalar) for name, x in state.items()})
    rounded = state["fc.bias"].astype(scalar).astype("float32")
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[1], rounded)
    torch = pytest.importorskip("torch")
    other = km.ResNet20(input_shape=(8, 8, 3))
    tensors = {
        name: torch.nn.Parameter(torch.tensor(x).to(getattr(torch, dtype)))
        for name, x in state.items()
    }
    km.load_torch_state_dict(other, tensors)
    pairs = zip(other.get_weights(), model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


class Module:
    def __init__(self, state):
        self.state_dict = lambda: state


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda state: {"epoch": 3, "state_dict": state}, r"state\['state_dict'\]\. "),
        (lambda state: {"optimizer": {"state": {}}, "model": state}, r"state\['model'\]\. "),
        (lambda state: {"net": {f"module.{k}": x for k, x in state.items()}}, r"state\['net'\]"),
        (lambda state: {"model": Module(state)}, r"state\['model'\]\.state_dict\(\)\. "),
    ],
)
def test_a_checkpoint_says_which_entry_has_the_weights(model, state, wrap, taken):
    with pytest.raises(ValueError, match=taken) as error:
        km.load_torch_state_dict(model, wrap(state))
    assert len(str(error.value)) < 200


def test_long_lists_are_cut(model, state):
    wrong = {f"other.{name}": x for name, x in state.items()}
    with pytest.raises(ValueError, match=rf"Missing: .* and {len(state) - 3} more") as error:
        km.load_torch_state_dict(model, wrong)
    assert len(str(error.value)) < 400


def test_names_what_does_not_fit_and_loads_nothing(model, state):
    del state["fc.bias"], state["layer1.0.conv_bn.seps.1.weight"]
    state["surprise"] = np.zeros(3)
    state["conv1.weight"] = np.zeros((16, 3, 5, 5))
    state["bn1.weight"] = np.zeros((16, 1))
    state["bn1.bias"] = "text"
    state["bn1.running_mean"] = state["bn1.running_mean"] + 1j
    before = model.get_weights()
    with pytest.raises(ValueError, match="`state` must hold exactly") as error:
        km.load_torch_state_dict(model, state)
    missing, unexpected, misshapen = str(error.value).split(". ")[1:]
    assert "fc.bias" in missing
    assert "layer1.0.conv_bn.seps.1.weight" in missing
    assert "surprise" in unexpected
    assert all(name in misshapen for name in ("conv1.weight", "bn1.weight", "bn1.bias"))
    assert "1 more" in misshapen  # complex numbers
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("state", [None, [("fc.bias", 0)], {1: np.zeros(3)}])
def test_what_is_no_state_is_refused(model, state):
    with pytest.raises(ValueError, match="`state` must be a mapping from names to arrays"):
        km.load_torch_state_dict(model, state)


def test_another_model_is_refused(state):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3, name="mine")])
    with pytest.raises(
        ValueError, match=r"`model` must be a network of km.list_models\(\).*'mine'"
    ):
        km.load_torch_state_dict(model, state)
