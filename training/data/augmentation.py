"""What is random about the batches, drawn by NumPy from (seed, epoch, step) and from nothing else.

Every backend gets the same draws, and a resumed run those of an unbroken one.
"""

import dataclasses
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images are changed at random; with both mixup and cutmix, a coin decides by batch."""

    pad_and_crop: int = 0  # pixels of zeros around an image before a random crop of its size
    flip: bool = False  # whether to mirror half of the images
    mixup: float = 0.0  # alpha of the Beta distribution of the weights of two images; 0 is none
    cutmix: float = 0.0  # alpha of the Beta distribution of the area that is kept; 0 is none


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random choices of one batch."""

    offsets: np.ndarray  # int32 (batch, 2), row and column of the padded image where a crop begins
    flips: np.ndarray  # bool (batch,), which crops to mirror
    partners: np.ndarray  # int32 (batch,), which image of the batch each one is mixed with
    mixup_weights: np.ndarray  # float32 (batch,), the share that an image keeps in mixup
    cutmix_weights: np.ndarray  # float32 (batch,), the share of pixels that it keeps in cutmix
    cutmix_masks: np.ndarray  # bool (batch, height, width, 1), where the partner's pixels go


def order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order of the images in an epoch, int64 of shape (examples,)."""
    return _generator(seed, epoch, 0).permutation(examples)


def draw(
    seed: int, epoch: int, step: int, shape: tuple[int, int, int], augmentation: Augmentation
) -> Draws:
    """Draw the random choices of a batch; those of what `augmentation` leaves out change nothing.

    The `seed` is from 0 to 2**64 - 1, and `shape` is (batch, height, width).
    """
    rng = _generator(seed, epoch, step + 1)
    size = shape[0]
    offsets = rng.integers(0, 2 * augmentation.pad_and_crop + 1, (size, 2), "int32")
    flips = rng.random(size) < (0.5 if augmentation.flip else 0)
    mixup, cutmix = augmentation.mixup, augmentation.cutmix
    if mixup and cutmix:
        mixup, cutmix = (mixup, 0.0) if rng.random() < 0.5 else (0.0, cutmix)
    partners = rng.permutation(size) if mixup or cutmix else np.arange(size)
    weights = rng.beta(mixup, mixup, size) if mixup else np.ones(size)
    if cutmix:
        masks, kept = _boxes(rng, shape, cutmix)
    else:
        masks, kept = np.zeros(shape, bool), np.ones(size)
    return Draws(
        offsets,
        flips,
        partners.astype("int32"),
        weights.astype("float32"),
        kept.astype("float32"),
        masks[..., None],
    )


def _boxes(
    rng: np.random.Generator, shape: tuple[int, int, int], alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a box in each image; return where they are, and the share of each image outside.

    The area is from the Beta distribution, the place from the uniform one.
    """
    size, height, width = shape
    side = np.sqrt(1 - rng.beta(alpha, alpha, size))
    inside = []
    for length in (height, width):
        lengths = np.rint(side * length)
        starts = np.floor(rng.random(size) * (length - lengths + 1))[:, None]
        positions = np.arange(length)
        inside.append((positions >= starts) & (positions < starts + lengths[:, None]))
    rows, columns = inside
    outside = 1 - rows.mean(1) * columns.mean(1)
    return rows[:, :, None] & columns[:, None, :], outside


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]))


class Mixing:
    """Mixes the images of a batch, and their labels with them, by the mixup and cutmix of Keras.

    Keras' layers draw from a generator of their own state, which parallel calls would race for and
    a resumed run would not find again; here they are handed a transformation from our draws.
    """

    def __init__(self, augmentation: Augmentation, backend: str) -> None:
        self._mixup = self._cutmix = None
        if augmentation.mixup:
            self._mixup = keras.layers.MixUp(dtype="float32")
            self._mixup.backend.set_backend(backend)
        if augmentation.cutmix:
            self._cutmix = keras.layers.CutMix(dtype="float32")
            self._cutmix.backend.set_backend(backend)

    def __bool__(self) -> bool:
        return bool(self._mixup or self._cutmix)

    def __call__(self, images: Any, labels: Any, draws: Draws) -> tuple[Any, Any]:
        """Mix float32 images and one-hot labels, tensors of the backend."""
        for layer, weights in (
            (self._mixup, draws.mixup_weights),
            (self._cutmix, draws.cutmix_weights),
        ):
            if layer:
                transformation = {
                    "permutation_order": draws.partners,
                    "mix_weight": weights,
                    "batch_masks": draws.cutmix_masks,
                }
                images = layer.transform_images(images, transformation)
                labels = layer.transform_labels(labels, transformation)
        return images, labels
