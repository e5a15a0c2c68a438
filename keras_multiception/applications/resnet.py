"""The CIFAR ResNets of the paper: three stages of basic blocks, 6n + 2 layers deep."""

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import basic_block, batch_norm, conv2d, relu

STAGE_FILTERS = (16, 32, 64)


def ResNet20(
    include_top=True,
    weights=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="resnet20",
    conv="multiception",
    kernel_sizes=None,
):
    """ResNet-20 for CIFAR-sized images: 6n + 2 layers with n = 3 basic blocks a stage."""
    return _resnet(3, **locals())


def ResNet32(
    include_top=True,
    weights=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="resnet32",
    conv="multiception",
    kernel_sizes=None,
):
    """ResNet-32 for CIFAR-sized images: 6n + 2 layers with n = 5 basic blocks a stage."""
    return _resnet(5, **locals())


def ResNet50(
    include_top=True,
    weights=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="resnet50",
    conv="multiception",
    kernel_sizes=None,
):
    """ResNet-50 of the paper: the 6n + 2 CIFAR network (n = 8), not ImageNet's bottleneck one."""
    return _resnet(8, **locals())


def ResNet56(
    include_top=True,
    weights=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="resnet56",
    conv="multiception",
    kernel_sizes=None,
):
    """ResNet-56 for CIFAR-sized images: 6n + 2 layers with n = 9 basic blocks a stage."""
    return _resnet(9, **locals())


def ResNet110(
    include_top=True,
    weights=None,
    input_shape=None,
    pooling=None,
    classes=10,
    classifier_activation="softmax",
    name="resnet110",
    conv="multiception",
    kernel_sizes=None,
):
    """ResNet-110 for CIFAR-sized images: 6n + 2 layers with n = 18 basic blocks a stage."""
    return _resnet(18, **locals())


def _resnet(blocks, conv, kernel_sizes, **arguments):
    stages = zip(STAGE_FILTERS, stage_kernel_sizes(conv, kernel_sizes), strict=True)

    def features(x):
        x = conv2d(x, STAGE_FILTERS[0], 3, name="stem_conv")
        x = relu(batch_norm(x, "stem_bn"), "stem_relu")
        for stage, (filters, sizes) in enumerate(stages, start=1):
            for block in range(1, blocks + 1):
                strides = 2 if stage > 1 and block == 1 else 1
                x = basic_block(x, filters, strides, conv, sizes, f"stage{stage}_block{block}")
        return x

    return build_classifier(features, **arguments)


_ARGUMENTS = """

    Args:
        include_top: Boolean, whether the network ends in global average pooling and a dense
            layer of `classes` units.
        weights: `None` for random initialisation, or the path of a `.weights.h5` file that
            `model.save_weights` wrote for the same architecture.
        input_shape: Tuple (height, width, channels), channels last. The default is (32, 32, 3),
            or (None, None, 3) with `include_top=False`. Any size works.
        pooling: With `include_top=False`: `None` for the last feature maps, `"avg"` or `"max"`
            for their global pooling.
        classes: Integer, number of classes, with `include_top=True`.
        classifier_activation: Activation of the dense layer; `None` for logits.
        name: String, the name of the model.
        conv: Type of each block's first convolution: `"standard"`, `"dsconv"`, `"mixconv"`,
            `"mixconv_depthwise"`, `"multiception"` or a callable, as in `km.conv_bn`.
        kernel_sizes: Kernel sizes of that convolution: one list for every stage, such as
            (3, 5), or a list of three, one a stage. The default is the paper's: (3, 5, 7),
            (3, 5) and (3, 3) for Multiception, (3, 5, 7) for both MixConvs, and 3 for the rest.

    Input shape:
        `(batch, height, width, channels)`, normalised by `km.preprocessing.preprocess_input`.

    Output shape:
        `(batch, classes)`; with `include_top=False`, `(batch, height / 4, width / 4, 64)`,
        rounded up, or `(batch, 64)` with `pooling`.

    Returns:
        A Functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = km.ResNet20(classes=10, conv="multiception")
        >>> model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])

    Reference:
        He et al., Deep Residual Learning for Image Recognition (CVPR 2016), Section 4.2; with
        the convolutions and kernel sizes of Section III of the Multiception paper.
    """
for _factory in (ResNet20, ResNet32, ResNet50, ResNet56, ResNet110):
    if _factory.__doc__:  # absent under python -OO
        _factory.__doc__ += _ARGUMENTS
