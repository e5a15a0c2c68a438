import keras
import numpy as np
import pytest

import keras_multiception as km

pytestmark = pytest.mark.backend


def minimize(optimizer, steps=5):
    """Run the optimizer on fixed gradients; return the weights."""
    rng = np.random.default_rng(0)
    weights = keras.Variable(rng.normal(size=4).astype("float32"))
    for _ in range(steps):
        optimizer.apply(
            [keras.ops.convert_to_tensor(rng.normal(size=4).astype("float32"))], [weights]
        )
    return keras.ops.convert_to_numpy(weights)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_without_penalty_and_at_constant_rate_it_is_keras_sgd(momentum, nesterov):
    ours = minimize(km.optimizers.SGDL2(0.1, momentum, nesterov, l2=0.0))
    keras_sgd = minimize(keras.optimizers.SGD(0.1, float(momentum), nesterov))
    np.testing.assert_allclose(ours, keras_sgd, rtol=1e-5)


def assert_comes_back_from_a_file(model, path):
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is type(model.optimizer)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_survives_saving(tmp_path):
    optimizer = km.optimizers.SGDL2(0.05, momentum=0.8, nesterov=False, l2=1e-3, clipnorm=1.0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    assert_comes_back_from_a_file(model, tmp_path / "model.keras")


def test_excluded_variables_have_no_penalty():
    kept, free = (keras.Variable(np.ones(3, "float32")) for _ in range(2))
    optimizer = km.optimizers.SGDL2(0.1, momentum=0.9, l2=0.5)
    optimizer.exclude_from_weight_decay(var_list=[free])
    optimizer.apply([keras.ops.zeros(3), keras.ops.zeros(3)], [kept, free])
    np.testing.assert_allclose(kept, 1 - 0.1 * (0.5 + 0.9 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(free, 1)


def muon_step(shape, columns):
    """Take one step from given weights with a given gradient; return them, and our own sum."""
    rng = np.random.default_rng(1)
    begin, gradient = (rng.normal(size=shape).astype("float32") for _ in range(2))
    weights = keras.Variable(begin)
    optimizer = km.optimizers.ConvMuon(0.1, momentum=0.5, weight_decay=0.2)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    expected = begin * (1 - 0.1 * 0.2) - 0.1 * orthogonalized(gradient, columns).reshape(shape)
    return keras.ops.convert_to_numpy(weights), expected


def orthogonalized(gradient, columns):
    """Apply the quintic of Muon five times to the singular values of a gradient."""
    u, s, v = np.linalg.svd(gradient.reshape(-1, columns).astype("float64"), full_matrices=False)
    s /= np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((3, 3, 8, 16), 16), ((1, 1, 24, 8), 8), ((3, 3, 2, 32), 32), ((5, 5, 16, 1), 16)],
)
def test_muon_makes_the_step_of_a_kernel_orthogonal(shape, columns):
    weights, expected = muon_step(shape, columns)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-4)


def test_muon_keeps_momentum():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(2, 3, 3, 4, 6)).astype("float32")
    weights = keras.Variable(np.zeros((3, 3, 4, 6), "float32"))
    optimizer = km.optimizers.ConvMuon(0.1, momentum=0.5, weight_decay=0)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    first, second = gradients
    steps = orthogonalized(first * 1.5, 6), orthogonalized(second * 1.5 + first * 0.25, 6)
    expected = -0.1 * sum(steps).reshape(weights.shape)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weights), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((6,), "vector"),
        ((8, 4), "classifier"),
        ((3, 3, 2, 4), "stem_kernel"),
        ((3, 3, 2, 4), "position_Embedding"),
    ],
)
def test_muon_leaves_the_rest_to_adam(shape, name):
    gradient = np.random.default_rng(3).normal(size=shape).astype("float32")
    weights = keras.Variable(np.zeros(shape, "float32"), name=name)
    optimizer = km.optimizers.ConvMuon(0.1, adam_lr_ratio=0.2, exclude_layers=["stem"])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weights])
    np.testing.assert_allclose(weights, -0.02 * np.sign(gradient), rtol=1e-3)


@pytest.mark.slow
def test_muon_trains_a_network_and_survives_saving(tmp_path):
    # with few of the iterations that take long to compile
    arguments = {"momentum": 0.8, "weight_decay": 0.1, "clipnorm": 1.0, "ns_steps": 2}
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    y = keras.layers.ReLU()(km.layers.MulticeptionConv2D(6, (3, 5), use_bias=False)(y))
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(8, activation="softmax")(y))
    model.compile(km.optimizers.ConvMuon(0.02, **arguments), "sparse_categorical_crossentropy")
    before = model.get_weights()
    images = np.random.default_rng(4).normal(size=(8, 8, 8, 3)).astype("float32")
    model.train_on_batch(images, np.arange(8))
    for then, now in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(then, now)
    assert_comes_back_from_a_file(model, tmp_path / "model.keras")


SGDL2, ConvMuon = km.optimizers.SGDL2, km.optimizers.ConvMuon


@pytest.mark.parametrize(
    ("optimizer", "name", "value"),
    [
        (SGDL2, "l2", -1),
        (SGDL2, "l2", None),
        (SGDL2, "momentum", 1.0),
        (SGDL2, "momentum", None),
        (SGDL2, "weight_decay", 1e-4),
        (ConvMuon, "weight_decay", -1),
        (ConvMuon, "adam_weight_decay", -1),
        (ConvMuon, "adam_lr_ratio", float("nan")),
        (ConvMuon, "adam_lr_ratio", None),
        (ConvMuon, "momentum", 1),
    ],
)
def test_bad_arguments(optimizer, name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        optimizer(**{name: value})
