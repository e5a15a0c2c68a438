"""Few distinct weights."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
from keras_multiception.compression import (  # noqa: E402
    cluster_model,
    convert_to_litert,
    prune_model,
    pruning_callback,
    quantize_model,
    sparsity_report,
    strip_clustering,
    strip_pruning,
)


def network():
    x = inputs = keras.Input((6, 6, 3))
    x = km.conv_bn(x, 8, conv="standard", name="stem")
    x = layers.ReLU()(km.conv_bn(x, 8, conv="multiception", kernel_sizes=(3, 5), name="middle"))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="last")(x))


def train(model, callbacks=()):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(12, 6, 6, 3)), rng.integers(0, 10, 12)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.SGD(0.01), loss)
    model.fit(images, labels, batch_size=4, callbacks=list(callbacks), verbose=0)
    return model


def values(model, layer="last"):
    return np.unique(model.get_layer(layer).get_weights()[0])


@pytest.mark.parametrize("depthwise", [False, True])
def test_kernels_have_few_values_which_train(depthwise):
    model = network()
    clustered = cluster_model(model, 6, depthwise=depthwise)
    before = strip_clustering(clustered)
    after = strip_clustering(train(clustered))
    report = sparsity_report(after)
    assert (report["depthwise"]["distinct"] <= 6) == depthwise
    for kind in ("standard", "pointwise", "dense"):
        assert 2 <= report[kind]["distinct"] <= 6, kind
    assert not np.array_equal(values(before), values(after))
    assert not [x for x in after.layers if isinstance(x, tf_keras.layers.Wrapper)]
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(after(x), clustered(x), atol=1e-6)
    assert sparsity_report(clustered) == report
    assert sparsity_report(model)["dense"]["distinct"] == 80


def test_each_weight_becomes_a_value_near_it():
    dense = tf_keras.layers.Dense(10, use_bias=False)
    model = tf_keras.Sequential([tf_keras.Input((6,)), dense])
    centers = np.repeat([-5.0, 0.0, 4.0], 20)
    kernel = np.random.default_rng(0).permutation(centers).reshape(6, 10)
    dense.set_weights([kernel + np.random.default_rng(1).uniform(-0.1, 0.1, kernel.shape)])
    (after,) = strip_clustering(cluster_model(model, 3)).get_weights()
    np.testing.assert_allclose(after, kernel, atol=0.2)
    assert len(np.unique(after)) == 3


@pytest.mark.parametrize("quantized", [False, True])
def test_values_move_as_far_as_single_weights(quantized):
    """The gradient of each weight is 1 / 64, and that of their value as well."""
    inputs = tf_keras.Input((64,))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(64, use_bias=False, name="last")(inputs))
    model = cluster_model(model, 4)
    if quantized:
        model = quantize_model(strip_clustering(model), preserve=("clusters",))
    (centers,) = [w for w in model.trainable_weights if "centroids" in w.name]
    before = centers.numpy()
    model.compile(tf_keras.optimizers.SGD(1.0), lambda _, y: y)
    model.fit(np.ones((1, 64)), np.zeros((1, 64)), verbose=0)
    np.testing.assert_allclose(before - centers.numpy(), 1 / 64, rtol=1e-4)


def test_zeros_of_pruning_stay():
    pruned = prune_model(network(), 0.6, end_step=2)
    sparse = strip_pruning(train(pruned, [pruning_callback()]))
    zeros = {x.name: x.get_weights()[0] == 0 for x in sparse.layers if x.get_weights()}
    clustered = strip_clustering(train(cluster_model(sparse, 5, preserve_sparsity=True)))
    for layer in clustered.layers:
        if layer.get_weights() and "Norm" not in type(layer).__name__:
            assert not layer.get_weights()[0][zeros[layer.name]].any(), layer.name
    report = sparsity_report(clustered)
    assert report["dense"]["distinct"] <= 5
    assert report["dense"]["sparsity"] >= 0.59


@pytest.mark.slow
@pytest.mark.parametrize("preserve", [("clusters",), ("sparsity", "clusters")])
def test_values_and_zeros_stay_in_eight_bits(preserve):
    model, sparse = network(), "sparsity" in preserve
    if sparse:
        pruned = prune_model(model, 0.6, end_step=2)
        model = strip_pruning(train(pruned, [pruning_callback()]))
    clustered = strip_clustering(train(cluster_model(model, 5, preserve_sparsity=sparse)))
    content = convert_to_litert(train(quantize_model(clustered, preserve=preserve)), "int8")
    before, after = sparsity_report(clustered), sparsity_report(content)
    # a dense kernel has one scale; each channel of a convolution has its own, and so its own bytes
    assert 2 <= after["dense"]["distinct"] <= 5
    assert after["dense"]["sparsity"] >= before["dense"]["sparsity"]
    if sparse:
        for kind in ("standard", "pointwise"):
            assert after[kind]["sparsity"] >= before[kind]["sparsity"] >= 0.59, kind


def test_small_kernels_stay_as_they_are():
    model = network()
    clustered = strip_clustering(cluster_model(model, 90))  # the last one has 80 weights
    np.testing.assert_array_equal(values(clustered), values(model))
    assert sparsity_report(clustered)["pointwise"]["distinct"] <= 90


def test_integers_of_numpy_are_taken():
    clustered = strip_clustering(cluster_model(network(), np.int64(4)))
    assert sparsity_report(clustered)["dense"]["distinct"] <= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 1}, "`clusters` must be an integer of at least 2.*Received: clusters=1"),
        ({"clusters": 4.0}, "`clusters` must be an integer of at least 2"),
        ({"clusters": True}, "`clusters` must be an integer of at least 2"),
        ({"clusters": 2, "preserve_sparsity": True}, "or 3 with preserve_sparsity=True"),
        ({"clusters": 216}, "less than the weights of the largest kernel, 216"),
        ({"model": "resnet20"}, "`model` must be a Keras 3 model, or one of tf_keras"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_model(**{"model": network()} | arguments)


def test_models_that_are_not_clustered():
    with pytest.raises(ValueError, match="`model` must come from `cluster_model`"):
        strip_clustering(network())
