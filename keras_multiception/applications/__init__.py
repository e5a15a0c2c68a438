"""The networks of the paper as Functional Keras models."""

import collections.abc
import re
from typing import Any

import keras

from keras_multiception.applications.mobilenet_v2 import MobileNetV2
from keras_multiception.applications.resnet import (
    ResNet20,
    ResNet32,
    ResNet50,
    ResNet56,
    ResNet110,
    SEResNet20,
    SEResNet32,
    SEResNet50,
    SEResNet56,
    SEResNet110,
)
from keras_multiception.applications.shake_shake import ShakeShake26
from keras_multiception.graphs import require_graph

_MODELS: dict[str, collections.abc.Callable[..., keras.Model]] = {
    "resnet20": ResNet20,
    "resnet32": ResNet32,
    "resnet50": ResNet50,
    "resnet56": ResNet56,
    "resnet110": ResNet110,
    "seresnet20": SEResNet20,
    "seresnet32": SEResNet32,
    "seresnet50": SEResNet50,
    "seresnet56": SEResNet56,
    "seresnet110": SEResNet110,
    "shakeshake26": ShakeShake26,
    "mobilenetv2": MobileNetV2,
}


def create_model(name: str, /, **kwargs: Any) -> keras.Model:
    """Build a network by its name.

    Args:
        name: String, one of `km.list_models()`, the first argument. The rest goes to the factory
            of that name, such as `km.ResNet20`. Every factory takes:
        include_top: Boolean, whether the network ends in global average pooling and a dense
            layer of `classes` units. `True` by default.
        weights: `None` (the default) for random initialization, `"cifar10"` for the weights that
            come with the package (ResNet-20), or the path of a `.weights.h5` file that
            `model.save_weights` wrote for the same architecture.
        input_tensor: Keras tensor of images for the network to begin with, such as the output of
            `keras.Input` or of a layer after it; by default the network makes its own input.
        input_shape: Tuple (height, width, channels), channels last; any size works. The default
            is (32, 32, 3), for MobileNetV2 (96, 96, 3), and (None, None, 3) without top.
        pooling: With `include_top=False`: `None` for the last feature maps, `"avg"` or `"max"`
            for their global pooling.
        classes: Integer, number of classes, with `include_top=True`. 10 by default.
        classifier_activation: Activation of the dense layer, `"softmax"` by default; `None` for
            logits.
        name: As a keyword: string, the name of the model.
        conv: Type of the replaceable convolutions: `"standard"`, `"dsconv"`, `"mixconv"`,
            `"mixconv_depthwise"`, `"multiception"` (the default) or a callable; see `km.conv_bn`.
        kernel_sizes: Kernel sizes of these convolutions: one list for every stage, such as
            (3, 5), or one list for each. The default is the paper's: (3, 5, 7), (3, 5) and (3, 3)
            by stage for Multiception and callables, (3, 5, 7) for both MixConvs, 3 for the rest.

    Returns:
        A Functional `keras.Model` of images normalized by `km.preprocessing.preprocess_input`.

    Raises:
        ValueError: If the name is unknown, or an argument out of its range.

    Example:
        >>> model = km.create_model("resnet20", classes=100, conv="dsconv")
    """
    if name not in tuple(_MODELS):
        raise ValueError(f"`name` must be one of {', '.join(_MODELS)}. Received: name={name!r}")
    return _MODELS[name](**kwargs)


def list_models() -> list[str]:
    """Return the names that `km.create_model` takes.

    Example:
        >>> km.list_models()[:2]
        ['resnet20', 'resnet32']
    """
    return list(_MODELS)


def feature_extractor(
    model: keras.Model, stages: collections.abc.Iterable[str] | None = None
) -> keras.Model:
    """Return a model of the feature maps at the end of each stage, for detection or segmentation.

    The new model shares its layers, and so their weights, with `model`; it leaves out the
    classifier and everything else after the last of the stages.

    The stages of the ResNets are `"stem"`, `"stage1"`, `"stage2"` and `"stage3"`; Shake-Shake
    also has a `"head"`, its last ReLU; MobileNetV2 has `"stage1"` to `"stage7"` and a `"head"`.

    Args:
        model: A `keras.Model` made by `km.create_model` or its factories, such as one with
            `include_top=False` for images of any size.
        stages: Iterable of names of stages; `None` for all of them.

    Returns:
        A Functional `keras.Model` whose output is a dictionary of feature maps by stage.

    Raises:
        ValueError: If a stage is unknown, or the model has none or no graph.

    Example:
        >>> backbone = km.create_model("resnet20", include_top=False)
        >>> features = km.feature_extractor(backbone, ["stage2", "stage3"])
        >>> {stage: x.shape for stage, x in features.output.items()}
        {'stage2': (None, None, None, 32), 'stage3': (None, None, None, 64)}
    """
    require_graph(model)
    # the layers of a Functional model are sorted by depth: the last of a stage is its output
    names = {layer.name: re.match(r"(stem|stage\d+|head)_", layer.name) for layer in model.layers}
    ends = {match[1]: name for name, match in names.items() if match}
    if stages is None:
        stages = ends
    chosen = list(stages) if isinstance(stages, collections.abc.Iterable) else [stages]
    if not chosen or not all(stage in tuple(ends) for stage in chosen):
        raise ValueError(
            f"`stages` must list some of the stages of the model {model.name!r}: "
            f"{', '.join(ends) or 'it has none'}. Received: stages={stages!r}"
        )
    outputs = {stage: model.get_layer(ends[stage]).output for stage in chosen}
    return keras.Model(model.input, outputs, name=f"{model.name}_features")
