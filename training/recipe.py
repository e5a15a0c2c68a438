"""A training recipe, as data: what to train, on what, and how."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")

Check = tuple[str, bool, str]  # a field, whether its value fits, and what it must be
KernelSizes = tuple[int, ...] | tuple[tuple[int, ...], ...] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a training run, by default as the paper for CIFAR."""

    dataset: str  # a key of `keras_multiception.preprocessing.DATASETS`, or "folder"
    model: str  # a name of `keras_multiception.list_models()`
    conv: str  # type of convolution, as in `keras_multiception.create_model`
    kernel_sizes: KernelSizes = None  # None for the paper's, for every stage, or stage by stage
    filters: int = 0  # of the first stage; 0 is the network's own number
    image_size: int = 0  # height and width in pixels to resize to; 0 is the data set's own
    train_split: str = "train"  # in the notation of TensorFlow Datasets
    test_split: str = "test"  # measured after each epoch and at the end
    epochs: int = 300  # passes over the training split, each without what does not fill a batch
    batch_size: int = 128  # images over all devices
    accumulate_steps: int = 1  # batches whose gradients are averaged into one optimizer step
    learning_rate: float = 0.1  # the highest, from which the cosine falls
    min_learning_rate: float = 5e-5  # where the cosine ends
    warmup_epochs: int = 0  # in which the learning rate rises
    schedule_interval: str = "epoch"  # or "step": when the learning rate changes
    optimizer: str = "sgd"  # the paper's, `optimizers.SGDL2`; or "muon", `optimizers.ConvMuon`
    momentum: float = 0.9  # Nesterov's
    l2: float = 2e-4  # coefficient of the coupled L2 penalty of "sgd"; 0 with "muon"
    l2_on_vectors: bool = True  # whether the penalty covers biases and batch normalization too
    weight_decay: float = 0.0  # decoupled, of "muon" for kernels; 0 with "sgd"
    clip_norm: float = 0.0  # largest global norm of the gradient; 0 is no clipping
    ema: float = 0.0  # momentum of the average of the weights that is kept; 0 keeps the weights
    label_smoothing: float = 0.0  # share of each label spread evenly over all classes
    mixup: float = 0.0  # alpha of the Beta distribution of weights of two images; 0 is none
    cutmix: float = 0.0  # alpha of the Beta distribution of areas pasted from another; 0 is none
    pad_and_crop: int = 4  # pixels of zeros around an image before a random crop; 0 is none
    flip: bool = True  # whether to mirror half of the images
    sync_batch_norm: bool = False  # whether batch statistics are taken over all devices
    seed: int = 0  # of the initial weights, the order of the images and their augmentation
    dtype_policy: str = "float32"  # one of `POLICIES`

    def __post_init__(self) -> None:
        require_fields(self, self._checks())

    def _checks(self) -> Iterator[Check]:
        """Yield what the values must be: of their types first, then within their ranges."""
        for field in dataclasses.fields(self):
            yield field.name, _is_a(getattr(self, field.name), field.type), _KINDS[field.type]
        for name, (low, high) in _RANGES.items():
            limit = "finite" if high == math.inf else f"less than {high}"
            yield name, low <= getattr(self, name) < high, f"at least {low} and {limit}"
        for name, choices in _CHOICES.items():
            yield name, getattr(self, name) in choices, f"one of {', '.join(choices)}"
        rate, low = self.learning_rate, self.min_learning_rate
        yield "learning_rate", 0 < rate < math.inf, "above 0 and finite"
        yield "min_learning_rate", 0 <= low <= rate, f"from 0 to `learning_rate`, {rate}"
        fits = self.warmup_epochs < self.epochs
        yield "warmup_epochs", fits, f"less than `epochs`, {self.epochs}"
        for name, optimizer in {"l2": "sgd", "weight_decay": "muon"}.items():
            fits = not getattr(self, name) or self.optimizer == optimizer
            yield name, fits, f'0 unless `optimizer` is "{optimizer}"'

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate after a number of epochs: a linear warm-up, then a cosine."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / (self.warmup_epochs + 1)
        gone = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        cosine = (1 + math.cos(math.pi * gone)) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * cosine


def require_fields(instance: Any, checks: Iterable[Check]) -> None:
    """Raise a `ValueError` for the first field of a dataclass that is not what it must be."""
    for name, fits, expected in checks:
        if not fits:
            value = getattr(instance, name)
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a JSON object of its attributes; what is left out has its default."""
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


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def parse_changes(changes: Iterable[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of strings `key=value`, each of its key's kind."""
    values = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in kinds:
            raise ValueError(
                f"`set` must be key=value, with a key of {', '.join(kinds)}. Received: set={change}"
            )
        try:
            values[key] = _parse(text, kinds[key])
        except (ValueError, KeyError):
            raise ValueError(f"`{key}` must be {_KINDS[kinds[key]]}. Received: {change}") from None
    return values


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind is tuple:
        return tuple(map(int, text.split(",")))
    if kind is not KernelSizes:
        return kind(text)
    if text.lower() == "none":
        return None
    stages = tuple(tuple(map(int, stage.split("-"))) for stage in text.split(","))
    return stages if len(stages) > 1 else stages[0]


def _is_a(value: Any, kind: Any) -> bool:
    if kind is KernelSizes:
        return value is None or _are_kernel_sizes(value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _are_kernel_sizes(value: Any) -> bool:
    nested = isinstance(value, tuple) and any(isinstance(sizes, tuple) for sizes in value)
    return all(
        isinstance(sizes, tuple) and sizes and all(_is_a(x, int) and x > 0 for x in sizes)
        for sizes in (value if nested else (value,))
    )


_KINDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    tuple: "integers such as 1,128",
    KernelSizes: "kernel sizes such as 3-5 or 3-5-7,3-5,3-3, lists of integers in JSON, or none",
}
_RANGES: dict[str, tuple[float, float]] = {  # the lowest value, and a limit above the highest
    **dict.fromkeys(("epochs", "batch_size", "accumulate_steps"), (1, math.inf)),
    **dict.fromkeys(("filters", "image_size", "warmup_epochs", "pad_and_crop"), (0, math.inf)),
    **dict.fromkeys(("l2", "weight_decay", "clip_norm", "mixup", "cutmix"), (0, math.inf)),
    **dict.fromkeys(("momentum", "ema", "label_smoothing"), (0, 1)),
    "seed": (0, 2**32),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule_interval": ("epoch", "step"),
    "optimizer": ("sgd", "muon"),
    "dtype_policy": POLICIES,
}
