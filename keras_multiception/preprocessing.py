"""What each data set means: pixel statistics and class names, and the functions that use them."""

import dataclasses
import pathlib

import keras
import numpy as np

from keras_multiception.layers.arguments import is_positive_integer


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Facts of one image classification data set.

    Attributes:
        mean: Mean of each channel, for pixels scaled to 0..1.
        std: Standard deviation of each channel, above 0, for pixels scaled to 0..1.
        image_shape: (height, width, channels) of its images.
        class_names: Name of each class, in the order of the labels.

    Raises:
        ValueError: If an attribute is anything else.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    def __post_init__(self):
        shape = self.image_shape
        if not _is_sequence(shape) or len(shape) != 3 or not all(map(is_positive_integer, shape)):
            raise _fact_error(self, "image_shape", "three positive integers, the last the channels")
        for name in ("mean", "std"):
            # training normalizes whole rows of pixels, with the channels' values many times over
            if not _are_numbers(getattr(self, name)) or len(getattr(self, name)) % shape[-1]:
                raise _fact_error(self, name, f"{shape[-1]} finite numbers, one for each channel")
        if min(self.std) <= 0:
            raise _fact_error(self, "std", "above 0 in each channel")
        if len(self.mean) != len(self.std):
            raise ValueError(
                "`mean` and `std` must be of one length. "
                f"Received: mean={self.mean!r}, std={self.std!r}"
            )
        if not _is_sequence(self.class_names):
            raise _fact_error(self, "class_names", "a sequence of names")


def _is_sequence(value):
    return isinstance(value, list | tuple | np.ndarray)


def _are_numbers(values):
    try:
        array = np.asarray(values)
    except ValueError:  # sequences of several lengths
        return False
    is_vector = array.ndim == 1 and array.size and array.dtype.kind in "iuf"
    return bool(is_vector and np.isfinite(array).all())


def _fact_error(facts, name, expected):
    return ValueError(f"`{name}` must be {expected}. Received: {name}={getattr(facts, name)!r}")


_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)


def _read_names(file_name):
    path = pathlib.Path(__file__).with_name("class_names") / file_name
    return tuple(path.read_text(encoding="utf-8").split())


# The names are those of TensorFlow Datasets; the statistics those of the paper's experiments.
DATASETS = {
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


def get_dataset(dataset):
    """Return the `Dataset` of a name.

    Args:
        dataset: String, a key of `DATASETS`, or a `Dataset`, which is returned as it is.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if not isinstance(dataset, str) or dataset not in DATASETS:
        raise ValueError(f"`dataset` must be one of {', '.join(DATASETS)}. Received: {dataset!r}")
    return DATASETS[dataset]


def preprocess_input(x, dataset="cifar10"):
    """Normalize images the way the networks were trained: `(x / 255 - mean) / std`.

    Args:
        x: Images with pixel values 0 to 255, uint8 or float: a NumPy array or what makes one, a
            tensor of the Keras backend, or a float32 tensor of TensorFlow inside a `tf.data`
            pipeline.
        dataset: String, a key of `DATASETS`, or a `Dataset`, whose statistics to use.

    Input shape:
        `(..., channels)`, channels last.

    Returns:
        The normalized images, float32, same shape and kind as `x`.

    Raises:
        ValueError: If the data set is unknown, or `x` is no array of numbers or has another
            number of channels.
    """
    facts = get_dataset(dataset)
    offset = np.multiply(facts.mean, 255).astype("float32")
    scale = np.multiply(facts.std, 255).astype("float32")
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


def decode_predictions(preds, top=5, dataset="cifar10"):
    """Name the most probable classes of each prediction.

    Args:
        preds: Array of shape `(batch, classes)`: class probabilities.
        top: Integer, how many classes to return for each image, at most all of them.
        dataset: String, a key of `DATASETS`, or a `Dataset`, whose class names to use.

    Returns:
        A list with, for each image, a list of `(class_id, class_name, score)`, best first.

    Raises:
        ValueError: If `preds` does not fit the data set's number of classes or is NaN somewhere,
            or `top` is no integer of at least 1.
    """
    facts = get_dataset(dataset)
    preds = np.asarray(keras.ops.convert_to_numpy(preds))
    if preds.ndim != 2 or preds.shape[1] != len(facts.class_names):
        raise ValueError(
            f"`preds` must have shape (batch, {len(facts.class_names)}), one column for each "
            f"class. Received: shape={preds.shape}"
        )
    preds = preds.astype("float64")  # the negatives of integers and booleans are not theirs
    if np.isnan(preds).any():
        index = int(np.isnan(preds).any(axis=1).argmax())
        raise ValueError(f"`preds` must be numbers. Received: NaN in that of index {index}")
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise ValueError(f"`top` must be an integer of at least 1. Received: top={top!r}")
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(int(i), facts.class_names[i], float(row[i])) for i in best]
        for row, best in zip(preds, order, strict=True)
    ]
