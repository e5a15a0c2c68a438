"""What is zero, what differs, and how small that can be written."""

import collections
import io
import math
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_multiception as km

tf_keras = pytest.importorskip("tf_keras")
from keras_multiception.compression import (  # noqa: E402
    convert_to_litert,
    prune_model,
    quantize_model,
    size_report,
    sparsity_report,
    to_tf_keras,
)


@pytest.fixture(scope="module")
def model():
    x = inputs = keras.Input((8, 8, 3))
    x = km.conv_bn(x, 8, conv="standard", name="stem")
    x = layers.ReLU()(km.conv_bn(x, 8, conv="multiception", kernel_sizes=(3, 5), name="middle"))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="last")(x))
    kernel = np.array(model.get_layer("last").get_weights()[0])
    kernel[:4] = 0
    kernel[4:] = np.arange(1, 5)[:, None]
    model.get_layer("last").kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def legacy(model):
    return to_tf_keras(model)


def test_kinds_are_counted(model):
    report = sparsity_report(model)
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


def test_both_keras_and_wrappers_count_alike(model, legacy):
    report = sparsity_report(model)
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


def entropy_bytes(symbols, size):
    """Return the bytes of an array at its entropy with its table: written anew."""
    counts = collections.Counter(symbols)
    total = sum(counts.values())
    bits = sum(n * math.log2(total / n) for n in counts.values())
    return min(size * total, math.ceil(bits / 8 - 1e-6) + len(counts) * (size + 4))


def test_size_of_weights(model):
    report = size_report(model)
    weights = model.get_weights()
    assert report["raw"] == report["weights"] == 4 * model.count_params()
    assert report["entropy"] == sum(entropy_bytes(w.ravel().tolist(), 4) for w in weights)
    halves = keras.Sequential([keras.Input((64,)), layers.Dense(64, use_bias=False)])
    halves.layers[0].set_weights([np.arange(4096).reshape(64, 64) % 2])
    report = size_report(halves)
    assert report["entropy"] == 4096 / 8 + 2 * 8  # a bit each, and a table of two floats
    assert report["deflated"] < report["entropy"]  # it sees the pattern


@pytest.mark.parametrize(("quantization", "width"), [("none", 4), ("float16", 2), ("int8", 1)])
def test_files(legacy, quantization, width, tmp_path):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    content = convert_to_litert(legacy, quantization, images if quantization == "int8" else None)
    report, expected = sparsity_report(content), sparsity_report(legacy)
    for kind in expected:
        assert report[kind]["parameters"] == expected[kind]["parameters"], kind
    assert report["dense"]["nonzero"] == 40
    sizes = size_report(content)
    assert sizes["raw"] == len(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("model.tflite", content)
    assert abs(len(archive.getvalue()) - sizes["deflated"]) < 200  # the zip's own records
    parameters = expected["total"]["parameters"]
    assert width * parameters <= sizes["weights"] < width * parameters + 1000
    assert sizes["entropy"] < sizes["raw"]
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    assert (size_report(path), sparsity_report(str(path))) == (sizes, report)


def test_bad_arguments():
    inputs = tf_keras.Input((4,))
    aware = quantize_model(tf_keras.Model(inputs, tf_keras.layers.Dense(2)(inputs)))
    unbuilt = [library.Sequential([library.layers.Dense(2)]) for library in (keras, tf_keras)]
    for function in (sparsity_report, size_report):
        for model in (b"PK", 3, *unbuilt, aware):
            with pytest.raises(ValueError, match=r"`model` must .*Received: "):
                function(model)
