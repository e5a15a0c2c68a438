import dataclasses

import keras
import numpy as np
import pytest

import keras_multiception as km
from training.fit import AveragedWeights, EpochCheckpoint
from training.loop import network
from training.recipe import Recipe
from training.run_folder import RunFolder

RECIPE = Recipe("digits", "resnet20", "standard", epochs=2, batch_size=8, learning_rate=0.05)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.integers(0, 3, 32)


def compiled(recipe=RECIPE, normalize=False, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, activation="relu")(inputs)
    if normalize:
        x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(x))
    recipe = dataclasses.replace(recipe, **options)
    network.compile_for_training(model, recipe, len(X) // recipe.batch_size)
    return model


def fit(model, batch_size=8, epochs=2, **options):
    model.fit(X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **options)
    return model


@pytest.mark.backend
@pytest.mark.parametrize("clip_norm", [0, 0.1])
def test_accumulated_batches_equal_one_of_their_sum(clip_norm):
    whole = fit(compiled(batch_size=16, clip_norm=clip_norm), 16)
    parts = fit(compiled(batch_size=4, accumulate_steps=4, clip_norm=clip_norm), 4)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.backend
def test_clipping_limits_the_norm_of_the_whole_gradient():
    options = {"momentum": 0, "l2": 0, "learning_rate": 1, "min_learning_rate": 1}
    model = compiled(batch_size=32, clip_norm=0.01, **options)
    before = model.get_weights()
    fit(model, 32, epochs=1)
    step = [old - new for old, new in zip(before, model.get_weights(), strict=True)]
    assert np.sqrt(sum(np.square(part).sum() for part in step)) == pytest.approx(0.01, rel=1e-3)


def test_penalty_can_leave_out_vectors():
    model = compiled(l2_on_vectors=False, normalize=True)
    decays = {v.path: model.optimizer._use_weight_decay(v) for v in model.trainable_variables}
    ranks = {v.path: len(v.shape) for v in model.trainable_variables}
    assert decays == {path: rank > 1 for path, rank in ranks.items()}
    assert set(decays.values()) == {True, False}


@pytest.mark.backend
def test_muon_of_a_recipe():
    recipe = dataclasses.replace(RECIPE, optimizer="muon", l2=0.0, weight_decay=0.1, momentum=0.5)
    optimizer = compiled(recipe).optimizer
    assert isinstance(optimizer, km.optimizers.ConvMuon)
    assert (optimizer.weight_decay, optimizer.momentum) == (0.1, 0.5)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)


def test_batch_norms_inside_layers_are_synchronized():
    recipe = dataclasses.replace(
        RECIPE, conv="multiception", filters=4, sync_batch_norm=True, image_size=8
    )
    spec = dataclasses.replace(km.preprocessing.DATASETS["digits"], image_shape=(8, 8, 3))
    model = network.build(recipe, spec)
    network.compile_for_training(model, recipe, 4, replicas=2)
    assert model.get_layer("stage1_block1_conv1").depthwise_bn.synchronized
    assert model.get_layer("stem_bn").synchronized


@pytest.mark.backend
def test_evaluation_uses_the_average_and_training_does_not():
    averages, losses = AveragedWeights(), []
    model = compiled(ema=0.9, normalize=True)
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.append(logs["val_loss"])
    )
    fit(model, validation_data=(X, Y), callbacks=[averages, watch])
    expected = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert losses[-1] == pytest.approx(model.evaluate(X, Y, verbose=0)[0], rel=1e-5)

    plain, mean = compiled(normalize=True), None
    for begin in 2 * [*range(0, 32, 8)]:
        plain.train_on_batch(X[begin : begin + 8], Y[begin : begin + 8])
        new = [keras.ops.convert_to_numpy(v) for v in plain.trainable_variables]
        mean = new if mean is None else [0.9 * m + 0.1 * w for m, w in zip(mean, new, strict=True)]
    for one, other in zip(expected, mean, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_float16_scales_its_loss_and_the_checkpoint_keeps_the_scale(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(normalize=True)
    folder, history = RunFolder(tmp_path), []
    watch = EpochCheckpoint(folder, history, RECIPE, 32)
    model.optimizer.dynamic_scale.assign(2.0**60)  # overflows: is halved, and no step is made
    fit(model, epochs=1, validation_data=(X, Y), callbacks=[watch])
    scale = float(model.optimizer.dynamic_scale)
    assert scale < 2.0**60
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    resumed = compiled(normalize=True)
    assert folder.load_checkpoint(resumed) == history
    assert float(resumed.optimizer.dynamic_scale) == scale


def test_lost_statistics_stop_the_run_before_they_are_saved(tmp_path):
    model, history = compiled(normalize=True), []
    watch = EpochCheckpoint(RunFolder(tmp_path), history, RECIPE, 32)
    spoil = keras.callbacks.LambdaCallback(
        on_test_end=lambda logs: model.layers[2].moving_variance.assign([np.nan] * 5)
    )
    with pytest.raises(FloatingPointError, match="moving_variance is not finite after epoch 1; 0 "):
        fit(model, validation_data=(X, Y), callbacks=[spoil, watch])
    assert not (tmp_path / "checkpoints").exists()


PAPER = Recipe("cifar10", "resnet20", "multiception", epochs=30)


@pytest.mark.backend
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 5])
def test_every_step_has_the_rate_of_the_recipe(interval, warmup_epochs):
    recipe = dataclasses.replace(PAPER, schedule_interval=interval, warmup_epochs=warmup_epochs)
    steps = 7
    schedule = network.learning_rate_schedule(recipe, steps)
    for step in range(recipe.epochs * steps):
        epoch = step // steps if interval == "epoch" else step / steps
        rate = float(schedule(keras.ops.convert_to_tensor(step)))
        assert rate == pytest.approx(recipe.learning_rate_at(epoch), rel=1e-4)


LOGITS = np.random.default_rng(0).normal(size=(16, 7)).astype("float32")
LABELS = np.arange(16) % 7
SHARES = np.eye(7, dtype="float32")[LABELS]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.backend
@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], SHARES, 0.6 * SHARES + 0.4 / 7])
def test_cross_entropy_of_either_form_of_labels(labels, smoothing):
    shares = labels if labels.shape == SHARES.shape else SHARES
    expected = -((1 - smoothing) * shares + smoothing / 7) * log_softmax(LOGITS)
    loss = network.cross_entropy(keras.ops.convert_to_tensor(labels), LOGITS, smoothing)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loss), expected.sum(axis=1), rtol=2e-5, atol=1e-6
    )


@pytest.mark.backend
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], SHARES, 0.6 * SHARES + 0.4 / 7])
@pytest.mark.parametrize(("accuracy", "best"), [(network.top1, 1), (network.top5, 5)])
def test_accuracies_of_either_form_of_labels(labels, accuracy, best):
    rank = np.argsort(-LOGITS, axis=1)[:, :best]
    hits = accuracy(keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(LOGITS))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(hits), (rank == LABELS[:, None]).any(axis=1)
    )


@pytest.mark.backend
def test_top5_of_three_classes_is_always_right():
    hits = network.top5(keras.ops.zeros((4,), "int32"), keras.ops.ones((4, 3)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(hits), np.ones(4))
