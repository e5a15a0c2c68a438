"""The CIFAR ResNets of the paper and their squeeze-and-excitation form, 6n + 2 layers deep."""

import os
from typing import Any

import keras

from keras_multiception.applications.classifier import build_classifier, stage_kernel_sizes
from keras_multiception.blocks import Conv, basic_block, batch_norm, conv2d, relu
from keras_multiception.layers.arguments import KernelSizes, Tensor, standardize_integer


# the type of the result is inferred, so that editors show the arguments of `build`
def _factory(title: str, blocks: int, se_ratio: float | None = None):  # type: ignore[no-untyped-def]
    default_name = title.lower()

    def build(
        include_top: bool = True,
        weights: str | os.PathLike | None = None,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = 10,
        classifier_activation: Any = "softmax",
        name: str = default_name,
        conv: Conv = "multiception",
        kernel_sizes: KernelSizes | None = None,
        se_ratio: float | None = se_ratio,
        filters: int = 16,
    ) -> keras.Model:
        """A ResNet of the paper for CIFAR-sized images: three stages of n blocks, 6n + 2 layers.

        The paper's "ResNet-50" is this network with n = 8 and 0.76 million parameters, not
        ImageNet's bottleneck ResNet-50. `SEResNet*` have squeeze-and-excitation in every block.

        Args:
            include_top, weights, input_tensor, input_shape, pooling, classes,
                classifier_activation, name, conv, kernel_sizes: As in `km.create_model`; `conv`
                is the first convolution of each block.
            se_ratio: `None`, or a float for squeeze-and-excitation in every block: the hidden
                units for each channel. The paper's SENet-56 has 1/8.
            filters: Integer, width of the first stage, doubled in each further one.

        Returns:
            A Functional `keras.Model` with output shape `(batch, classes)`; with
            `include_top=False`, `(batch, height / 4, width / 4, 4 * filters)`, rounded up.

        Example:
            >>> model = km.ResNet20(classes=100, conv="dsconv")

        Reference:
            He et al., Deep Residual Learning for Image Recognition (CVPR 2016), Section 4.2;
            Hu et al., Squeeze-and-Excitation Networks (CVPR 2018).
        """
        width = standardize_integer(filters, "filters")
        sizes = stage_kernel_sizes(conv, kernel_sizes)
        return build_classifier(
            lambda x: _features(x, width, blocks, conv, sizes, se_ratio),
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
        )

    build.__name__ = build.__qualname__ = title
    return build


def _features(
    x: Tensor, filters: int, blocks: int, conv: Conv, kernel_sizes: tuple, se_ratio: float | None
) -> Tensor:
    if se_ratio is not None and not 0 < se_ratio <= 1:
        raise ValueError(f"`se_ratio` must be None or in (0, 1]. Received: se_ratio={se_ratio!r}")
    x = conv2d(x, filters, 3, name="stem_conv")
    x = relu(batch_norm(x, "stem_bn"), "stem_relu")
    for stage, sizes in enumerate(kernel_sizes, start=1):
        width = filters * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = basic_block(x, width, strides, conv, sizes, name, se_ratio)
    return x


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
