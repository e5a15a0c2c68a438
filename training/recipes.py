"""Named training recipes, as data: what to train, on what, and how."""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")

KernelSizes = tuple[int, ...] | tuple[tuple[int, ...], ...] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run.

    The defaults are those of the paper for the CIFAR data sets.

    Attributes:
        dataset: A key of `keras_multiception.preprocessing.DATASETS`.
        model: A name of `keras_multiception.list_models()`.
        conv: Type of convolution, as in `keras_multiception.create_model`.
        kernel_sizes: `None` for the paper's, one tuple of kernel sizes for every stage, or a
            tuple of them for each stage.
        train_split: Split to train on, in the notation of TensorFlow Datasets.
        test_split: Split to measure on after each epoch and at the end.
        epochs: Number of passes over the training split.
        batch_size: Images per step; an epoch drops what is left over.
        learning_rate: Learning rate of the first epoch.
        min_learning_rate: Where the cosine ends.
        momentum: Nesterov momentum.
        l2: Coefficient of the L2 penalty on every parameter.
        pad_and_crop: Pixels of zeros to pad each side with before a random crop; 0 is no crop.
        flip: Whether to mirror half of the images.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        dtype_policy: Keras dtype policy, one of `POLICIES`.
    """

    dataset: str
    model: str
    conv: str
    kernel_sizes: KernelSizes = None
    train_split: str = "train"
    test_split: str = "test"
    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 0.1
    min_learning_rate: float = 5e-5
    momentum: float = 0.9
    l2: float = 2e-4
    pad_and_crop: int = 4
    flip: bool = True
    seed: int = 0
    dtype_policy: str = "float32"

    def __post_init__(self):
        for name, (is_valid, expected) in {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "min_learning_rate": (
                0 <= self.min_learning_rate <= self.learning_rate,
                f"from 0 to `learning_rate`, {self.learning_rate}",
            ),
            "momentum": (0 <= self.momentum < 1, "at least 0 and less than 1"),
            "l2": (0 <= self.l2 < math.inf, "a finite number of at least 0"),
            "pad_and_crop": (self.pad_and_crop >= 0, "at least 0"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            "dtype_policy": (self.dtype_policy in POLICIES, f"one of {', '.join(POLICIES)}"),
        }.items():
            if not is_valid:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be {expected}. Received: {name}={value}")

    def learning_rate_at(self, epoch):
        """Return the learning rate of an epoch: a cosine from the first epoch on.

        Args:
            epoch: Integer, counted from 0.

        Returns:
            A float.
        """
        cosine = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * cosine


_PAPER_TYPES = ("standard", "dsconv", "mixconv", "multiception")

RECIPES = {
    f"{model}_{conv}_cifar10": Recipe("cifar10", model, conv)
    for model in ("resnet20", "resnet50")
    for conv in _PAPER_TYPES
} | {
    f"resnet20_{conv}_digits": Recipe(
        "digits", "resnet20", conv, epochs=5, batch_size=32, pad_and_crop=2, flip=False
    )
    for conv in (*_PAPER_TYPES, "mixconv_depthwise")
}


def get_recipe(name, overrides=()):
    """Return a recipe by its name, with some of its values replaced.

    Args:
        name: String, a key of `RECIPES`.
        overrides: Strings `key=value`, where `key` is an attribute of `Recipe`. Kernel sizes
            are written `3-5` for every stage, `3-5-7,3-5,3-3` one by one, or `none`.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If the recipe or a key is unknown, or a value is of the wrong type or out
            of its range.

    Example:
        >>> get_recipe("resnet20_multiception_cifar10", ["epochs=30", "kernel_sizes=3-5"])
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "--list shows them."
        raise ValueError(f"`recipe` is unknown: {hint} Received: recipe={name}")
    return dataclasses.replace(RECIPES[name], **dict(map(_parse_override, overrides)))


def _parse_override(override):
    types = {field.name: field.type for field in dataclasses.fields(Recipe)}
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"An override must have the form key=value. Received: {override}")
    if key not in types:
        raise ValueError(
            f"`{key}` is not a key of a recipe; choose from {', '.join(types)}. "
            f"Received: {override}"
        )
    parse, expected = _PARSERS[types[key]]
    try:
        return key, parse(text)
    except (ValueError, KeyError):
        raise ValueError(f"`{key}` must be {expected}. Received: {override}") from None


def _parse_bool(text):
    return {"true": True, "false": False}[text.lower()]


def _parse_kernel_sizes(text):
    if text.lower() == "none":
        return None
    stages = tuple(tuple(map(int, stage.split("-"))) for stage in text.split(","))
    return stages if len(stages) > 1 else stages[0]


_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a string"),
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: (_parse_bool, "true or false"),
    KernelSizes: (_parse_kernel_sizes, "kernel sizes such as 3-5, 3-5-7,3-5,3-3 or none"),
}
