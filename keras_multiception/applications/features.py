"""The feature maps of a backbone by stage, for detection and segmentation."""

import collections.abc
import re

import keras

from keras_multiception.graphs.reading import graph_of


def feature_extractor(model, stages=None):
    """Return a model of the feature maps at the end of each stage of a network.

    The new model shares its layers, and so their weights, with `model`; the classifier is left
    out, and so is everything behind the last of the stages.

    The stages of the ResNets are `"stem"`, `"stage1"`, `"stage2"` and `"stage3"`; Shake-Shake has
    a `"head"` besides (its last ReLU: its blocks end without one), and MobileNetV2 `"stage1"` to
    `"stage7"`, the rows of its table, and a `"head"` (the last 1x1 convolution).

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
    if graph_of(model) is None:
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one. "
            f"Received: model={model!r}"
        )
    # the layers of a Functional model are sorted by depth: the last of a stage is its output
    names = {layer.name: re.match(r"(stem|stage\d+|head)_", layer.name) for layer in model.layers}
    ends = {match[1]: name for name, match in names.items() if match}
    if stages is None:
        stages = list(ends)
    elif isinstance(stages, collections.abc.Iterable) and not isinstance(stages, str):
        stages = list(stages)
    known = isinstance(stages, list) and all(isinstance(x, str) and x in ends for x in stages)
    if not known or not stages:
        raise ValueError(
            f"`stages` must list some of the stages of the model {model.name!r}: "
            f"{', '.join(ends) or 'it has none'}. Received: stages={stages!r}"
        )
    outputs = {stage: model.get_layer(ends[stage]).output for stage in stages}
    return keras.Model(model.input, outputs, name=f"{model.name}_features")
