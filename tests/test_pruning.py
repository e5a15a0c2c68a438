"""Weights set to zero, or to few values, in training; and how small that can be written."""

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
    size_report,
    sparsity_report,
    strip_clustering,
    strip_pruning,
    to_tf_keras,
)

IMAGES = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype("float32")


def network():
    x = inputs = keras.Input((6, 6, 3))
    x = km.conv_bn(x, 8, conv="standard", name="stem")
    x = layers.ReLU()(km.conv_bn(x, 8, conv="multiception", kernel_sizes=(3, 5), name="middle"))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="last")(x))


def small():
    """A network of Keras 2 with a standard, a pointwise and a dense kernel."""
    x = inputs = tf_keras.Input((6, 6, 3))
    x = tf_keras.layers.Conv2D(8, 3, name="stem")(x)
    x = tf_keras.layers.Conv2D(8, 1, name="pointwise")(x)
    x = tf_keras.layers.GlobalAveragePooling2D()(x)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(10, name="last")(x))


@pytest.fixture(scope="module")
def plain():
    return small()


def train(model, steps=3, optimizer="SGD", callbacks=()):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4 * steps, 6, 6, 3)), rng.integers(0, 10, 4 * steps)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # tracing takes longer than these few steps
    model.compile(getattr(tf_keras.optimizers, optimizer)(0.01), loss, run_eagerly=True)
    model.fit(images, labels, batch_size=4, callbacks=list(callbacks), verbose=0)
    return model


def prune(model, steps, sparsity=0.75, **arguments):
    """Return a network after so many steps of pruning, with its wrappers."""
    pruned = prune_model(model, sparsity, **{"end_step": steps} | arguments)
    return train(pruned, steps, callbacks=[pruning_callback()])


def sparsities(model):
    return {kind: counts["sparsity"] for kind, counts in sparsity_report(model).items()}


def zeros(model):
    counts = sparsity_report(model)
    return {kind: each["parameters"] - each["nonzero"] for kind, each in counts.items()}


def require_plain(stripped, wrapped):
    """A network without wrappers, that answers and is counted like the one with them."""
    assert not [x for x in stripped.layers if isinstance(x, tf_keras.layers.Wrapper)]
    np.testing.assert_allclose(stripped(IMAGES), wrapped(IMAGES), atol=1e-6)
    assert sparsity_report(wrapped) == sparsity_report(stripped)


@pytest.mark.parametrize("depthwise", [False, True])
def test_sparsity_is_reached(depthwise):
    model = network()
    before = [np.array(w) for w in model.get_weights()]
    # 5 steps in strides of 2: the last choice of zeros is at the end all the same
    pruned = prune(model, 5, frequency=2, depthwise=depthwise)
    sparse = strip_pruning(pruned)
    found = sparsities(sparse)
    assert found.pop("depthwise") == pytest.approx(0.75 if depthwise else 0, abs=0.01)
    found.pop("total")
    for kind, sparsity in found.items():
        assert sparsity == pytest.approx(0.75, abs=0.01), kind
    for layer in sparse.layers:
        for weight in layer.weights[1:] if "Norm" not in type(layer).__name__ else layer.weights:
            assert "depthwise" in weight.name or np.count_nonzero(weight), weight.name
    require_plain(sparse, pruned)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_sparsity_grows_from_the_beginning_to_the_end():
    schedule = {"begin_step": 2, "end_step": 6, "frequency": 2, "initial_sparsity": 0.4}
    pruned = prune_model(small(), 0.8, **schedule)
    found = []
    for _ in range(7):
        train(pruned, 1, callbacks=[pruning_callback()])
        found.append(sparsity_report(pruned)["dense"]["sparsity"])
    # 0.8 - 0.4 * (1 - progress) ** 3 at steps 2, 4 and 6
    expected = [0, *(0.8 - 0.4 * (1 - x) ** 3 for x in (0, 0, 0.5, 0.5, 1, 1))]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_two_of_four(plain, capsys):
    sparse = strip_pruning(prune(plain, 3, 0.5, end_step=2, blocks="2:4"))
    assert "not in blocks of 4: stem" in capsys.readouterr().out
    pointwise = sparse.get_layer("pointwise").kernel.numpy()
    blocks = np.transpose(pointwise, (3, 0, 1, 2)).reshape(-1, 4)
    np.testing.assert_array_equal((blocks == 0).sum(axis=1), 2)
    last = sparse.get_layer("last").kernel.numpy()
    np.testing.assert_array_equal((last.T.reshape(-1, 4) == 0).sum(axis=1), 2)
    assert sparsities(sparse)["standard"] == 0


def test_training_goes_on_where_it_was_stopped(plain, tmp_path):
    def steps_of(model):
        return {int(x.pruning_step) for x in model.layers if hasattr(x, "pruning_step")}

    stopped = prune(plain, 3, 0.8, end_step=6, frequency=2)
    stopped.save_weights(tmp_path / "checkpoint")
    resumed = prune_model(plain, 0.8, end_step=6, frequency=2)
    resumed.load_weights(tmp_path / "checkpoint").expect_partial()
    assert steps_of(resumed) == {3}
    assert sparsities(resumed) == sparsities(stopped)
    train(resumed, 3, callbacks=[pruning_callback()])
    assert steps_of(resumed) == {6}
    assert sparsities(resumed)["dense"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
def test_zeros_stay_zero_in_eight_bits(depthwise):
    sparse = strip_pruning(prune(network(), 2, depthwise=depthwise))
    trained = train(quantize_model(sparse, preserve=("sparsity",)), 3, "Adam")
    after = zeros(convert_to_litert(trained, "int8"))
    for kind, count in zeros(sparse).items():
        assert after[kind] >= count, kind
    # steps of Adam are wide enough to lose them otherwise
    careless = train(quantize_model(sparse), 3, "Adam")
    lost = sparsities(convert_to_litert(careless, "int8"))
    assert lost["pointwise"] < 0.5
    assert lost["depthwise"] < 0.5


@pytest.mark.parametrize("depthwise", [False, True])
def test_kernels_have_few_values_which_train(depthwise):
    model = network()
    clustered = cluster_model(model, np.int64(6), depthwise=depthwise)
    before = strip_clustering(clustered).get_layer("last").get_weights()[0]
    after = strip_clustering(train(clustered))
    report = sparsity_report(after)
    assert (report["depthwise"]["distinct"] <= 6) == depthwise
    for kind in ("standard", "pointwise", "dense"):
        assert 2 <= report[kind]["distinct"] <= 6, kind
    assert not np.array_equal(np.unique(before), np.unique(after.get_layer("last").kernel))
    require_plain(after, clustered)
    assert sparsity_report(model)["dense"]["distinct"] == 80


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


def test_zeros_of_pruning_stay(plain):
    sparse = strip_pruning(prune(plain, 2, 0.6))
    clustered = strip_clustering(train(cluster_model(sparse, 5, preserve_sparsity=True)))
    for old, new in zip(sparse.get_weights()[::2], clustered.get_weights()[::2], strict=True):
        assert not new[old == 0].any()
    report = sparsity_report(clustered)
    assert report["dense"]["distinct"] <= 5
    assert report["dense"]["sparsity"] >= 0.59


def test_small_kernels_stay_as_they_are(plain):
    clustered = strip_clustering(cluster_model(plain, 90))  # the last one has 80 weights
    for old, new in zip(plain.get_weights()[2:], clustered.get_weights()[2:], strict=True):
        np.testing.assert_array_equal(old, new)
    assert sparsity_report(clustered)["standard"]["distinct"] <= 90


BAD = [
    ("sparsity", {"sparsity": 1.0}),
    ("initial_sparsity", {"initial_sparsity": 0.9}),
    ("begin_step", {"begin_step": 4}),
    ("end_step", {"end_step": 2.5}),
    ("frequency", {"frequency": 0}),
    ("blocks", {"blocks": "1:2"}),
    ("blocks", {"blocks": "2:4", "depthwise": True}),
    ("model", {"model": "resnet20"}),
    ("model", {"model": tf_keras.Sequential()}),
    ("clusters", {"clusters": 1}),
    ("clusters", {"clusters": 216}),
    ("clusters", {"clusters": 2, "preserve_sparsity": True}),
]


@pytest.mark.parametrize(("name", "arguments"), BAD)
def test_bad_arguments(plain, name, arguments):
    usual = {} if name == "clusters" else {"sparsity": 0.5, "end_step": 4}
    function = cluster_model if name == "clusters" else prune_model
    with pytest.raises(ValueError, match=f"`{name}`.*Received: "):
        function(**{"model": plain} | usual | arguments)


def test_models_that_do_not_fit(plain):
    flat = keras.Sequential([keras.Input((3,)), layers.Flatten()])
    with pytest.raises(ValueError, match="`model` must have standard, pointwise or dense kernels"):
        prune_model(flat, 0.5, end_step=1)
    odd = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="odd")])
    with pytest.raises(ValueError, match=r"`blocks` need a kernel .* Received: kernels of odd"):
        prune_model(odd, 0.5, end_step=1, blocks="2:4")
    with pytest.raises(ValueError, match="`model` must have"):
        prune_model(prune_model(plain, 0.5, end_step=1), 0.5, end_step=1)
    for strip in (strip_pruning, strip_clustering):
        with pytest.raises(ValueError, match=r"`model` must come from `(prune|cluster)_model`"):
            strip(plain)


@pytest.fixture(scope="module")
def counted():
    """A network whose last kernel has four rows of zeros and four other values."""
    model = network()
    kernel = np.repeat(np.maximum(np.arange(-3, 5), 0)[:, None], 10, 1)
    model.get_layer("last").set_weights([kernel, np.zeros(10)])
    return model


@pytest.fixture(scope="module")
def legacy(counted):
    return to_tf_keras(counted)


def test_kinds_are_counted(counted):
    report = sparsity_report(counted)
    assert {kind: x["parameters"] for kind, x in report.items()} == {
        "standard": 3 * 3 * 3 * 8,
        "depthwise": (9 + 25) * 8,
        "pointwise": 16 * 8,
        "dense": 80,
        "total": 216 + 272 + 128 + 80,
    }
    assert report["dense"] == {"parameters": 80, "nonzero": 40, "sparsity": 0.5, "distinct": 5}
    assert report["standard"]["sparsity"] == 0
    assert report["total"]["nonzero"] == report["total"]["parameters"] - 40
    assert report["total"]["distinct"] == 216


def test_both_keras_and_wrappers_count_alike(counted, legacy):
    report = sparsity_report(counted)
    assert sparsity_report(legacy) == report
    wrapped = prune_model(legacy, 0.5, end_step=1)
    assert sparsity_report(wrapped) == report
    assert size_report(wrapped) == size_report(legacy)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_both_kernels_of_a_separable_convolution_count(library):
    layer = library.layers.SeparableConv2D(6, 3)
    report = sparsity_report(library.Sequential([library.Input((8, 8, 4)), layer]))
    found = [report[kind]["parameters"] for kind in ("depthwise", "pointwise", "total")]
    assert found == [9 * 4, 4 * 6, 9 * 4 + 4 * 6]


def test_size_of_weights(counted):
    report = size_report(counted)
    assert report["raw"] == report["weights"] == 4 * counted.count_params()
    halves = keras.Sequential([keras.Input((64,)), layers.Dense(64, use_bias=False)])
    halves.layers[0].set_weights([np.arange(4096).reshape(64, 64) % 2])
    report = size_report(halves)
    assert report["entropy"] == 4096 / 8 + 2 * 8  # a bit each, and a table of two floats
    assert report["deflated"] < report["entropy"]  # it sees the pattern


@pytest.mark.parametrize(("quantization", "width"), [("none", 4), ("float16", 2), ("int8", 1)])
def test_files(legacy, quantization, width, tmp_path):
    content = convert_to_litert(legacy, quantization, IMAGES if quantization == "int8" else None)
    report, expected = sparsity_report(content), sparsity_report(legacy)
    for kind in expected:
        assert report[kind]["parameters"] == expected[kind]["parameters"], kind
    assert report["dense"]["nonzero"] == 40
    sizes = size_report(content)
    assert sizes["raw"] == len(content)
    parameters = expected["total"]["parameters"]
    assert width * parameters <= sizes["weights"] < width * parameters + 1000
    assert max(sizes["entropy"], sizes["deflated"]) < sizes["raw"]
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    assert (size_report(path), sparsity_report(str(path))) == (sizes, report)


def test_what_cannot_be_counted():
    inputs = tf_keras.Input((4,))
    aware = quantize_model(tf_keras.Model(inputs, tf_keras.layers.Dense(2)(inputs)))
    unbuilt = [library.Sequential([library.layers.Dense(2)]) for library in (keras, tf_keras)]
    for model in (b"PK", *unbuilt, aware):
        for report in (sparsity_report, size_report):
            with pytest.raises(ValueError, match=r"`model` must .*Received: "):
                report(model)
