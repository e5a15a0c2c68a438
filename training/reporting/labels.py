"""What tables and figures call networks, convolutions, data sets and settings; and their colors."""

from collections.abc import Iterable, Sequence
from typing import Any

from training.paper_tables import IMAGENET32

CONVOLUTIONS = {
    "standard": "standard",
    "dsconv": "DSConv",
    "mixconv": "MixConv",
    "mixconv_depthwise": "MixConv, depthwise",
    "multiception": "Multiception",
}
# Colors that stay apart for color-blind readers and in print.
COLORS = {
    "standard": "#a9afb5",
    "dsconv": "#56b4e9",
    "mixconv": "#e69f00",
    "mixconv_depthwise": "#009e73",
    "multiception": "#a8201a",
}
MODELS = {
    "resnet20": "ResNet-20",
    "resnet50": "ResNet-50",
    "seresnet56": "SE-ResNet-56",
    "shakeshake26": "Shake-Shake 26 2x96d",
    "mobilenetv2": "MobileNetV2",
}
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    IMAGENET32: "ImageNet32x32",
}


def model_label(model: str) -> str:
    """Return what to call a network."""
    return MODELS.get(model, model)


def network_label(recipe: dict[str, Any]) -> str:
    """Return what to call the network and data set of a recipe."""
    dataset = recipe["dataset"]
    return f"{model_label(recipe['model'])} on {DATASETS.get(dataset, dataset)}"


def value_label(key: str, value: Any) -> str:
    """Return how to write one value of a recipe, such as kernel sizes 3-5-7, 3-5, 3-3."""
    if key == "conv":
        return CONVOLUTIONS[value]
    if key != "kernel_sizes":
        return str(value)
    if value is None:
        return "the paper's kernel sizes"
    stages = value if isinstance(value[0], (list, tuple)) else [value]
    return ", ".join("-".join(map(str, sizes)) for sizes in stages)


def settings_label(recipe: dict[str, Any], keys: Iterable[str]) -> str:
    """Return the values of some keys of a recipe."""
    return "; ".join(
        f"{'' if key in ('conv', 'kernel_sizes') else f'{key} '}{value_label(key, recipe[key])}"
        for key in keys
    )


def varying_keys(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys, without `conv`, in which recipes of one network on one data set differ."""
    groups: dict[tuple, list] = {}
    for recipe in recipes:
        groups.setdefault((recipe["model"], recipe["dataset"]), []).append(recipe)
    return [
        key
        for key in recipes[0]
        if key != "conv"
        and any(len({str(recipe[key]) for recipe in group}) > 1 for group in groups.values())
    ]
