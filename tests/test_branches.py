"""Whole branches dropped."""

import keras
import numpy as np
import pytest
from fusion_checks import randomize
from keras import layers, ops
from layer_checks import forward

import keras_multiception as km
from keras_multiception.compression import Branch, prune_branches, weakest_branches

JAX = keras.backend.backend() == "jax"  # which compiles a network for half a minute
shares_of = km.scale_analysis.weight_shares


def prune(model, **kwargs):
    return prune_branches(model, verbose=False, **kwargs)


def network(**kwargs):
    def conv(filters, sizes, name, strides=1):
        return km.layers.MulticeptionConv2D(filters, sizes, strides, name=name, **kwargs)

    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(conv(6, (3, 5, 7), "a")(x))
    x = layers.ReLU()(layers.Add()([conv(6, (3, 3), "b")(x), x]))
    x = conv(4, (1, (3, 5)), "c", 2)(x)
    return randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="net"))


def small(name):
    if name == "surgery":
        x = inputs = keras.Input((8, 8, 8))
        for index in range(3):
            x = layers.Conv2D(8, 3, padding="same", name=f"conv_{index}")(x)
        vgg = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
        return randomize(km.replace_convolutions(vgg, verbose=False))
    narrow = {"alpha": 0.35} if name == "mobilenetv2" else {}
    return randomize(km.create_model(name, input_shape=(16, 16, 3), **narrow))


def zeroed(model, branches):
    """Return a copy whose pointwise kernels do not read the branches."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    found = km.scale_analysis.multiception_layers(copy)
    for branch in branches:
        layer = found[branch.layer]
        kernel = np.array(ops.convert_to_numpy(layer.pointwise_conv.kernel))
        channels = kernel.shape[2] // len(layer.kernel_sizes)
        kernel[:, :, branch.index * channels : (branch.index + 1) * channels] = 0
        layer.pointwise_conv.kernel.assign(kernel)
    return copy


def answers(model, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, *model.input_shape[1:])).astype("float32")
    return ops.convert_to_numpy(forward(model, x))


def check(model, new, branches):
    expected = answers(zeroed(model, branches))
    np.testing.assert_allclose(answers(new), expected, atol=2e-5 * np.abs(expected).max())
    a, b = km.cost(model), km.cost(new)
    assert (b.parameters < a.parameters, b.multiply_adds < a.multiply_adds) == (True, True)


@pytest.mark.backend
@pytest.mark.parametrize("kwargs", [{}, {"use_bias": False, "activation": "relu"}])
def test_answers_are_those_without_the_branches(kwargs):
    model = network(**kwargs)
    before = [np.array(w) for w in model.get_weights()]
    branches = weakest_branches(model, keep=1)
    assert [branch.layer for branch in branches] == ["a", "a", "b", "c"]
    new = prune(model, keep=1)
    check(model, new, branches)
    assert (new.name, [x.name for x in new.layers]) == ("net", [x.name for x in model.layers])
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backend
@pytest.mark.parametrize(
    "name",
    [
        "surgery",
        pytest.param("resnet20", marks=[pytest.mark.slow] if JAX else []),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenetv2", "seresnet20")),
    ],
)
def test_zoo(name):
    model = small(name)
    check(model, prune(model, threshold=0.4), weakest_branches(model, threshold=0.4))


def test_dropped_are_the_least_shares():
    model = network()
    shares = shares_of(model)
    (entry, *_) = shares
    order = np.argsort(-entry.branches)
    least = Branch("a", order[2], entry.kernel_sizes[order[2]], float(entry.branches[order[2]]))
    assert [x for x in weakest_branches(model, keep=np.int64(2)) if x.layer == "a"] == [least]
    middle = float(np.sort(entry.branches)[1])
    assert [x for x in weakest_branches(model, threshold=middle) if x.layer == "a"] == [least]
    assert weakest_branches(model, threshold=0) == []
    best = {x.layer: int(np.argmax(x.branches)) for x in shares}
    gone = weakest_branches(model, threshold=1)
    assert len(gone) == 7 - 3
    assert all(best[x.layer] != x.index for x in gone)


@pytest.mark.backend
def test_shares_by_energy():
    model = network()
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
    shares = km.scale_analysis.energy_shares(model, images)
    branches = weakest_branches(model, keep=1, shares=shares)
    assert branches[-1].share == pytest.approx(float(shares[-1].branches.min()))
    check(model, prune(model, keep=1, shares=shares), branches)


def test_named_branches_go(capsys):
    model = network()
    new = prune_branches(model, remove=[("a", 5), ("c", (3, 5))])
    check(model, new, [Branch("a", 1, (5, 5)), Branch("c", 1, (3, 5))])
    found = km.scale_analysis.multiception_layers(new)
    assert [x.kernel_sizes for x in found.values()] == [((3, 3), (7, 7)), ((3, 3),) * 2, ((1, 1),)]
    out = capsys.readouterr().out
    for part in ("Dropped 2 of 7 branches", "a: 5x5", "c: 3x5", "parameters", "multiply-adds"):
        assert part in out


def test_nested_and_shared_layers():
    conv = km.layers.MulticeptionConv2D(4, (3, 5), name="conv")
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv], name="inner")
    x = inputs = keras.Input((6, 6, 4))
    model = randomize(keras.Model(inputs, inner(inner(x))))
    new = prune(model, remove=[("inner/conv", 3)])
    check(model, new, [Branch("inner/conv", 0, (3, 3))])
    assert new.count_params() < model.count_params()


def test_flags_and_policy_stay():
    keras.config.set_dtype_policy("mixed_float16")
    model = network()
    model.get_layer("a").trainable = False
    old = model.get_layer("b")
    frozen = (old.depthwise_bn, old.pointwise_conv.bias, old.pointwise_bn.gamma)
    for part in frozen:
        part.trainable = False
    new = prune(model, keep=1)
    assert [new.get_layer(x).trainable for x in "abc"] == [False, True, True]
    layer = new.get_layer("b")
    copies = (layer.depthwise_bn, layer.pointwise_conv.bias, layer.pointwise_bn.gamma)
    assert not any(part.trainable for part in copies)
    assert len(layer.trainable_weights) == len(old.trainable_weights) - 1  # a kernel less
    assert layer.dtype_policy.name == "mixed_float16"


@pytest.mark.backend
def test_an_activation_that_is_a_layer_keeps_its_weights():
    slope = layers.PReLU(shared_axes=[1, 2])
    x = inputs = keras.Input((6, 6, 4))
    for name in "ab":  # one layer for both
        x = km.layers.MulticeptionConv2D(4, (3, 5), activation=slope, name=name)(x)
    model = keras.Model(inputs, x)
    answers(model)  # builds it
    slope.set_weights([np.full((1, 1, 4), 0.37)])
    slope.trainable = False
    new = prune(model, keep=1)
    copy = new.get_layer("b").activation
    assert copy is not slope
    np.testing.assert_array_equal(copy.get_weights()[0], slope.get_weights()[0])
    assert not copy.trainable


@keras.saving.register_keras_serializable(package="test_branches")
class Times(km.layers.MulticeptionConv2D):
    def __init__(self, filters, factor, **kwargs):
        super().__init__(filters, **kwargs)
        self.factor = factor

    def build(self, input_shape):
        super().build(input_shape)
        self.gate = keras.layers.Dense(self.filters)  # a part and weights of its own
        self.gate.build((None, self.filters))
        self.gains = self.add_weight(shape=(len(self.kernel_sizes),), initializer="ones")
        self.offset = self.add_weight(shape=(self.filters,), initializer="random_normal")

    def call(self, inputs, training=None):
        y = super().call(inputs, training=training)
        return self.factor * self.gate(y) * self.gains[-1] + self.offset

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def test_classes_derived_from_the_layer_stay():
    model = randomize(keras.Sequential([keras.Input((6, 6, 4)), Times(4, 3.0, name="own")]))
    layer = model.get_layer("own")
    layer.gains.assign([1.0, 2.0, 3.0])
    layer.gate.bias.trainable = layer.offset.trainable = False
    new = prune(model, remove=[("own", 5)])
    own = new.get_layer("own")
    assert type(own) is Times
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(own.gains), [1, 3])
    assert [x.trainable for x in (own.gate.bias, own.gains, own.offset)] == [False, True, False]
    check(model, new, [Branch("own", 1, (5, 5))])


@pytest.mark.backend
def test_every_parameter_is_trained_and_the_file_loads(tmp_path):
    new = prune(network(), keep=1)
    new.compile(keras.optimizers.SGD(0.1), "mse")
    before = [np.array(ops.convert_to_numpy(w)) for w in new.trainable_weights]
    rng = np.random.default_rng(0)
    new.fit(rng.normal(size=(8, 8, 8, 3)), rng.normal(size=(8, 4)), verbose=0)
    for old, weight in zip(before, new.trainable_weights, strict=True):
        # a batch norm after it takes constants off again
        if not weight.path.endswith(("bias", "depthwise_bn/beta")):
            assert not np.array_equal(old, ops.convert_to_numpy(weight)), weight.path
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(answers(loaded), answers(new), rtol=1e-5, atol=1e-6)


BAD = {
    "`keep`": [{}, {"keep": 1, "threshold": 0.1}, {"keep": 0}],
    "`threshold`": [{"threshold": 1.5}],
    "`remove`": [{"remove": x} for x in ([("z", 3)], [("a", 9)], [("b", 3)])],
    "`shares`": [{"keep": 1, "shares": []}],
    "MulticeptionConv2D": [{"keep": 1, "model": keras.Sequential([keras.Input((4,))])}],
}


@pytest.mark.parametrize(("message", "kwargs"), [(k, x) for k, xs in BAD.items() for x in xs])
def test_bad_arguments(message, kwargs):
    with pytest.raises(ValueError, match=message):
        prune_branches(**{"model": network()} | kwargs)
