import itertools
import resource

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_multiception as km
from training import batches, data

FACTS = km.preprocessing.DATASETS["digits"]


def numbered_images(count):
    """Return images whose first pixel and label tell which they are."""
    images = np.random.default_rng(0).integers(1, 256, (count, 32, 32, 3), "uint8")
    return images, np.arange(count)


def numpy_crop_and_flip(images, offsets, flips, pad):
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    _, height, width, _ = images.shape
    result = np.empty_like(images)
    for i, ((top, left), flip) in enumerate(zip(offsets, flips, strict=True)):
        crop = padded[i, top : top + height, left : left + width]
        result[i] = crop[:, ::-1] if flip else crop
    return result


def batches_of(images, labels, **changes):
    arguments = {"dataset": "digits", "batch_size": 8, "epochs": 2, "seed": 3, **changes}
    return list(data.training_batches(images, labels, **arguments).as_numpy_iterator())


def assert_same_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


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
        np.testing.assert_allclose(pixels.mean((0, 1, 2)), FACTS.mean, atol=5e-4)
        np.testing.assert_allclose(pixels.std((0, 1, 2)), FACTS.std, atol=5e-4)

    def test_slices_follow_tfds(self):
        images, labels = data.load("digits", "train")
        for split, rows in {
            "train[:10%]": slice(144),
            "train[100:110]": slice(100, 110),
            "train[-5:]": slice(-5, None),
        }.items():
            part = data.load("digits", split)
            np.testing.assert_array_equal(part[0], images[rows])
            np.testing.assert_array_equal(part[1], labels[rows])
        assert len(data.load("digits", "train[:7]+test[:3]")[0]) == 10

    @pytest.mark.parametrize("split", ["validation", "train[", "", "train[:a]"])
    def test_unknown_split(self, split):
        with pytest.raises(
            ValueError, match=r"`split` must be one of train, test.*Received: split="
        ):
            data.load("digits", split)

    def test_empty_split(self):
        with pytest.raises(ValueError, match="`split` must not be empty"):
            data.load("digits", "train[:0]")


class TestTensorFlowDatasets:
    def test_prepared_directory(self, shared_tfds):
        images, labels = data.load("cifar10", "test[:1%]", shared_tfds)
        assert images.shape == (100, 32, 32, 3)
        assert images.dtype == np.uint8
        assert labels.shape == (100,)
        with pytest.raises(ValueError, match="`split` must be one of train, test"):
            data.load("cifar10", "validation", shared_tfds)

    def test_neither_prepared_nor_downloadable(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise requests.ConnectionError("no network")

        monkeypatch.setattr(requests, "head", refuse)
        with pytest.raises(ValueError, match=r"run `tfds build cifar10 --data_dir DIR`.*Received"):
            data.load("cifar10", "train", tmp_path / "nothing")

    def test_downloads_what_is_not_prepared(self, tmp_path, monkeypatch):
        pytest.importorskip("importlib_resources")  # which TFDS 4.9.10 needs to prepare anything

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tf.int64}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i, image in enumerate(numbered_images(10)[0]):
                    yield i, {"image": image, "label": i}

        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Tiny(data_dir=data_dir))
        for _ in ("download", "prepared"):
            images, labels = data.load("cifar10", "train", tmp_path)
            np.testing.assert_array_equal(images, numbered_images(10)[0][labels])

    def test_unknown_data_set(self):
        with pytest.raises(ValueError, match=r"`dataset` must be one of cifar10, .*folder"):
            data.load("cifar11", "train")


class TestAugmentation:
    @settings(max_examples=30, deadline=None)
    @given(
        shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
        pad=st.integers(0, 4),
        seed=st.integers(0, 99),
    )
    def test_equals_numpy(self, shape, pad, seed):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, shape, "uint8")
        offsets = rng.integers(0, 2 * pad + 1, (shape[0], 2), "int32")
        flips = rng.random(shape[0]) < 0.5
        expected = numpy_crop_and_flip(images, offsets, flips, pad)
        np.testing.assert_array_equal(batches.crop_and_flip(images, offsets, flips, pad), expected)

    def test_choices_cover_their_range(self):
        offsets, flips = batches.random_choices(0, 0, 0, 4000, pad_and_crop=4, flip=True)
        counts = np.bincount(offsets.numpy().ravel(), minlength=9)
        assert len(counts) == 9
        np.testing.assert_allclose(counts / counts.sum(), 1 / 9, atol=0.02)
        assert np.mean(flips) == pytest.approx(0.5, abs=0.03)
        assert abs(np.corrcoef(offsets.numpy().T)[0, 1]) < 0.05

    def test_choices_are_a_function_of_seed_epoch_and_step(self):
        drawn = {
            key: batches.random_choices(*key, 16, 4, True)[0].numpy().tobytes()
            for key in itertools.product((0, 1, 2**32 - 1), (0, 1), (0, 1))
        }
        assert len(set(drawn.values())) == len(drawn)
        again = batches.random_choices(
            0, tf.constant(1, tf.int64), tf.constant(0, tf.int64), 16, 4, 1
        )
        assert again[0].numpy().tobytes() == drawn[0, 1, 0]


class TestTrainingBatches:
    def test_whole_pipeline_equals_numpy(self):
        images, labels = numbered_images(20)
        made = batches_of(images, labels, pad_and_crop=4, flip=True)
        assert len(made) == 4
        for (epoch, step), (pixels, rows) in zip(np.ndindex(2, 2), made, strict=True):
            offsets, flips = batches.random_choices(3, epoch, step, 8, 4, True)
            cut = numpy_crop_and_flip(images[rows], offsets.numpy(), flips.numpy(), 4)
            expected = (cut / 255 - FACTS.mean) / FACTS.std
            assert pixels.dtype == np.float32
            np.testing.assert_allclose(pixels, expected, rtol=1e-5, atol=1e-5)

    def test_resumed_batches_equal_unbroken_ones(self):
        images, labels = numbered_images(20)
        arguments = {"epochs": 4, "pad_and_crop": 2, "flip": True}
        unbroken = batches_of(images, labels, **arguments)
        assert_same_batches(batches_of(images, labels, **arguments), unbroken)
        for first in range(1, 4):
            resumed = batches_of(images, labels, first_epoch=first, **arguments)
            assert_same_batches(resumed, unbroken[first * 2 :])

    def test_an_epoch_sees_each_image_once_and_drops_others_each_time(self):
        images, labels = numbered_images(100)
        seen = [rows for _, rows in batches_of(images, labels, batch_size=32, epochs=3)]
        epochs = np.reshape(seen, (3, 96))
        assert all(len(set(epoch)) == 96 for epoch in epochs.tolist())
        assert len({frozenset(epoch) for epoch in epochs.tolist()}) == 3

    def test_seeds_and_epochs_have_their_own_order(self):
        images, labels = numbered_images(32)
        orders = [
            tuple(rows)
            for seed in (0, 1)
            for _, rows in batches_of(images, labels, batch_size=32, epochs=3, seed=seed)
        ]
        assert len(set(orders)) == 6

    def test_without_augmentation_images_stay_as_they_are(self):
        images, labels = numbered_images(16)
        for pixels, rows in batches_of(images, labels):
            expected = km.preprocessing.preprocess_input(images[rows], "digits")
            np.testing.assert_allclose(pixels, expected, rtol=1e-6)

    def test_batch_larger_than_the_data(self):
        with pytest.raises(ValueError, match=r"`batch_size` must be at most.*10.*batch_size=11"):
            batches_of(*numbered_images(10), batch_size=11)

    @pytest.mark.slow
    def test_memory_stays_flat(self):
        images, labels = data.load("digits", "train")
        batches = data.training_batches(
            images, labels, dataset="digits", batch_size=32, epochs=400, pad_and_crop=4, flip=True
        )
        iterator = iter(batches)
        peaks = []
        for _ in range(4):
            for _ in itertools.islice(iterator, 2500):
                pass
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert peaks[-1] - peaks[0] < 20_000  # kilobytes, over 7,500 steps and 170 epochs


def test_evaluation_keeps_order_and_remainder():
    images, labels = numbered_images(20)
    batches = data.evaluation_batches(images, labels, dataset="digits", batch_size=8)
    pixels, rows = zip(*batches.as_numpy_iterator(), strict=True)
    assert [len(batch) for batch in rows] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(rows), labels)
    expected = km.preprocessing.preprocess_input(images, "digits")
    np.testing.assert_allclose(np.concatenate(pixels), expected, rtol=1e-6)


def test_statistics_of_digits_are_those_of_its_training_split():
    images, _ = data.load("digits", "train")
    facts = km.preprocessing.get_dataset("digits")
    assert (images / 255).mean() == pytest.approx(facts.mean[0], abs=1e-4)
    assert (images / 255).std() == pytest.approx(facts.std[0], abs=1e-4)
