"""What each data set means: pixel statistics and class names, and the functions that use them.

Example:
    >>> spec = km.preprocessing.get_dataset("cifar10")
    >>> x = km.preprocessing.preprocess_input(np.zeros((1, *spec.image_shape)), spec)
    >>> x[0, 0, 0].round(2)
    array([-1.99, -1.98, -1.71], dtype=float32)
    >>> probabilities = np.eye(10)[[3]]
    >>> km.preprocessing.decode_predictions(probabilities, top=1, dataset=spec)
    [[(3, 'cat', 1.0)]]
    >>> km.preprocessing.Dataset((0.5,), (0.2,), (28, 28, 1), ("no", "yes")).class_names
    ('no', 'yes')
"""

import collections.abc
import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np

from keras_multiception.layers.arguments import is_positive_integer, standardize_integer


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a network has to know of its image classification data set.

    Attributes:
        mean: Mean of each channel, for pixels scaled to 0..1.
        std: Standard deviation of each channel, above 0, for pixels scaled to 0..1.
        image_shape: (height, width, channels) of its images.
        class_names: Name of each class, in the order of the labels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.image_shape
        is_shape = np.shape(shape) == (3,) and all(map(is_positive_integer, shape))
        self._require("image_shape", is_shape, "three positive integers, the last the channels")
        for name in ("mean", "std"):
            # training normalizes whole rows of pixels, with the channels' values many times over
            fits = _are_numbers(getattr(self, name)) and len(getattr(self, name)) % shape[-1] == 0
            self._require(name, fits, f"{shape[-1]} finite numbers, one for each channel")
        fits = len(self.std) == len(self.mean) and min(self.std) > 0
        self._require("std", fits, "above 0 in each channel, as many as `mean` has")
        are_names = isinstance(self.class_names, list | tuple | np.ndarray)
        self._require("class_names", are_names, "a sequence of names")

    def _require(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            value = getattr(self, name)
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")

    def to_dict(self) -> dict[str, list]:
        """Return the attributes as lists, ready for JSON; `from_dict` reads them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: np.asarray(value).tolist() for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: collections.abc.Mapping[str, Any]) -> "Dataset":
        """Build a `Dataset` from what `to_dict` returned; other entries are ignored."""
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(
                f"`values` must have the entries {', '.join(names)}. "
                f"Received: values without {', '.join(missing)}"
            )
        entries = {name: values[name] for name in names}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()})


def _are_numbers(values: Any) -> bool:
    try:
        array = np.asarray(values)
    except ValueError:  # sequences of several lengths
        return False
    is_vector = array.ndim == 1 and array.size and array.dtype.kind in "iuf"
    return bool(is_vector and np.isfinite(array).all())


_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)


def _read_names(file_name: str) -> tuple[str, ...]:
    path = pathlib.Path(__file__).with_name("class_names") / file_name
    return tuple(path.read_text(encoding="utf-8").split())


# The names are those of TensorFlow Datasets; the statistics those of the paper's experiments.
DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        mean=_CIFAR10_MEAN,
        std=_CIFAR10_STD,
        image_shape=(32, 32, 3),
        class_names=_read_names("cifar10.txt"),
    ),
    "cifar100": Dataset(
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        image_shape=(32, 32, 3),
        class_names=_read_names("cifar100.txt"),
    ),
    "stl10": Dataset(
        mean=_CIFAR10_MEAN,
        std=_CIFAR10_STD,
        image_shape=(96, 96, 3),
        class_names=_read_names("stl10.txt"),
    ),
    # WordNet's identifiers, not in their order.
    "imagenet_resized/32x32": Dataset(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        image_shape=(32, 32, 3),
        class_names=_read_names("imagenet.txt"),
    ),
    # scikit-learn's handwritten digits, measured on the training split of `training.data`.
    "digits": Dataset(
        mean=(0.3054, 0.3054, 0.3054),
        std=(0.3760, 0.3760, 0.3760),
        image_shape=(32, 32, 3),
        class_names=tuple("0123456789"),
    ),
}


def get_dataset(dataset: str | Dataset) -> Dataset:
    """Return the `Dataset` of a name, a key of `DATASETS`; a `Dataset` is returned as it is."""
    if isinstance(dataset, Dataset):
        return dataset
    if not isinstance(dataset, str) or dataset not in DATASETS:
        raise ValueError(
            f"`dataset` must be one of {', '.join(DATASETS)}. Received: dataset={dataset!r}"
        )
    return DATASETS[dataset]


def preprocess_input(x: Any, dataset: str | Dataset = "cifar10") -> Any:
    """Normalize images the way the networks were trained: `(x / 255 - mean) / std`.

    Args:
        x: Images with pixel values 0 to 255, of shape (..., channels): a NumPy array or what makes
            one, a tensor of the Keras backend, or a float32 tensor of a `tf.data` pipeline.
        dataset: String, a key of `DATASETS`, or a `Dataset`, whose statistics to use.

    Returns:
        The normalized images, float32, same shape and kind as `x`.

    Raises:
        ValueError: If `x` is no array of numbers or has another number of channels.
    """
    spec = get_dataset(dataset)
    offset = np.multiply(spec.mean, 255).astype("float32")
    scale = np.multiply(spec.std, 255).astype("float32")
    if isinstance(x, np.ndarray) or not hasattr(x, "dtype"):
        try:
            x = np.asarray(x, "float32")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`x` must be images, numbers in an array. Received: a {type(x).__name__}"
            ) from error
    elif keras.backend.standardize_dtype(x.dtype) != "float32":
        x = keras.ops.cast(x, "float32")
    if len(x.shape) == 0 or x.shape[-1] not in (len(offset), None):
        raise ValueError(
            f"`x` must have {len(offset)} channels on its last axis. Received: shape={x.shape}"
        )
    return (x - offset) / scale


def decode_predictions(
    preds: Any, top: int = 5, dataset: str | Dataset = "cifar10"
) -> list[list[tuple[int, str, float]]]:
    """Name the most probable classes of each prediction.

    Args:
        preds: Array of shape `(batch, classes)`: class probabilities.
        top: Integer, how many classes to return for each image, at most all of them.
        dataset: String, a key of `DATASETS`, or a `Dataset`, whose class names to use.

    Returns:
        A list with, for each image, a list of `(class_id, class_name, score)`, best first.

    Raises:
        ValueError: If `preds` does not fit the number of classes or is NaN somewhere.
    """
    spec = get_dataset(dataset)
    preds = np.asarray(keras.ops.convert_to_numpy(preds))
    if preds.ndim != 2 or preds.shape[1] != len(spec.class_names):
        raise ValueError(
            f"`preds` must have shape (batch, {len(spec.class_names)}), one column for each "
            f"class. Received: shape={preds.shape}"
        )
    preds = preds.astype("float64")  # integers and booleans have no order-reversing negative
    if np.isnan(preds).any():
        index = int(np.isnan(preds).any(axis=1).argmax())
        raise ValueError(f"`preds` must be numbers. Received: NaN in that of index {index}")
    top = standardize_integer(top, "top")
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(int(i), spec.class_names[i], float(row[i])) for i in best]
        for row, best in zip(preds, order, strict=True)
    ]
