import shutil
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

import keras_multiception as km
from training import data

SPEC = km.preprocessing.DATASETS["digits"]


class TestDigits:
    def test_splits_are_fixed_and_stratified(self):
        (train, train_labels), (test, test_labels) = (
            data.load("digits", split) for split in ("train", "test")
        )
        assert train.shape == (1437, 32, 32, 3)
        assert test.shape == (360, 32, 32, 3)
        assert train.dtype == test.dtype == np.uint8
        share = np.bincount(test_labels) / (np.bincount(test_labels) + np.bincount(train_labels))
        np.testing.assert_allclose(share, 0.2, atol=0.005)
        assert test_labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]

    def test_pixels_are_blocks_of_the_original(self):
        images, _ = data.load("digits", "train+test")
        small = images[:, ::4, ::4]
        np.testing.assert_array_equal(images, small.repeat(4, axis=1).repeat(4, axis=2))
        assert {*np.unique(small)} == {round(value * 255 / 16) for value in range(17)}

    def test_statistics_are_those_of_the_training_split(self):
        pixels = data.load("digits", "train")[0] / 255
        np.testing.assert_allclose(pixels.mean((0, 1, 2)), SPEC.mean, atol=5e-4)
        np.testing.assert_allclose(pixels.std((0, 1, 2)), SPEC.std, atol=5e-4)

    def test_slices(self):
        images, labels = data.load("digits", "train")
        part = data.load("digits", "train[-5:]")
        np.testing.assert_array_equal(part[0], images[-5:])
        np.testing.assert_array_equal(part[1], labels[-5:])
        assert len(data.load("digits", "train[:7]+test[:3]")[0]) == 10
        with pytest.raises(ValueError, match="`split` must not be empty"):
            data.load("digits", "train[:0]")


class TestTensorFlowDatasets:
    def test_prepared_directory(self, shared_tfds):
        images, labels = data.load("cifar10", "test[:1%]", shared_tfds)
        assert images.shape == (100, 32, 32, 3)
        assert images.dtype == np.uint8
        assert labels.shape == (100,)

    @pytest.mark.parametrize("split", ["validation", "train[:0%]", "test[3:3] + train[50%:10%]"])
    def test_no_split(self, shared_tfds, split):
        with pytest.raises(ValueError, match=r"`split` of `dataset` cifar10 cannot be read"):
            data.load("cifar10", split, shared_tfds)

    def test_neither_prepared_nor_downloadable(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise requests.ConnectionError("no network")

        monkeypatch.setattr(requests, "head", refuse)
        with pytest.raises(ValueError, match=r"run `tfds build cifar10 --data_dir DIR`.*Received"):
            data.load("cifar10", "train", tmp_path / "nothing")

    def test_downloads_what_is_not_prepared(self, tmp_path, monkeypatch):
        pytest.importorskip("importlib_resources")  # which TFDS 4.9.10 needs to prepare anything

        class Tiny(tfds.testing.DummyMnist):
            def _info(self):
                features, keys = super()._info().features, ("image", "label")
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Tiny(data_dir=data_dir))
        for _ in ("download", "prepared"):
            images, labels = data.load("cifar10", "train", tmp_path)
            assert images.shape == (len(labels), 28, 28, 1)


class TestMockedTensorFlowDatasets:
    """The sets that cannot be had here, with the features and splits that they really have."""

    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch):
        monkeypatch.setattr(requests, "head", lambda *args, **kwargs: None)

    def test_other_size(self, tmp_path):
        with tfds.testing.mock_data(num_examples=3):
            images, _ = data.load("stl10", "train", tmp_path, image_size=32)
        assert images.shape == (3, 32, 32, 3)
        assert data.spec("stl10", image_size=32).image_shape == (32, 32, 3)
        assert data.spec("stl10", image_size=32).mean == data.spec("stl10").mean

    def test_class_count_is_that_of_tensorflow_datasets(self):
        for dataset in ("cifar100", "stl10", "imagenet_resized/32x32"):
            label = tfds.builder(dataset).info.features["label"]
            assert label.num_classes == len(data.spec(dataset).class_names)
        names = tuple(label.names)  # only ImageNet's are known before it is prepared
        assert names == data.spec("imagenet_resized/32x32").class_names


def test_corrupt_record(shared_tfds, tmp_path):
    shutil.copytree(shared_tfds, tmp_path / "data")
    (path,) = (tmp_path / "data").rglob("*test.tfrecord*")
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar10 cannot be read: .*corrupt.*data_dir="):
        data.load("cifar10", "test[:1%]", tmp_path / "data")


def test_data_set_that_needs_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"python -m training.write_arrays --dataset cifar10"):
        data.load("cifar10", "train")
