"""Whole epochs in the memory of a device: the outcome of `fit`, also resumed; what is refused."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_multiception as km
from tests.commands import history, small_network
from training import data, fit
from training.loop import network
from training.loop.strategies import Execution
from training.recipe import Recipe

pytestmark = pytest.mark.backend
of_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
DEVICE = Execution(loop="device")
RECIPE = Recipe(
    "digits",
    "resnet20",
    "standard",
    train_split="train[:96]",
    test_split="test[:300]",
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    seed=5,
)


def weights(folder):
    return keras.saving.load_model(folder / "model.keras").get_weights()


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build", small_network)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "run"
    return folder, fit.train(RECIPE, folder, execution=DEVICE)


@of_jax
@pytest.mark.slow
def test_outcome_is_that_of_fit(trained, tmp_path):
    folder, metrics = trained
    expected = fit.train(RECIPE, tmp_path / "fit")
    for ours, theirs in zip(history(folder), history(tmp_path / "fit"), strict=True):
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-3)
    for ours, theirs in zip(weights(folder), weights(tmp_path / "fit"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)
    assert metrics["test"]["examples"] == expected["test"]["examples"] == 300
    assert metrics["epochs"] == 2
    assert {file.name for file in folder.iterdir()} == {
        file.name for file in (tmp_path / "fit").iterdir()
    }


@of_jax
def test_half_precision_learns_as_float32():
    from training.loop import compiled_epoch_loop  # imports JAX

    def losses_in(dtype_policy):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(dtype_policy)
        images = keras.Input((32, 32, 3))
        features = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(images))
        model = keras.Model(images, keras.layers.Dense(10, dtype="float32")(features))
        recipe = dataclasses.replace(RECIPE, dtype_policy=dtype_policy, learning_rate=0.1)
        network.compile_for_training(model, recipe, 3)
        history = keras.callbacks.History()
        compiled_epoch_loop.fit(
            model,
            recipe,
            km.preprocessing.get_dataset("digits"),
            data.load("digits", "train[:96]"),
            data.load("digits", "test[:64]"),
            callbacks=[history],
            initial_epoch=0,
            verbose=0,
        )
        return history.history["loss"]

    losses = losses_in("mixed_float16")
    assert losses[1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, losses_in("float32"), rtol=0.02)


@of_jax
@pytest.mark.slow
def test_resumed_run_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save = fit.EpochCheckpoint.on_epoch_end

    def stop_after(self, epoch, logs=None):
        save(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit.EpochCheckpoint, "on_epoch_end", stop_after)
    with pytest.raises(KeyboardInterrupt):
        fit.train(RECIPE, folder, execution=DEVICE)
    monkeypatch.undo()
    assert len(history(folder)) == 1
    fit.train(RECIPE, folder, execution=DEVICE)
    assert history(folder) == history(trained[0])
    for ours, theirs in zip(weights(folder), weights(trained[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@of_jax
@pytest.mark.parametrize("change", [{"mixup": 0.2}, {"ema": 0.9}, {"accumulate_steps": 2}])
def test_what_is_not_done_on_a_device_is_refused(change, tmp_path):
    [name] = change
    with pytest.raises(ValueError, match=f"`{name}` must be . with `loop` device"):
        fit.train(dataclasses.replace(RECIPE, **change), tmp_path / "run", execution=DEVICE)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="of the others")
def test_needs_jax(tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        fit.train(RECIPE, tmp_path / "run", execution=DEVICE)
    assert not (tmp_path / "run").exists()
