import json

import keras
import numpy as np
import pytest

import keras_multiception as km
from keras_multiception.preprocessing import DATASETS, decode_predictions, preprocess_input

pytestmark = pytest.mark.backend


def test_data_sets():
    counts = {name: len(set(spec.class_names)) for name, spec in DATASETS.items()}
    assert counts == {
        "cifar10": 10,
        "cifar100": 100,
        "stl10": 10,
        "imagenet_resized/32x32": 1000,
        "digits": 10,
    }
    assert DATASETS["cifar100"].class_names[::33] == ("apple", "forest", "raccoon", "worm")
    assert DATASETS["imagenet_resized/32x32"].class_names[0] == "n02119789"
    spec = DATASETS["stl10"]
    assert km.preprocessing.get_dataset("stl10") is km.preprocessing.get_dataset(spec) is spec


def test_preprocess_input_normalizes():
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype="uint8")
    spec = DATASETS["cifar10"]
    expected = (x / 255 - spec.mean) / spec.std
    for images in (x, x.astype("float64"), x.tolist(), keras.ops.convert_to_tensor(x)):
        y = preprocess_input(images)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(keras.ops.convert_to_numpy(y), expected, atol=1e-5)
    assert np.array_equal(x, x.astype("uint8"))


def test_decode_predictions():
    preds = np.array([[0.1] * 8 + [0.0, 0.2], [0.0] * 9 + [1.0]])
    decoded = decode_predictions(preds, top=3)
    assert decoded[0][0] == (9, "truck", pytest.approx(0.2))
    assert [len(best) for best in decoded] == [3, 3]
    assert decode_predictions(preds, dataset="digits")[1][0] == (9, "9", 1.0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int8", -128, 127), ("uint8", 0, 255), ("bool", False, True), ("float16", -np.inf, 0)],
)
def test_decode_predictions_of_any_numbers(dtype, low, high):
    preds = np.full((1, 10), low, dtype)
    preds[0, 3] = high
    assert decode_predictions(preds, top=1) == [[(3, "cat", float(high))]]


def test_errors():
    with pytest.raises(ValueError, match="`dataset` must be one of cifar10, cifar100"):
        preprocess_input(np.zeros((1, 2, 2, 3)), dataset="mnist")
    with pytest.raises(ValueError, match="3 channels"):
        preprocess_input(np.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"`preds` must have shape \(batch, 10\)"):
        km.preprocessing.decode_predictions(np.zeros((2, 5)))
    for top in (0, None, 2.0, True):
        with pytest.raises(ValueError, match="`top` must be a positive integer"):
            km.preprocessing.decode_predictions(np.zeros((2, 10)), top=top)
    with pytest.raises(ValueError, match=r"`preds` must be numbers.*NaN in that of index 1"):
        km.preprocessing.decode_predictions([[0.1] * 10, [0.1] * 9 + [np.nan]])
    with pytest.raises(ValueError, match="`dataset` must be one of"):
        km.preprocessing.decode_predictions(np.zeros((2, 10)), dataset=["cifar10"])


ATTRIBUTES = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
    "image_shape": (4, 4, 3),
    "class_names": ("cat", "dog"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", 0.5),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, None, 0.5)),
        ("std", 0.2),
        ("std", (0, 0, 0)),
        ("std", ("0.2", "0.2", "0.2")),
        ("image_shape", (4, 4)),
        ("image_shape", (4, 4, 0)),
        ("class_names", "cat"),
    ],
)
def test_attributes_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        km.preprocessing.Dataset(**{**ATTRIBUTES, name: value})


def test_attributes_of_several_kinds():
    km.preprocessing.Dataset(**{**ATTRIBUTES, "mean": np.full(3, 0.5), "std": [1, 1, 1]})
    km.preprocessing.Dataset(**{**ATTRIBUTES, "image_shape": [4, np.int64(4), 3]})
    with pytest.raises(ValueError, match="`std` must be"):
        km.preprocessing.Dataset(**{**ATTRIBUTES, "mean": (0.5,) * 6})


def test_preprocess_input_takes_whatever_is_an_array():
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype="uint8")
    expected = preprocess_input(image)
    np.testing.assert_array_equal(preprocess_input(image_module.fromarray(image)), expected)
    with pytest.raises(ValueError, match="`x` must have 3 channels"):
        preprocess_input(None)
    for x in (object(), "image.png", [[0, 0, 0], [0]]):
        with pytest.raises(ValueError, match="`x` must be images, numbers"):
            preprocess_input(x)


def test_dataset_to_and_from_json():
    dataset = km.preprocessing.Dataset(**{**ATTRIBUTES, "mean": np.full(3, 0.5)})
    values = json.loads(json.dumps({"dataset": "cats", **dataset.to_dict()}))
    assert km.preprocessing.Dataset.from_dict(values) == km.preprocessing.Dataset(**ATTRIBUTES)
    with pytest.raises(ValueError, match=r"`values` must have .* Received: values without std"):
        km.preprocessing.Dataset.from_dict({k: v for k, v in ATTRIBUTES.items() if k != "std"})
