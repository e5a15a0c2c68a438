"""The networks of the paper as Functional Keras models."""

import difflib

from keras_multiception.applications.resnet import ResNet20, ResNet32, ResNet50, ResNet56, ResNet110

__all__ = [
    "ResNet20",
    "ResNet32",
    "ResNet50",
    "ResNet56",
    "ResNet110",
    "create_model",
    "list_models",
]

_MODELS = {
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet50": ResNet50,
    "resnet56": ResNet56,
    "resnet110": ResNet110,
}


def create_model(name, /, **kwargs):
    """Build a network by its name.

    Args:
        name: String, one of `km.list_models()`.
        **kwargs: The arguments of its factory, such as `classes`, `conv`, `kernel_sizes` and
            `name`; see `km.ResNet20`.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: If the name or an argument is unknown.

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
        >>> km.list_models()
        ['resnet20', 'resnet32', 'resnet50', 'resnet56', 'resnet110']
    """
    return list(_MODELS)
