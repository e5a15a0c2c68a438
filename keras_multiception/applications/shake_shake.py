"""Shake-Shake 26 2x96d of the paper ("ShakeNet-26"): three stages of two-branch blocks."""

from keras import layers

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import conv_bn
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.layers.shake_shake import ShakeShake
from keras_multiception.layers.unused_shortcut import UnusedShortcut
from keras_multiception.primitives import CHANNELS_LAST, batch_norm, conv2d, relu

STEM_FILTERS = 16
BLOCKS = 4


def ShakeShake26(
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="shakeshake26",
    conv="multiception",
    kernel_sizes=None,
    filters=96,
    unused_shortcuts=False,
):
    """Shake-Shake 26 2x96d for CIFAR-sized images: three stages of four two-branch blocks.

    While training, each block mixes its two branches at random for each image; see
    `km.layers.ShakeShake`.

    A shortcut has weights only where the shape changes. The paper's counts (26.78M with
    `conv="standard"`, 17.57M with `"multiception"`) include 584,640 more: the released code holds
    a shortcut in every block, and does not use it where the shape stays.

    Args:
        include_top: Boolean, whether the network ends in global average pooling and a dense
            layer of `classes` units.
        weights: `None` for random initialization, or the path of a `.weights.h5` file that
            `model.save_weights` wrote for the same architecture.
        input_tensor: Keras tensor of images for the network to begin with, such as what
            `keras.Input` or a layer behind it gives; the default is an input of its own.
        input_shape: Tuple (height, width, channels), channels last. The default is (32, 32, 3),
            or (None, None, 3) with `include_top=False`. Any size works.
        pooling: With `include_top=False`: `None` for the last feature maps, `"avg"` or `"max"`
            for their global pooling.
        classes: Integer, number of classes, with `include_top=True`.
        classifier_activation: Activation of the dense layer; `None` for logits.
        name: String, the name of the model.
        conv: Type of each branch's first convolution: `"standard"`, `"dsconv"`, `"mixconv"`,
            `"mixconv_depthwise"`, `"multiception"` or a callable, as in `km.conv_bn`.
        kernel_sizes: Kernel sizes of that convolution: one list for every stage, such as
            (3, 5), or a list of three, one a stage. The default is the paper's: (3, 5, 7),
            (3, 5) and (3, 3) for Multiception and callables, (3, 5, 7) for both MixConvs, and 3
            for the rest.
        filters: Even integer, the width of the first stage, doubled in each further one: the 96
            of 2x96d.
        unused_shortcuts: Boolean, whether blocks that keep their shape hold, as in the released
            code, the weights of a shortcut besides, which nothing uses and no gradient reaches:
            for the exact parameter counts of the paper's Table V and whole checkpoints.

    Input shape:
        `(batch, height, width, channels)`, normalized by `km.preprocessing.preprocess_input`.

    Output shape:
        `(batch, classes)`; with `include_top=False`, `(batch, height / 4, width / 4,
        4 * filters)`, rounded up, or `(batch, 4 * filters)` with `pooling`.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = km.ShakeShake26(classes=100, filters=32)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    Reference:
        Gastaldi: Shake-Shake regularization (2017), with the convolutions and kernel sizes of
        Section III of the Multiception paper.
    """
    filters = standardize_integer(filters, "filters")
    if filters % 2:
        raise ValueError(f"`filters` must be even. Received: filters={filters!r}")
    stages = list(enumerate(stage_kernel_sizes(conv, kernel_sizes), start=1))

    def features(x):
        x = conv2d(x, STEM_FILTERS, 3, fan="fan_out", use_bias=True, name="stem_conv")
        for stage, sizes in stages:
            for block in range(1, BLOCKS + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                width = filters * 2 ** (stage - 1)
                name = f"stage{stage}_block{block}"
                x = _block(x, width, strides, conv, sizes, unused_shortcuts, name)
        return relu(x, "head_relu")

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
    )


def _block(x, filters, strides, conv, kernel_sizes, unused_shortcuts, name):
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
    elif unused_shortcuts:
        x = UnusedShortcut(filters, name=f"{name}_unused_shortcut")(x)
    shaken = ShakeShake(name=f"{name}_shake")(branches)
    return layers.Add(name=f"{name}_out")([shaken, x])


def _shortcut(x, filters, strides, name):
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
