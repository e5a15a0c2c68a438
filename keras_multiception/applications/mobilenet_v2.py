"""MobileNetV2 of the paper: Multiception in the first two rows of inverted residual blocks."""

import math
import numbers
import os
from typing import Any

import keras
from keras import layers

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import Conv, batch_norm, conv2d, conv_bn, depthwise_conv2d, relu
from keras_multiception.layers.arguments import KernelSizes, Tensor

# expansion, filters, blocks and the stride of the first block, of each stage
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
REPLACEABLE_STAGES = 2
STEM_FILTERS, HEAD_FILTERS = 32, 1280
DROPOUT = 0.2


def MobileNetV2(
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: Any = "softmax",
    name: str = "mobilenetv2",
    conv: Conv = "multiception",
    kernel_sizes: KernelSizes | None = None,
    alpha: float = 1.0,
    stem_strides: int | None = None,
) -> keras.Model:
    """MobileNetV2 with a replaceable convolution in its first two stages.

    In the first two rows of the published table, each block's depthwise and 1x1 convolution make
    way for `km.conv_bn`, ReLU and another batch norm; the other five are as published.

    Args:
        include_top, weights, input_tensor, input_shape, pooling, classes,
            classifier_activation, name, conv, kernel_sizes: As in `km.create_model`; `conv` is
            `"dsconv"`, `"multiception"` or a callable, and there are two stages.
        alpha: Float, the width multiplier: the channels of every stage times `alpha`, rounded to
            a multiple of 8.
        stem_strides: 1 or 2, the stride of the first convolution. The default is 2 for images
            larger than 96x96, and otherwise 1, as in the paper's experiments.

    Returns:
        A Functional `keras.Model` with output shape `(batch, classes)`; with
        `include_top=False`, `(batch, height / s, width / s, 1280)`, rounded up, with s = 16 times
        the stride of the stem; 1280 grows with an `alpha` above 1.

    Example:
        >>> model = km.MobileNetV2(input_shape=(224, 224, 3), classes=1000, alpha=0.5)

    Reference:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (CVPR 2018).
    """
    sizes = stage_kernel_sizes(conv, kernel_sizes, REPLACEABLE_STAGES)
    _check(conv, alpha, stem_strides)
    return build_classifier(
        lambda x: _features(x, conv, sizes, float(alpha), stem_strides),
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        default_size=96,
        dropout=DROPOUT,
    )


def _check(conv: Conv, alpha: Any, stem_strides: Any) -> None:
    if conv in ("standard", "mixconv", "mixconv_depthwise"):  # Section IV of the paper
        raise ValueError(
            '`conv` must be "dsconv", "multiception" or a callable for MobileNetV2, which is '
            f"designed on depthwise separable convolution. Received: conv={conv!r}"
        )
    is_number = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
    if not is_number or not 0 < alpha < math.inf:
        raise ValueError(f"`alpha` must be a finite number above 0. Received: alpha={alpha!r}")
    if stem_strides not in (None, 1, 2):
        raise ValueError(f"`stem_strides` must be 1 or 2. Received: stem_strides={stem_strides!r}")


def _features(
    x: Tensor, conv: Conv, kernel_sizes: tuple, alpha: float, stem_strides: int | None
) -> Tensor:
    strides = stem_strides or (2 if max(length or 0 for length in x.shape[1:3]) > 96 else 1)
    x = _conv_bn_relu6(x, _rounded(alpha * STEM_FILTERS), 3, strides, "stem")
    for stage, (expansion, filters, blocks, strides) in enumerate(STAGES, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            stride, width = strides if block == 1 else 1, _rounded(alpha * filters)
            if stage <= REPLACEABLE_STAGES:
                x = _block(x, width, stride, expansion, name, conv, kernel_sizes[stage - 1])
            else:
                x = _block(x, width, stride, expansion, name)
    return _conv_bn_relu6(x, _rounded(max(1, alpha) * HEAD_FILTERS), 1, 1, "head")


def _block(
    x: Tensor,
    filters: int,
    strides: int,
    expansion: int,
    name: str,
    conv: Conv | None = None,
    kernel_sizes: Any = None,
) -> Tensor:
    """Apply the inverted residual block; `conv=None` is the published form."""
    shortcut = x
    if expansion > 1:
        x = _conv_bn_relu6(x, expansion * x.shape[-1], 1, 1, f"{name}_expand")
    if conv is None:
        x = depthwise_conv2d(x, 3, strides, "fan_out", f"{name}_depthwise")
        x = relu(batch_norm(x, f"{name}_depthwise_bn"), f"{name}_depthwise_relu", max_value=6)
        x = conv2d(x, filters, 1, fan="fan_out", name=f"{name}_project_conv")
        x = batch_norm(x, f"{name}_project_bn")
    else:
        x = conv_bn(x, filters, strides, kernel_sizes, conv, "fan_out", f"{name}_conv")
        x = batch_norm(relu(x, f"{name}_relu"), f"{name}_bn")
    if strides == 1 and shortcut.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _conv_bn_relu6(x: Tensor, filters: int, kernel_size: int, strides: int, name: str) -> Tensor:
    x = conv2d(x, filters, kernel_size, strides, "fan_out", name=f"{name}_conv")
    return relu(batch_norm(x, f"{name}_bn"), f"{name}_relu", max_value=6)


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, at least 8, going down by no more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
