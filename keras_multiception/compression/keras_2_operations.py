"""Functions of `keras.ops` in terms of Keras 2: a layer for each, which every tool knows."""

import numbers
from typing import Any

from keras import KerasTensor

_MERGES = ("Add", "Maximum", "Minimum", "Multiply", "Subtract")
_ACTIVATIONS = {"Gelu": "gelu", "Sigmoid": "sigmoid", "Silu": "silu", "Tanh": "tanh"}
_IMAGE_AXES = ([1, 2], [-3, -2])


def layer_of(operation):
    """Find the layer that does what an operation of Keras does.

    Args:
        operation: A `keras.Operation` that is not a layer, in a model.

    Returns:
        `None` if there is none, or a function of (args, name): the arguments that the operation is
        called with, tensors of Keras 2 among them, and the name of the layer; it returns a tensor.
    """
    args = operation._inbound_nodes[0].arguments.args
    if not type(operation).__module__.startswith("keras.src.") or not args:
        return None
    kind = type(operation).__name__
    if kind == "GetItem":
        return lambda args, name: take(args[0], args[1], name)
    if kind in _MERGES and _are_alike(args):
        return lambda args, name: _make(kind, name)(list(args))
    if kind == "Concatenate":
        return lambda args, name: _make(kind, name, axis=operation.axis)(args[0])
    if kind == "Mean" and _is_over_images(operation, args[0]):
        return lambda args, name: _make(
            "GlobalAveragePooling2D", name, keepdims=operation.keepdims
        )(args[0])
    layer = _rescaling(kind, args) or _activation(operation, kind)
    if layer is None:
        return None
    layer_kind, arguments = layer
    return lambda args, name: _make(layer_kind, name, **arguments)(_tensor(args))


def take(x, key, name):
    """Slice a tensor of Keras 2, channels of images with a layer that every tool knows.

    Args:
        x: A tensor.
        key: Slices, integers, `...` and `None`, as in `x[key]`.
        name: String, the name of the layer.

    Returns:
        A tensor.
    """
    import tf_keras

    *others, last = key if isinstance(key, tuple | list) else (key,)
    is_whole = all(part in (Ellipsis, slice(None)) for part in others)
    if not (
        isinstance(last, slice)
        and is_whole
        and len(x.shape) == 4
        and (Ellipsis in others or len(others) == 3)
    ):
        return x[tuple(key) if isinstance(key, list) else key]
    start, stop, step = last.indices(x.shape[-1])
    if step != 1:
        return x[tuple(key)]
    crop = ((0, 0), (start, x.shape[-1] - stop))
    # the last two axes, which are width and channels, as if they were height and width
    return tf_keras.layers.Cropping2D(crop, data_format="channels_first", name=name)(x)


def _make(kind, name, **arguments):
    import tf_keras

    return getattr(tf_keras.layers, kind)(name=name, **arguments)


def _are_alike(args):
    return (
        len(args) == 2
        and all(isinstance(x, KerasTensor) for x in args)
        and len(args[0].shape) == len(args[1].shape)
        and args[0].dtype == args[1].dtype
    )


def _is_over_images(operation, x):
    axis = operation.axis
    axes = list(axis) if isinstance(axis, tuple | list) else axis
    return len(x.shape) == 4 and axes in _IMAGE_AXES


def _rescaling(kind, args):
    """Return the layer for a tensor and a number, or `None`."""
    number: Any = next((x for x in args if isinstance(x, numbers.Real)), None)
    if number is None or len(args) != 2:
        return None
    number_first = args[0] is number
    if kind == "Add":
        scale, offset = 1.0, number
    elif kind == "Multiply":
        scale, offset = number, 0.0
    elif kind == "Subtract":
        scale, offset = (-1.0, number) if number_first else (1.0, -number)
    elif kind in ("Divide", "TrueDivide") and number and not number_first:
        scale, offset = 1 / number, 0.0
    else:
        return None
    return "Rescaling", {"scale": scale, "offset": offset}


def _activation(operation, kind):
    """Return the layer for an activation, or `None`."""
    if kind == "Relu":
        return "ReLU", {}
    if kind == "Relu6":
        return "ReLU", {"max_value": 6.0}
    if kind == "ReLU":
        names = ("max_value", "negative_slope", "threshold")
        return kind, {name: getattr(operation, name) for name in names}
    if kind == "LeakyRelu":
        return "LeakyReLU", {"alpha": operation.negative_slope}
    if kind == "Softmax":
        return kind, {"axis": operation.axis}
    if kind not in _ACTIVATIONS or getattr(operation, "approximate", False):
        return None
    return "Activation", {"activation": _ACTIVATIONS[kind]}


def _tensor(args):
    return next(x for x in args if not isinstance(x, numbers.Real))
