"""MobileNetV2 of the paper: Multiception in the first two rows of inverted residual blocks."""

import math
import numbers

from keras import layers

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import conv_bn
from keras_multiception.primitives import batch_norm, conv2d, depthwise_conv2d, relu

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

_REFUSED = {
    "standard": "MobileNetV2 is designed on depthwise separable convolution",
    "mixconv": "MixConv is not compatible with MobileNetV2 (Section IV of the paper)",
    "mixconv_depthwise": "MixConv is not compatible with MobileNetV2 (Section IV of the paper)",
}


def MobileNetV2(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="mobilenetv2",
    conv="multiception",
    kernel_sizes=None,
    alpha=1.0,
    stem_strides=None,
):
    """MobileNetV2 with a replaceable convolution in its first two stages.

    The stages are the seven rows of the published table. In the first two, each block's
    depthwise and 1x1 convolution make way for `km.conv_bn`, followed by ReLU and another batch
    norm; the other five are as published.

    Args:
        include_top: Boolean, whether the network ends in global average pooling, dropout and a
            dense layer of `classes` units.
        weights: `None` for random initialization, or the path of a `.weights.h5` file that
            `model.save_weights` wrote for the same architecture.
        input_tensor: Keras tensor of images for the network to begin with, such as what
            `keras.Input` or a layer behind it gives; the default is an input of its own.
        input_shape: Tuple (height, width, channels), channels last. The default is (96, 96, 3),
            or (None, None, 3) with `include_top=False`. Any size works.
        pooling: With `include_top=False`: `None` for the last feature maps, `"avg"` or `"max"`
            for their global pooling.
        classes: Integer, number of classes, with `include_top=True`.
        classifier_activation: Activation of the dense layer; `None` for logits.
        name: String, the name of the model.
        conv: Type of the replaceable convolution: `"dsconv"`, `"multiception"` or a callable, as
            in `km.conv_bn`.
        kernel_sizes: Kernel sizes of that convolution: one list for both stages, such as (3, 5),
            or a list of two, one a stage. The default is the paper's: (3, 5, 7) and (3, 5) for
            Multiception, and 3 for `"dsconv"`.
        alpha: Float, the width multiplier: the channels of every stage times `alpha`, rounded to
            a multiple of 8.
        stem_strides: 1 or 2, the stride of the first convolution. The default is 2 for images
            larger than 96x96, and 1, as in the paper's experiments, for smaller ones and where
            `input_shape` leaves the size open.

    Input shape:
        `(batch, height, width, channels)`, normalized by `km.preprocessing.preprocess_input`.

    Output shape:
        `(batch, classes)`; with `include_top=False`, `(batch, height / s, width / s, 1280)`,
        rounded up, with s = 16 times the stride of the stem, or `(batch, 1280)` with `pooling`;
        1280 grows with an `alpha` above 1.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range, or `conv` is a type that does not fit.

    Example:
        >>> model = km.MobileNetV2(input_shape=(224, 224, 3), classes=1000, alpha=0.5)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    Reference:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (CVPR 2018), with
        the convolution of Section III of the Multiception paper.
    """
    sizes = stage_kernel_sizes(conv, kernel_sizes, REPLACEABLE_STAGES)
    if not callable(conv) and conv in _REFUSED:
        raise ValueError(
            '`conv` must be "dsconv", "multiception" or a callable for MobileNetV2: '
            f"{_REFUSED[conv]}. Received: conv={conv!r}"
        )
    is_number = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
    if not is_number or not 0 < float(alpha) < math.inf:
        raise ValueError(
            f"`alpha` must be a number greater than 0 and finite. Received: alpha={alpha!r}"
        )
    if stem_strides not in (None, 1, 2):
        raise ValueError(f"`stem_strides` must be 1 or 2. Received: stem_strides={stem_strides!r}")
    width = float(alpha)
    convs = [(conv, stage_sizes) for stage_sizes in sizes]
    convs += [(None, None)] * (len(STAGES) - len(convs))

    def features(x):
        strides = stem_strides or (2 if max(length or 0 for length in x.shape[1:3]) > 96 else 1)
        x = _conv_bn_relu6(x, _rounded(width * STEM_FILTERS), 3, strides, "stem")
        for stage, (row, replacement) in enumerate(zip(STAGES, convs, strict=True), start=1):
            expansion, filters, blocks, strides = row
            for block in range(1, blocks + 1):
                x = _block(
                    x,
                    _rounded(width * filters),
                    strides if block == 1 else 1,
                    expansion,
                    *replacement,
                    f"stage{stage}_block{block}",
                )
        return _conv_bn_relu6(x, _rounded(max(1, width) * HEAD_FILTERS), 1, 1, "head")

    return build_classifier(
        features,
        include_top,
        weights,
        input_tensor,
        input_shape,
        pooling,
        classes,
        classifier_activation,
        name,
        default_size=96,
        dropout=DROPOUT,
    )


def _block(x, filters, strides, expansion, conv, kernel_sizes, name):
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


def _conv_bn_relu6(x, filters, kernel_size, strides, name):
    x = conv2d(x, filters, kernel_size, strides, "fan_out", name=f"{name}_conv")
    return relu(batch_norm(x, f"{name}_bn"), f"{name}_relu", max_value=6)


def _rounded(channels):
    """Round to a multiple of 8, at least 8, going down by no more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
