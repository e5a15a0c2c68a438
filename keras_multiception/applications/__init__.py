"""The networks of the paper as Functional Keras models."""

import difflib

from keras_multiception.applications.features import feature_extractor
from keras_multiception.applications.mobilenet_v2 import MobileNetV2
from keras_multiception.applications.resnet import (
    ResNet20,
    ResNet32,
    ResNet50,
    ResNet56,
    ResNet110,
    SEResNet20,
    SEResNet32,
    SEResNet50,
    SEResNet56,
    SEResNet110,
)
from keras_multiception.applications.shake_shake import ShakeShake26

__all__ = [
    "MobileNetV2",
    "ResNet20",
    "ResNet32",
    "ResNet50",
    "ResNet56",
    "ResNet110",
    "SEResNet20",
    "SEResNet32",
    "SEResNet50",
    "SEResNet56",
    "SEResNet110",
    "ShakeShake26",
    "create_model",
    "feature_extractor",
    "list_models",
]

_MODELS = {
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet50": ResNet50,
    "resnet56": ResNet56,
    "resnet110": ResNet110,
    "seresnet20": SEResNet20,
    "seresnet32": SEResNet32,
    "seresnet50": SEResNet50,
    "seresnet56": SEResNet56,
    "seresnet110": SEResNet110,
    "shakeshake26": ShakeShake26,
    "mobilenetv2": MobileNetV2,
}


def create_model(name, /, **kwargs):
    """Build a network by its name.

    Args:
        name: String, one of `km.list_models()`.
        **kwargs: The arguments of its factory, such as `classes`, `conv`, `kernel_sizes` and
            `name`; see `km.ResNet20`, `km.ShakeShake26` and `km.MobileNetV2`.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: If the name is unknown, or an argument out of its range.
        TypeError: If the factory has no argument of such a name.

    Example:
        >>> model = km.create_model("resnet20", classes=100, conv="dsconv")
    """
    if name not in tuple(_MODELS):
        close = difflib.get_close_matches(str(name), _MODELS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`name` must be one of {', '.join(_MODELS)}. Received: name={name!r}.{hint}"
        )
    return _MODELS[name](**kwargs)


def list_models():
    """Return the names that `km.create_model` takes.

    Returns:
        A list of strings.

    Example:
        >>> "resnet20" in km.list_models()
        True
    """
    return list(_MODELS)
