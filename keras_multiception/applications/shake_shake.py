"""Shake-Shake 26 2x96d of the paper ("ShakeNet-26"): three stages of two-branch blocks."""

import os
from typing import Any

import keras
from keras import layers

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import CHANNELS_LAST, Conv, batch_norm, conv2d, conv_bn, relu
from keras_multiception.layers.arguments import KernelSizes, Tensor, standardize_integer
from keras_multiception.layers.shake_shake import ShakeShake

STEM_FILTERS = 16
BLOCKS = 4


def ShakeShake26(
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Any = "softmax",
    name: str = "shakeshake26",
    conv: Conv = "multiception",
    kernel_sizes: KernelSizes | None = None,
    filters: int = 96,
) -> keras.Model:
    """Shake-Shake 26 2x96d for CIFAR-sized images: three stages of four two-branch blocks.

    In training, each block mixes its two branches at random for each image; see
    `km.layers.ShakeShake`. A shortcut has weights only where the shape changes: the paper's
    counts include 584,640 weights of shortcuts that the released code never uses.

    Args:
        include_top, weights, input_tensor, input_shape, pooling, classes,
            classifier_activation, name, conv, kernel_sizes: As in `km.create_model`; `conv` is
            the first convolution of each branch.
        filters: Even integer, width of the first stage, doubled in each further one: the 96 of
            2x96d.

    Returns:
        A Functional `keras.Model` with output shape `(batch, classes)`; with
        `include_top=False`, `(batch, height / 4, width / 4, 4 * filters)`, rounded up.

    Example:
        >>> model = km.ShakeShake26(classes=100, filters=32)

    Reference:
        Gastaldi: Shake-Shake regularization (2017).
    """
    filters = standardize_integer(filters, "filters")
    if filters % 2:
        raise ValueError(f"`filters` must be even. Received: filters={filters!r}")
    sizes = stage_kernel_sizes(conv, kernel_sizes)
    return build_classifier(
        lambda x: _features(x, filters, conv, sizes),
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
    )


def _features(x: Tensor, filters: int, conv: Conv, kernel_sizes: tuple) -> Tensor:
    x = conv2d(x, STEM_FILTERS, 3, fan="fan_out", use_bias=True, name="stem_conv")
    for stage, sizes in enumerate(kernel_sizes, start=1):
        width = filters * 2 ** (stage - 1)
        for block in range(1, BLOCKS + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(x, width, strides, conv, sizes, f"stage{stage}_block{block}")
    return relu(x, "head_relu")


def _block(
    x: Tensor, filters: int, strides: int, conv: Conv, kernel_sizes: Any, name: str
) -> Tensor:
    """Mix two branches, ReLU -> conv_bn -> ReLU -> 3x3 convolution -> batch norm each."""
    branches = []
    for branch in (f"{name}_branch1", f"{name}_branch2"):
        y = relu(x, f"{branch}_relu1")
        y = conv_bn(y, filters, strides, kernel_sizes, conv, "fan_out", f"{branch}_conv1")
        y = relu(y, f"{branch}_relu2")
        y = conv2d(y, filters, 3, fan="fan_out", name=f"{branch}_conv2")
        branches.append(batch_norm(y, f"{branch}_bn2"))
    if x.shape[-1] != filters or strides != 1:
        x = _shortcut(x, filters, strides, f"{name}_shortcut")
    shaken = ShakeShake(name=f"{name}_shake")(branches)
    return layers.Add(name=f"{name}_out")([shaken, x])


def _shortcut(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """Subsample along two paths, the second one pixel further; half of the filters from each."""
    x = relu(x, f"{name}_relu")
    moved = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad", **CHANNELS_LAST)(x)
    moved = layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_crop", **CHANNELS_LAST)(moved)
    paths = [
        conv2d(path, filters // 2, 1, strides, "fan_out", name=f"{name}_conv{index}")
        for index, path in enumerate((x, moved), start=1)
    ]
    x = layers.Concatenate(name=f"{name}_concat")(paths)
    return batch_norm(x, f"{name}_bn")
