import keras
import numpy as np
import pytest

import keras_multiception as km

pytestmark = pytest.mark.backend


def minimise(optimizer, steps=5):
    """Run the optimiser on fixed gradients; return the weights."""
    rng = np.random.default_rng(0)
    weights = keras.Variable(rng.normal(size=4).astype("float32"))
    for _ in range(steps):
        optimizer.apply(
            [keras.ops.convert_to_tensor(rng.normal(size=4).astype("float32"))], [weights]
        )
    return keras.ops.convert_to_numpy(weights)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_penalty_and_at_constant_rate_it_is_keras_sgd(momentum, nesterov):
    ours = minimise(km.optimizers.SGDL2(0.1, momentum, nesterov, l2=0.0))
    keras_sgd = minimise(keras.optimizers.SGD(0.1, momentum, nesterov))
    np.testing.assert_allclose(ours, keras_sgd, rtol=1e-5)


def test_penalty_is_a_gradient():
    optimizer = km.optimizers.SGDL2(0.1, momentum=0.0, l2=0.5)
    weights = keras.Variable(np.ones(3, "float32"))
    optimizer.apply([keras.ops.zeros(3)], [weights])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weights), 0.95)


def test_serialises_and_survives_saving(tmp_path):
    optimizer = km.optimizers.SGDL2(0.05, momentum=0.8, nesterov=False, l2=1e-3, clipnorm=1.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, km.optimizers.SGDL2)
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`l2` must be at least 0"):
        km.optimizers.SGDL2(l2=-1)
    with pytest.raises(ValueError, match="`weight_decay`"):
        km.optimizers.SGDL2(weight_decay=1e-4)


def test_excluded_variables_have_no_penalty():
    kept, free = (keras.Variable(np.ones(3, "float32")) for _ in range(2))
    optimizer = km.optimizers.SGDL2(0.1, momentum=0.9, l2=0.5)
    optimizer.exclude_from_weight_decay(var_list=[free])
    optimizer.apply([keras.ops.zeros(3), keras.ops.zeros(3)], [kept, free])
    np.testing.assert_allclose(kept, 1 - 0.1 * (0.5 + 0.9 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(free, 1)
