"""Weights set to zero in training."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
from keras_multiception.compression import (  # noqa: E402
    convert_to_litert,
    prune_model,
    pruning_callback,
    quantize_model,
    sparsity_report,
    strip_pruning,
)


def network():
    x = inputs = keras.Input((8, 8, 3))
    x = km.conv_bn(x, 8, conv="standard", name="stem")
    x = layers.ReLU()(km.conv_bn(x, 8, conv="multiception", name="middle"))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="last")(x))


def train(model, steps, optimizer="SGD", callbacks=None):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4 * steps, 8, 8, 3)), rng.integers(0, 10, 4 * steps)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(tf_keras.optimizers, optimizer)(0.01), loss)
    callbacks = [pruning_callback()] if callbacks is None else callbacks
    model.fit(images, labels, batch_size=4, callbacks=callbacks, verbose=0)
    return model


def sparsities(model):
    return {kind: counts["sparsity"] for kind, counts in sparsity_report(model).items()}


def zeros(model):
    counts = sparsity_report(model)
    return {kind: each["parameters"] - each["nonzero"] for kind, each in counts.items()}


def steps_of(model):
    return {int(x.pruning_step) for x in model.layers if hasattr(x, "pruning_step")}


@pytest.mark.parametrize("depthwise", [False, True])
def test_sparsity_is_reached(depthwise):
    model = network()
    before = [np.array(w) for w in model.get_weights()]
    # 7 steps in strides of 3: the last choice of zeros is at the end all the same
    pruned = prune_model(model, 0.75, end_step=7, frequency=3, depthwise=depthwise)
    train(pruned, 7)
    sparse = strip_pruning(pruned)
    found = sparsities(sparse)
    assert found.pop("depthwise") == pytest.approx(0.75 if depthwise else 0, abs=0.01)
    found.pop("total")
    for kind, sparsity in found.items():
        assert sparsity == pytest.approx(0.75, abs=0.01), kind
    assert not [x for x in sparse.layers if isinstance(x, tf_keras.layers.Wrapper)]
    for layer in sparse.layers:
        for weight in layer.weights[1:] if "Norm" not in type(layer).__name__ else layer.weights:
            assert "depthwise" in weight.name or np.count_nonzero(weight), weight.name
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(sparse(x), pruned(x), atol=1e-6)
    assert sparsities(pruned) == sparsities(sparse)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_zeros_are_the_smallest_weights_and_stay():
    dense = tf_keras.layers.Dense(8, use_bias=False)
    model = tf_keras.Sequential([tf_keras.Input((4,)), dense])
    kernel = np.random.default_rng(0).permutation(np.arange(1.0, 33)).reshape(4, 8)
    dense.set_weights([kernel])
    pruned = prune_model(model, 0.5, end_step=1)
    pruned.compile(tf_keras.optimizers.SGD(0.0), "mse")
    pruned.fit(np.ones((6, 4)), np.zeros((6, 8)), 2, callbacks=[pruning_callback()], verbose=0)
    (after,) = strip_pruning(pruned).get_weights()
    np.testing.assert_array_equal(after, np.where(kernel > 16, kernel, 0))
    np.testing.assert_array_equal(dense.get_weights()[0], kernel)


@pytest.mark.slow
def test_sparsity_grows_from_the_beginning_to_the_end():
    pruned = prune_model(
        network(), 0.8, begin_step=2, end_step=6, frequency=2, initial_sparsity=0.4
    )
    found = []
    for _ in range(7):
        train(pruned, 1)
        found.append(sparsity_report(pruned)["dense"]["sparsity"])
    # 0.8 - 0.4 * (1 - progress) ** 3 at steps 2, 4 and 6
    expected = [0, *(0.8 - 0.4 * (1 - x) ** 3 for x in (0, 0, 0.5, 0.5, 1, 1))]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_two_of_four(capsys):
    pruned = prune_model(network(), 0.5, end_step=2, blocks="2:4")
    assert "not in blocks of 4: stem" in capsys.readouterr().out
    sparse = strip_pruning(train(pruned, 3))
    pointwise = sparse.get_layer("middle_pointwise").kernel.numpy()
    blocks = np.transpose(pointwise, (3, 0, 1, 2)).reshape(-1, 4)
    np.testing.assert_array_equal((blocks == 0).sum(axis=1), 2)
    dense = sparse.get_layer("last").kernel.numpy()
    np.testing.assert_array_equal((dense.T.reshape(-1, 4) == 0).sum(axis=1), 2)
    assert sparsities(sparse)["standard"] == sparsities(sparse)["depthwise"] == 0


def test_transposed_convolutions_stay_dense_in_blocks(capsys):
    x = inputs = tf_keras.Input((4, 4, 8))
    x = tf_keras.layers.Conv2D(8, 1, name="conv")(x)
    x = tf_keras.layers.Conv2DTranspose(8, 2, name="transposed")(x)
    pruned = prune_model(tf_keras.Model(inputs, x), 0.5, end_step=2, blocks="2:4")
    assert "not in blocks of 4: transposed" in capsys.readouterr().out
    assert not hasattr(pruned.get_layer("transposed"), "pruning_step")


def test_training_goes_on_where_it_was_stopped(tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        return prune_model(network(), 0.8, end_step=6, frequency=2)

    stopped = train(make(), 3)
    stopped.save_weights(tmp_path / "checkpoint")
    resumed = make()
    resumed.load_weights(tmp_path / "checkpoint").expect_partial()
    assert steps_of(resumed) == {3}
    assert sparsities(resumed) == sparsities(stopped)
    train(resumed, 3)
    assert steps_of(resumed) == {6}
    assert sparsities(resumed)["dense"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
def test_zeros_stay_zero_in_eight_bits(depthwise):
    pruned = prune_model(network(), 0.75, end_step=2, depthwise=depthwise)
    sparse = strip_pruning(train(pruned, 2))
    trained = train(quantize_model(sparse, preserve=("sparsity",)), 3, "Adam", callbacks=[])
    after = zeros(convert_to_litert(trained, "int8"))
    for kind, count in zeros(sparse).items():
        assert after[kind] >= count, kind
    # steps of Adam are wide enough to lose them otherwise
    careless = train(quantize_model(sparse), 3, "Adam", callbacks=[])
    lost = sparsities(convert_to_litert(careless, "int8"))
    assert lost["pointwise"] < 0.5
    assert lost["depthwise"] < 0.5


def test_the_callback_is_needed():
    with pytest.raises(Exception, match="UpdatePruningStep callback"):
        train(prune_model(network(), 0.5, end_step=2), 1, callbacks=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"`sparsity` must be in 0..1.*Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "`sparsity` must be in 0..1"),
        ({"sparsity": float("nan")}, "`sparsity` must be in 0..1"),
        ({"sparsity": "0.5"}, "`sparsity` must be a number. Received: sparsity='0.5'"),
        ({"end_step": 2.5}, "`end_step` must be an integer. Received: end_step=2.5"),
        ({"initial_sparsity": 0.9}, "`initial_sparsity` must be in 0..`sparsity`"),
        ({"begin_step": 4}, "`begin_step` must not be negative, and less than `end_step`"),
        ({"begin_step": -1}, "`begin_step` must not be negative"),
        ({"frequency": 0}, "`frequency` must be at least 1. Received: frequency=0"),
        ({"blocks": "1:2"}, "`blocks` must be None or '2:4'"),
        ({"blocks": "2:4", "sparsity": 0.6}, "`blocks` need sparsity=0.5 and depthwise=False"),
        ({"blocks": "2:4", "depthwise": True}, "`blocks` need sparsity=0.5 and depthwise=False"),
        ({"model": "resnet20"}, "`model` must be a Keras 3 model, or one of tf_keras"),
        ({"model": tf_keras.Sequential()}, "`model` must be a Keras 3 model, or one of tf_keras"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"model": network(), "sparsity": 0.5, "end_step": 4} | arguments
    with pytest.raises(ValueError, match=message):
        prune_model(**arguments)


def test_models_that_do_not_fit():
    flat = keras.Sequential([keras.Input((3,)), layers.Flatten()])
    with pytest.raises(ValueError, match="`model` must have standard, pointwise or dense kernels"):
        prune_model(flat, 0.5, end_step=1)
    odd = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="odd")])
    with pytest.raises(ValueError, match=r"`blocks` need a kernel .* Received: kernels of odd"):
        prune_model(odd, 0.5, end_step=1, blocks="2:4")
    with pytest.raises(ValueError, match="and has no wrappers"):
        prune_model(prune_model(network(), 0.5, end_step=1), 0.5, end_step=1)
    with pytest.raises(ValueError, match="`model` must come from `prune_model`"):
        strip_pruning(network())
