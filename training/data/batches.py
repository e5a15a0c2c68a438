"""What is random about the batches, and the batches by NumPy, for where TensorFlow is missing.

It is drawn from (seed, epoch, step) and from nothing else: every backend gets the same draws, and
a resumed run those of an unbroken one.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_multiception.preprocessing import Dataset, preprocess_input

_PREFETCH = 4


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
    """Draw the random choices of a batch of a shape; what is not augmented changes nothing."""
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
    """Draw a box in each image; return where they are, and the share of each image outside."""
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
        self._layers: dict[str, Any] = {}  # by the name of their weights
        if augmentation.mixup:
            self._layers["mixup_weights"] = keras.layers.MixUp(dtype="float32")
        if augmentation.cutmix:
            self._layers["cutmix_weights"] = keras.layers.CutMix(dtype="float32")
        for layer in self._layers.values():
            layer.backend.set_backend(backend)

    def __bool__(self) -> bool:
        return bool(self._layers)

    def __call__(self, images: Any, labels: Any, draws: Draws) -> tuple[Any, Any]:
        """Mix float32 images and one-hot labels, tensors of the backend."""
        for name, layer in self._layers.items():
            transformation = {
                "permutation_order": draws.partners,
                "mix_weight": getattr(draws, name),
                "batch_masks": draws.cutmix_masks,
            }
            images = layer.transform_images(images, transformation)
            labels = layer.transform_labels(labels, transformation)
        return images, labels


class NumpyBatches(keras.utils.PyDataset):
    """Batches by their number, each made by a function of it, some of them ahead of time."""

    def __init__(self, make: Callable[[int], tuple[np.ndarray, ...]], length: int) -> None:
        super().__init__()
        self._make, self._length = make, length
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead: dict[int, concurrent.futures.Future] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        wanted = range(index, min(index + 1 + _PREFETCH, self._length))
        self._ahead = {i: self._ahead.get(i) or self._pool.submit(self._make, i) for i in wanted}
        return self._ahead.pop(index).result()

    def rebatch(self, batch_size: int, drop_remainder: bool) -> "NumpyBatches":
        """Divide each batch, as `tf.data.Dataset.rebatch` does where nothing remains."""
        whole = functools.lru_cache(maxsize=2)(self._make)
        parts = len(self._make(0)[1]) // batch_size

        def make(index: int) -> tuple[np.ndarray, ...]:
            rows = slice(index % parts * batch_size, (index % parts + 1) * batch_size)
            return tuple(array[rows] for array in whole(index // parts))

        return NumpyBatches(make, self._length * parts)


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    spec: Dataset,
    batch_size: int,
    epochs: range,
    seed: int,
    augmentation: Augmentation,
) -> NumpyBatches:
    """Make augmented batches of all epochs, as `training.data.training_batches` does."""
    steps = len(images) // batch_size
    shape = (batch_size, *images.shape[1:3])
    mixing = Mixing(augmentation, keras.backend.backend())
    one_hot = np.eye(len(spec.class_names), dtype="float32")
    order_of = functools.lru_cache(maxsize=2)(lambda epoch: order(seed, epoch, len(images)))

    def make(index: int) -> tuple[np.ndarray, ...]:
        epoch, step = epochs[index // steps], index % steps
        rows = order_of(epoch)[step * batch_size : (step + 1) * batch_size]
        pixels, targets = images[rows], labels[rows]
        if augmentation == Augmentation():
            return normalize(pixels, spec), targets
        draws = draw(seed, epoch, step, shape, augmentation)
        pixels = crop_and_flip(pixels, draws.offsets, draws.flips, augmentation.pad_and_crop)
        pixels = normalize(pixels, spec)
        if not mixing:
            return pixels, targets
        with keras.device("cpu:0"):
            mixed = mixing(pixels, one_hot[targets], draws)
            return tuple(keras.ops.convert_to_numpy(tensor) for tensor in mixed)

    return NumpyBatches(make, len(epochs) * steps)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, spec: Dataset, batch_size: int
) -> NumpyBatches:
    """Make batches of all images in their order, as `training.data.evaluation_batches` does."""

    def make(index: int) -> tuple[np.ndarray, ...]:
        rows = slice(index * batch_size, (index + 1) * batch_size)
        return normalize(images[rows], spec), labels[rows]

    return NumpyBatches(make, -(-len(images) // batch_size))


def crop_and_flip(
    images: np.ndarray, offsets: np.ndarray, flips: np.ndarray, pad: int
) -> np.ndarray:
    """Pad images with zeros, cut their own size out of them and mirror some of the cuts."""
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    result = np.empty_like(images)
    # views of each image are copied faster than all are gathered by index
    for i, ((top, left), flip) in enumerate(zip(offsets, flips, strict=True)):
        crop = padded[i, top : top + height, left : left + width]
        result[i] = crop[:, ::-1] if flip else crop
    return result


def normalize(pixels: Any, spec: Dataset, reshape: Callable = np.reshape) -> Any:
    """Normalize whole rows of pixels at once, which is four times as fast as pixel by pixel."""
    height, width, channels = pixels.shape[1:]
    rows = reshape(pixels, (-1, height, width * channels))
    row_spec = dataclasses.replace(spec, mean=spec.mean * width, std=spec.std * width)
    return reshape(preprocess_input(rows, row_spec), (-1, height, width, channels))
