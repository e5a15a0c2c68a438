"""What the tables and figures of a study call its conditions."""

from training.paper_tables import IMAGENET32

CONVOLUTIONS = {
    "standard": "standard",
    "dsconv": "DSConv",
    "mixconv": "MixConv",
    "mixconv_depthwise": "MixConv, depthwise",
    "multiception": "Multiception",
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


def convolution_name(recipe):
    """Return what to call the convolution of a recipe, a dictionary."""
    return CONVOLUTIONS[recipe["conv"]]


def model_name(recipe):
    """Return what to call the network of a recipe, a dictionary."""
    return MODELS.get(recipe["model"], recipe["model"])


def dataset_name(dataset):
    """Return what to call a data set."""
    return DATASETS.get(dataset, dataset)


def panel_name(recipe):
    """Return what to call the network and data set of a recipe, a dictionary."""
    return f"{model_name(recipe)} on {dataset_name(recipe['dataset'])}"


def value_name(key, value):
    """Return how to write one value of a recipe, such as kernel sizes 3-5-7, 3-5, 3-3."""
    if key == "conv":
        return CONVOLUTIONS[value]
    if key != "kernel_sizes":
        return str(value)
    if value is None:
        return "the paper's kernel sizes"
    stages = value if isinstance(value[0], list) else [value]
    return ", ".join("-".join(map(str, sizes)) for sizes in stages)


def varying_keys(conditions):
    """Return the keys in which the recipes of one network on one data set differ.

    Args:
        conditions: List of dictionaries with `recipe`, of a study's results.

    Returns:
        A list of keys, without `conv`.
    """
    places = {(c["recipe"]["model"], c["recipe"]["dataset"]) for c in conditions}
    groups = [
        [c["recipe"] for c in conditions if (c["recipe"]["model"], c["recipe"]["dataset"]) == place]
        for place in places
    ]
    return [
        key
        for key in conditions[0]["recipe"]
        if key != "conv"
        and any(len({str(recipe[key]) for recipe in group}) > 1 for group in groups)
    ]


def condition_name(recipe, varying):
    """Return what tells a recipe from the others of its network and data set."""
    settings = [setting_name(recipe, varying)] if varying else []
    return "; ".join((convolution_name(recipe), *settings))


def setting_name(recipe, varying):
    """Return the values of the keys that vary."""
    return "; ".join(
        value_name(key, recipe[key]) if key == "kernel_sizes" else f"{key} {recipe[key]}"
        for key in varying
    )
