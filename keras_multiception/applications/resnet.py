"""The CIFAR ResNets of the paper and their squeeze-and-excitation form, 6n + 2 layers deep."""

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import basic_block
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.primitives import batch_norm, conv2d, relu

FILTERS = 16


def _factory(title, blocks, se_ratio=None):
    """Return the function that builds one depth of the network, named and documented."""
    default_name = title.lower()

    def build(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=10,
        classifier_activation="softmax",
        name=default_name,
        conv="multiception",
        kernel_sizes=None,
        se_ratio=se_ratio,
        filters=FILTERS,
    ):
        if se_ratio is not None and not 0 < se_ratio <= 1:
            raise ValueError(
                f"`se_ratio` must be None or in (0, 1]. Received: se_ratio={se_ratio!r}"
            )
        width = standardize_integer(filters, "filters")
        sizes = stage_kernel_sizes(conv, kernel_sizes)
        return build_classifier(
            lambda x: _features(x, width, blocks, conv, sizes, se_ratio),
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name,
        )

    build.__name__ = build.__qualname__ = title
    build.__doc__ = _DOCSTRING.format(
        title=title,
        blocks=blocks,
        se=", squeeze-and-excitation" if se_ratio else "",
    )
    return build


def _features(x, filters, blocks, conv, kernel_sizes, se_ratio):
    x = conv2d(x, filters, 3, name="stem_conv")
    x = relu(batch_norm(x, "stem_bn"), "stem_relu")
    for stage, sizes in enumerate(kernel_sizes, start=1):
        width = filters * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = basic_block(x, width, strides, conv, sizes, name, se_ratio)
    return x


_DOCSTRING = """{title}, the paper's 6n + 2 network for CIFAR-sized images (n = {blocks}){se}.

    Three stages of n basic blocks. The paper's "ResNet-50" is this network with n = 8, of 0.76
    million parameters with standard convolutions; it is not ImageNet's bottleneck ResNet-50.

    Args:
        include_top: Boolean, whether the network ends in global average pooling and a dense
            layer of `classes` units.
        weights: `None` for random initialization, `"cifar10"` for the weights that come with the
            package, or the path of a `.weights.h5` file that `model.save_weights` wrote for the
            same architecture.
        input_tensor: Keras tensor of images for the network to begin with, such as what
            `keras.Input` or a layer behind it gives; the default is an input of its own.
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
            (3, 5) and (3, 3) for Multiception and callables, (3, 5, 7) for both MixConvs, and 3
            for the rest.
        se_ratio: `None`, or a float for squeeze-and-excitation in every block: the hidden units
            for each channel. The paper's SENet-56 has 1/8.
        filters: Integer, the filters of the first stage; the second has twice and the third
            four times as many.

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
        >>> model = km.{title}(classes=10, conv="multiception")
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    Reference:
        He et al., Deep Residual Learning for Image Recognition (CVPR 2016), Section 4.2; Hu et
        al., Squeeze-and-Excitation Networks (CVPR 2018); with the convolutions and kernel sizes
        of Section III of the Multiception paper.
    """

ResNet20 = _factory("ResNet20", blocks=3)
ResNet32 = _factory("ResNet32", blocks=5)
ResNet50 = _factory("ResNet50", blocks=8)
ResNet56 = _factory("ResNet56", blocks=9)
ResNet110 = _factory("ResNet110", blocks=18)
SEResNet20 = _factory("SEResNet20", blocks=3, se_ratio=1 / 8)
SEResNet32 = _factory("SEResNet32", blocks=5, se_ratio=1 / 8)
SEResNet50 = _factory("SEResNet50", blocks=8, se_ratio=1 / 8)
SEResNet56 = _factory("SEResNet56", blocks=9, se_ratio=1 / 8)
SEResNet110 = _factory("SEResNet110", blocks=18, se_ratio=1 / 8)
