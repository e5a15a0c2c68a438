"""What every backbone shares: its input, its top, its weights and its kernel sizes by stage."""

import collections.abc
import os
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_multiception.applications import pretrained
from keras_multiception.blocks import CHANNELS_LAST, Conv, require_conv
from keras_multiception.layers.arguments import (
    Tensor,
    standardize_integer,
    standardize_kernel_sizes,
)
from keras_multiception.layers.base_conv2d import uniform_bias

# of Multiception by stage: the paper's choice, Section III
PAPER_KERNEL_SIZES = ((3, 5, 7), (3, 5), (3, 3))


def build_classifier(
    features: collections.abc.Callable[[Any], Any],
    *,
    include_top: bool,
    weights: str | os.PathLike | None,
    input_tensor: keras.KerasTensor | None,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
    name: str,
    default_size: int = 32,
    dropout: float | None = None,
) -> keras.Model:
    """Build a Functional model from the function of its feature maps; see `km.create_model`."""
    if include_top:
        classes = standardize_integer(classes, "classes")
    _check_arguments(weights, input_shape, pooling)
    known = (keras.activations.softmax, keras.activations.linear)
    has_top = include_top and weights in pretrained.datasets()
    if has_top and keras.activations.get(classifier_activation) not in known:
        raise ValueError(
            '`classifier_activation` must be None or "softmax" with the weights of a data set. '
            f"Received: classifier_activation={classifier_activation!r}"
        )
    if input_tensor is None:
        size = default_size if include_top else None
        shape = (size, size, 3) if input_shape is None else tuple(input_shape)
        images = keras.Input(shape, name="image")
    else:
        images = _checked_images(input_tensor, input_shape)
    x = features(images)
    if include_top:
        x = _top(x, classes, classifier_activation, dropout)
    elif pooling:
        pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[pooling]
        x = pool(name=f"{pooling}_pool", **CHANNELS_LAST)(x)
    inputs = keras.utils.get_source_inputs(images)
    model = keras.Model(inputs[0] if len(inputs) == 1 else inputs, x, name=name)
    if weights is not None:
        # without what comes before `input_tensor`
        own = model if input_tensor is None else keras.Model(images, x, name=name)
        if weights in pretrained.datasets():
            pretrained.load(own, weights, include_top)
        else:
            own.load_weights(weights)
    return model


def _top(x: Tensor, classes: int, activation: Any, dropout: float | None) -> Tensor:
    x = layers.GlobalAveragePooling2D(name="avg_pool", **CHANNELS_LAST)(x)
    if dropout is not None:
        x = layers.Dropout(dropout, name="dropout")(x)
    compute_dtype = keras.config.dtype_policy().compute_dtype
    is_half = compute_dtype in ("float16", "bfloat16")
    return layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=uniform_bias(x.shape[-1]),
        bias_initializer=uniform_bias(x.shape[-1]),
        # logits and probabilities stay float32 under mixed precision
        dtype=keras.DTypePolicy("float32") if is_half else None,
        name="predictions",
    )(x)


def stage_kernel_sizes(conv: Conv, kernel_sizes: Any, stages: int = 3) -> tuple:
    """Return the kernel sizes of each stage, the user's or the paper's, as `km.conv_bn` takes them.

    `kernel_sizes` is `None`, one list for every stage, or one list for each.
    """
    require_conv(conv)
    if kernel_sizes is None:
        follows_paper = callable(conv) or conv == "multiception"
        return PAPER_KERNEL_SIZES[:stages] if follows_paper else (None,) * stages
    is_list = isinstance(kernel_sizes, tuple | list)
    if not is_list or not any(isinstance(entry, tuple | list) for entry in kernel_sizes):
        return (standardize_kernel_sizes(kernel_sizes),) * stages
    if len(kernel_sizes) != stages:
        raise ValueError(
            f"`kernel_sizes` must be one list of sizes, or {stages} of them, one a stage. "
            f"Received: kernel_sizes={kernel_sizes!r}"
        )
    return tuple(standardize_kernel_sizes(entry) for entry in kernel_sizes)


def _checked_images(input_tensor: Any, input_shape: Any) -> Tensor:
    shape = tuple(input_tensor.shape[1:]) if keras.utils.is_keras_tensor(input_tensor) else ()
    if len(shape) != 3 or not shape[-1]:
        raise ValueError(
            "`input_tensor` must be a Keras tensor of shape (batch, height, width, channels), as "
            f"`keras.Input` gives. Received: input_tensor={input_tensor!r}"
        )
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            "`input_shape` must be that of `input_tensor`, or be left out. "
            f"Received: input_shape={input_shape!r} and a tensor of {shape}"
        )
    return input_tensor


def _check_arguments(weights: Any, input_shape: Any, pooling: Any) -> None:
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'`pooling` must be None, "avg" or "max". Received: pooling={pooling!r}')
    if input_shape is not None and not (np.shape(input_shape) == (3,) and input_shape[-1]):
        raise ValueError(
            "`input_shape` must be (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        )
    shipped, path = pretrained.datasets(), pathlib.Path(str(weights))
    is_file = path.suffix in (".h5", ".hdf5", ".keras") and path.is_file()
    if weights is not None and weights not in shipped and not is_file:
        raise ValueError(
            "`weights` must be None or the path of a .weights.h5 or .keras file that exists"
            f"{''.join(f', or {name!r}' for name in shipped)}. Received: weights={weights!r}"
        )
