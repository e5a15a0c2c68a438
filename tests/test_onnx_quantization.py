"""ONNX files in 8 bits: small, close to the network, run by both engines, and quiet."""

import importlib.util
import sys

import keras
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception.compression import quantize_onnx
from keras_multiception.inference import load_onnx

onnx = pytest.importorskip("onnx")
if not importlib.util.find_spec("nncf"):  # importing it here would bring telemetry
    pytest.skip("NNCF is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    image = x = keras.Input((8, 8, 3), name="image")
    for filters in (16, 32):
        x = km.layers.MulticeptionConv2D(filters, (3, 5), activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("moving_mean", "moving_variance", "gamma"):
            weight.assign(rng.uniform(0.2, 1, weight.shape))
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 255, (40, 8, 8, 3)).astype("float32")


def test_both_engines_answer_as_the_network_within_8_bits(network, images, tmp_path):
    spec = km.preprocessing.Dataset((0.5,) * 3, (0.2,) * 3, (8, 8, 3), tuple("0123456789"))
    quantized, again = tmp_path / "new" / "int8.onnx", tmp_path / "again.onnx"
    quantize_onnx(network, (images[:20], images[20:]), quantized, dataset=spec)
    normalized = km.preprocessing.preprocess_input(images, spec)
    expected = keras.ops.convert_to_numpy(network(normalized, training=False))
    for engine in ("onnxruntime", "openvino"):
        (answers,) = load_onnx(quantized, engine, 1)([images])
        np.testing.assert_allclose(answers, expected, atol=0.05 * np.ptp(expected))
        assert not np.array_equal(answers, expected)
    content = onnx.load(quantized)
    sizes = {x.name: int(np.prod(x.dims)) for x in content.graph.initializer}
    scales = [
        sizes.get(x.input[1], 0) for x in content.graph.node if x.op_type == "DequantizeLinear"
    ]
    assert max(scales) >= 32  # one for each channel
    assert sys.modules.get("openvino_telemetry") is None

    km.export_onnx(network, tmp_path / "float.onnx", dataset=spec, form="separate")
    quantize_onnx(str(tmp_path / "float.onnx"), images, again)
    (same,) = load_onnx(again, "onnxruntime", 1)([images])
    np.testing.assert_allclose(same, load_onnx(quantized, "onnxruntime", 1)([images])[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"model": "absent.onnx"}, "model"),
        ({"model": keras.Sequential([keras.layers.Dense(1)])}, "model"),
        ({"images": np.zeros((2, 8, 8, 1), "float32")}, "images"),
        ({"images": np.zeros((2, 8, 8, 3), "uint8")}, "images"),
        ({"images": np.full((2, 8, 8, 3), np.nan, "float32")}, "images"),
        ({"images": []}, "images"),
    ],
)
def test_what_cannot_be_quantized_leaves_the_file_as_it_is(
    network, images, tmp_path, changes, name
):
    path = tmp_path / "int8.onnx"
    path.write_text("old")
    with pytest.raises(ValueError, match=f"`{name}`.*Received: "):
        quantize_onnx(**{"model": network, "images": images[:2], "path": path} | changes)
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]
    assert path.read_text() == "old"
