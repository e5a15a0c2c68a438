"""A training recipe, as data: what to train, on what, and how."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
INTERVALS = ("epoch", "step")
OPTIMIZERS = ("sgd", "muon")

KernelSizes = tuple[int, ...] | tuple[tuple[int, ...], ...] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run.

    The defaults are those of the paper for the CIFAR data sets.

    Raises:
        ValueError: If a value is of the wrong type or out of its range.

    Attributes:
        dataset: A key of `keras_multiception.preprocessing.DATASETS`, or "folder" for a user's
            own images by class.
        model: A name of `keras_multiception.list_models()`.
        conv: Type of convolution, as in `keras_multiception.create_model`.
        kernel_sizes: `None` for the paper's, one tuple of kernel sizes for every stage, or a
            tuple of them for each stage.
        filters: Filters of the first stage; 0 is the network's own number.
        image_size: Height and width in pixels to resize to; 0 is the data set's own size.
        train_split: Split to train on, in the notation of TensorFlow Datasets.
        test_split: Split to measure on after each epoch and at the end.
        epochs: Number of passes over the training split.
        batch_size: Images per optimizer step over all devices, unless `accumulate_steps` is
            more than 1; an epoch drops what is left over.
        accumulate_steps: Batches whose gradients are averaged into one optimizer step.
        learning_rate: Highest learning rate, from which the cosine falls.
        min_learning_rate: Where the cosine ends.
        warmup_epochs: Epochs in which the learning rate rises to `learning_rate`.
        schedule_interval: Whether the learning rate changes with each "epoch" or "step".
        optimizer: One of `OPTIMIZERS`: "sgd" is the paper's, `keras_multiception.optimizers.SGDL2`;
            "muon" is `keras_multiception.optimizers.ConvMuon`.
        momentum: Nesterov momentum.
        l2: Coefficient of the coupled L2 penalty of "sgd"; 0 with "muon".
        l2_on_vectors: Whether the penalty covers biases and batch normalization too.
        weight_decay: Decoupled weight decay of "muon" for kernels; 0 with "sgd".
        clip_norm: Largest global norm of the gradient; 0 is no clipping.
        ema: Momentum of a moving average of the weights, which is what is measured and kept;
            0 is none.
        label_smoothing: Share of each label spread evenly over all classes.
        mixup: Alpha of the Beta distribution that mixes pairs of images; 0 is none.
        cutmix: Alpha of the Beta distribution that pastes a part of one image into another; 0
            is none.
        pad_and_crop: Pixels of zeros to pad each side with before a random crop; 0 is no crop.
        flip: Whether to mirror half of the images.
        sync_batch_norm: Whether batch normalization takes its statistics over all devices.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        dtype_policy: Keras dtype policy, one of `POLICIES`.
    """

    dataset: str
    model: str
    conv: str
    kernel_sizes: KernelSizes = None
    filters: int = 0
    image_size: int = 0
    train_split: str = "train"
    test_split: str = "test"
    epochs: int = 300
    batch_size: int = 128
    accumulate_steps: int = 1
    learning_rate: float = 0.1
    min_learning_rate: float = 5e-5
    warmup_epochs: int = 0
    schedule_interval: str = "epoch"
    optimizer: str = "sgd"
    momentum: float = 0.9
    l2: float = 2e-4
    l2_on_vectors: bool = True
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    pad_and_crop: int = 4
    flip: bool = True
    sync_batch_norm: bool = False
    seed: int = 0
    dtype_policy: str = "float32"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            fits, expected = _TYPES[field.type]
            value = getattr(self, field.name)
            if not fits(value):
                raise ValueError(
                    f"`{field.name}` must be {expected}. Received: {field.name}={value!r}"
                )
        for name, (is_valid, expected) in {
            "filters": (self.filters >= 0, "at least 0"),
            "image_size": (self.image_size >= 0, "at least 0"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "accumulate_steps": (self.accumulate_steps >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "min_learning_rate": (
                0 <= self.min_learning_rate <= self.learning_rate,
                f"from 0 to `learning_rate`, {self.learning_rate}",
            ),
            "warmup_epochs": (
                0 <= self.warmup_epochs < self.epochs,
                f"at least 0 and less than `epochs`, {self.epochs}",
            ),
            "schedule_interval": (
                self.schedule_interval in INTERVALS,
                f"one of {', '.join(INTERVALS)}",
            ),
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and less than 1"),
            "l2": (
                0 <= self.l2 < math.inf and (self.l2 == 0 or self.optimizer == "sgd"),
                'a finite number of at least 0, and 0 unless `optimizer` is "sgd"',
            ),
            "weight_decay": (
                0 <= self.weight_decay < math.inf
                and (self.weight_decay == 0 or self.optimizer == "muon"),
                'a finite number of at least 0, and 0 unless `optimizer` is "muon"',
            ),
            "clip_norm": (0 <= self.clip_norm < math.inf, "a finite number of at least 0"),
            "ema": (0 <= self.ema < 1, "at least 0 and less than 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and less than 1"),
            "mixup": (0 <= self.mixup < math.inf, "a finite number of at least 0"),
            "cutmix": (0 <= self.cutmix < math.inf, "a finite number of at least 0"),
            "pad_and_crop": (self.pad_and_crop >= 0, "at least 0"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            "dtype_policy": (self.dtype_policy in POLICIES, f"one of {', '.join(POLICIES)}"),
        }.items():
            if not is_valid:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be {expected}. Received: {name}={value}")

    def learning_rate_at(self, epoch):
        """Return the learning rate: a straight warm-up, then a cosine.

        Args:
            epoch: Number of epochs gone by: an integer from 0, or a fraction in the midst of
                an epoch.

        Returns:
            A float.
        """
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / (self.warmup_epochs + 1)
        gone = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        cosine = (1 + math.cos(math.pi * gone)) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * cosine


def override(recipe, changes):
    """Return a recipe with some of its values replaced.

    Args:
        recipe: A `Recipe`.
        changes: Strings `key=value`, where `key` is an attribute of `Recipe`. Kernel sizes are
            written `3-5` for every stage, `3-5-7,3-5,3-3` one by one, or `none`.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If a key is unknown, or a value is of the wrong type or out of its range.
    """
    return dataclasses.replace(recipe, **dict(map(_parse_change, changes)))


def read_recipe(path):
    """Read a recipe from a JSON file.

    Args:
        path: Path of a file that holds the attributes of a `Recipe` as an object, as
            `dataclasses.asdict` gives them. What it leaves out has its default.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If the file cannot be read or is not a recipe.
    """
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if values.get("kernel_sizes") is not None:
            values["kernel_sizes"] = _tuples(values["kernel_sizes"])
        return Recipe(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`recipe` must be the path of a JSON file with the values of a recipe ({error}). "
            f"Received: recipe={path}"
        ) from error


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _parse_change(change):
    types = {field.name: field.type for field in dataclasses.fields(Recipe)}
    key, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"An override must have the form key=value. Received: {change}")
    if key not in types:
        raise ValueError(
            f"`{key}` is not a key of a recipe; choose from {', '.join(types)}. Received: {change}"
        )
    parse, expected = _PARSERS[types[key]]
    try:
        return key, parse(text)
    except (ValueError, KeyError):
        raise ValueError(f"`{key}` must be {expected}. Received: {change}") from None


def _parse_bool(text):
    return {"true": True, "false": False}[text.lower()]


def _parse_kernel_sizes(text):
    if text.lower() == "none":
        return None
    stages = tuple(tuple(map(int, stage.split("-"))) for stage in text.split(","))
    return stages if len(stages) > 1 else stages[0]


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _are_kernel_sizes(value):
    if value is None:
        return True
    stages = value if isinstance(value, tuple) and any(map(_is_tuple, value)) else (value,)
    return all(
        _is_tuple(sizes) and sizes and all(_is_integer(size) and size > 0 for size in sizes)
        for sizes in stages
    )


def _is_tuple(value):
    return isinstance(value, tuple)


_TYPES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (lambda value: isinstance(value, str), "a string"),
    int: (_is_integer, "an integer"),
    float: (lambda value: _is_integer(value) or isinstance(value, float), "a number"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    KernelSizes: (_are_kernel_sizes, "a list of integers, or a list of them for each stage"),
}
_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a string"),
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: (_parse_bool, "true or false"),
    KernelSizes: (_parse_kernel_sizes, "kernel sizes such as 3-5, 3-5-7,3-5,3-3 or none"),
}
