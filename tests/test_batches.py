import itertools

import numpy as np
import pytest

import keras_multiception as km
from training import data
from training.data import batches, batches_tensorflow
from training.data.batches import Augmentation, draw, order

SPEC = km.preprocessing.DATASETS["digits"]
AUGMENTATIONS = [
    Augmentation(),
    Augmentation(pad_and_crop=2),
    Augmentation(pad_and_crop=4, flip=True),
    Augmentation(flip=True, mixup=0.2),
    Augmentation(pad_and_crop=1, cutmix=1.0),
    Augmentation(pad_and_crop=4, flip=True, mixup=0.2, cutmix=1.0),
]


def numbered_images(count, classes=None):
    """Return images with labels that tell which they are, or their class."""
    images = np.random.default_rng(0).integers(1, 256, (count, 8, 6, 3), "uint8")
    return images, np.arange(count) % (classes or count)


def expected_crops(images, offsets, flips, pad):
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows, columns = np.arange(images.shape[1]), np.arange(images.shape[2])
    result = np.empty_like(images)
    for i, ((top, left), flip) in enumerate(zip(offsets, flips, strict=True)):
        kept = columns[::-1] if flip else columns
        result[i] = padded[i][np.ix_(top + rows, left + kept)]
    return result


def batches_of(images, labels, **changes):
    arguments = {"dataset": "digits", "batch_size": 8, "epochs": 2, "seed": 3, **changes}
    return list(data.training_batches(images, labels, **arguments).as_numpy_iterator())


@pytest.mark.parametrize("module", [batches, batches_tensorflow])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_whole_pipeline_equals_numpy(augmentation, module):
    images, labels = numbered_images(20, classes=10)
    arguments = {"spec": SPEC, "batch_size": 8, "epochs": range(1, 3), "seed": 3}
    made = list(module.training_batches(images, labels, augmentation=augmentation, **arguments))
    assert len(made) == 4
    for (epoch, step), (pixels, targets) in zip(np.ndindex(2, 2), made, strict=True):
        rows = order(3, epoch + 1, 20)[step * 8 : (step + 1) * 8]
        draws = draw(3, epoch + 1, step, (8, 8, 6), augmentation)
        cut = expected_crops(images[rows], draws.offsets, draws.flips, augmentation.pad_and_crop)
        x, y = (cut / 255 - SPEC.mean) / SPEC.std, np.eye(10)[labels[rows]]
        w = draws.mixup_weights[:, None]
        x = w[..., None, None] * x + (1 - w[..., None, None]) * x[draws.partners]
        y = w * y + (1 - w) * y[draws.partners]
        w = draws.cutmix_weights[:, None]
        x = np.where(draws.cutmix_masks, x[draws.partners], x)
        y = w * y + (1 - w) * y[draws.partners]
        pixels, targets = np.array(pixels), np.array(targets)
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, x, rtol=1e-5, atol=1e-5)
        if augmentation.mixup or augmentation.cutmix:
            assert targets.dtype == np.float32
            np.testing.assert_allclose(targets, y, atol=1e-6)
        else:
            np.testing.assert_array_equal(targets, labels[rows])


@pytest.mark.parametrize("augmentation", [AUGMENTATIONS[0], AUGMENTATIONS[-1]])
def test_resumed_batches_equal_unbroken_ones(augmentation):
    images, labels = numbered_images(20, classes=10)
    arguments = {"epochs": 3, **vars(augmentation)}
    unbroken = batches_of(images, labels, **arguments)
    resumed = batches_of(images, labels, first_epoch=1, **arguments)
    assert len(unbroken) == 6
    for one, other in zip(resumed, unbroken[2:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_an_epoch_sees_each_image_once_and_drops_others_each_time():
    images, labels = numbered_images(100)
    seen = [rows for _, rows in batches_of(images, labels, batch_size=32, epochs=3)]
    epochs = np.reshape(seen, (3, 96))
    assert all(len(set(epoch)) == 96 for epoch in epochs.tolist())
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) == 3


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"`batch_size` must be at most.*10.*batch_size=11"):
        batches_of(*numbered_images(10), batch_size=11)


@pytest.mark.parametrize("module", [batches, batches_tensorflow])
def test_evaluation_keeps_order_and_remainder(module):
    images, labels = numbered_images(20)
    pixels, rows = zip(*module.evaluation_batches(images, labels, SPEC, 8), strict=True)
    assert [len(batch) for batch in rows] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(rows), labels)
    expected = km.preprocessing.preprocess_input(images, "digits")
    np.testing.assert_allclose(np.concatenate(pixels), expected, rtol=1e-6, atol=1e-6)


class TestDraws:
    def test_crops_and_flips_cover_their_range(self):
        draws = draw(0, 0, 0, (4000, 8, 8), Augmentation(pad_and_crop=4, flip=True))
        counts = np.bincount(draws.offsets.ravel(), minlength=9)
        assert len(counts) == 9
        np.testing.assert_allclose(counts / counts.sum(), 1 / 9, atol=0.02)
        assert np.mean(draws.flips) == pytest.approx(0.5, abs=0.03)
        assert abs(np.corrcoef(draws.offsets.T)[0, 1]) < 0.05

    def test_are_a_function_of_seed_epoch_and_step(self):
        keys = list(itertools.product((0, 1, 2**32 - 1), (0, 1), (0, 1)))
        assert len({tuple(order(seed, epoch, 32)) for seed, epoch, _ in keys}) == 6
        drawn = {key: draw(*key, (16, 4, 4), AUGMENTATIONS[-1]) for key in keys}
        assert len({draws.offsets.tobytes() for draws in drawn.values()}) == len(keys)
        again = draw(0, np.int64(1), np.int64(0), (16, 4, 4), AUGMENTATIONS[-1])
        for one, other in zip(vars(drawn[0, 1, 0]).values(), vars(again).values(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_mixup_weights_follow_the_beta_distribution(self):
        draws = draw(0, 0, 0, (20_000, 1, 1), Augmentation(mixup=0.2))
        assert draws.mixup_weights.mean() == pytest.approx(0.5, abs=0.01)
        assert draws.mixup_weights.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)
        assert sorted(draws.partners) == list(range(20_000))

    def test_cutmix_keeps_what_its_weights_say(self):
        draws = draw(0, 0, 0, (4000, 32, 24), Augmentation(cutmix=1.0))
        kept = 1 - draws.cutmix_masks.mean((1, 2, 3))
        np.testing.assert_allclose(draws.cutmix_weights, kept, rtol=1e-5)
        assert kept.mean() == pytest.approx(0.5, abs=0.03)
        covered = draws.cutmix_masks[..., 0].mean(0)
        np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.05)

    def test_a_coin_decides_between_mixup_and_cutmix(self):
        both = [draw(0, 0, step, (8, 8, 8), Augmentation(mixup=1, cutmix=1)) for step in range(200)]
        mixed = [bool((draws.mixup_weights < 1).any()) for draws in both]
        cut = [bool((draws.cutmix_weights < 1).any()) for draws in both]
        assert [not m for m in mixed] == cut
        assert np.mean(mixed) == pytest.approx(0.5, abs=0.15)
