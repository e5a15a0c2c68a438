"""What every backbone shares: its input, its top, its weights and its kernel sizes by stage."""

import os
import pathlib

import keras
from keras import layers

from keras_multiception.applications import pretrained
from keras_multiception.blocks import require_conv
from keras_multiception.layers.arguments import standardize_kernel_sizes
from keras_multiception.layers.initializers import uniform_bias
from keras_multiception.primitives import CHANNELS_LAST

PAPER_KERNEL_SIZES = ((3, 5, 7), (3, 5), (3, 3))


def build_classifier(
    features,
    include_top,
    weights,
    input_shape,
    pooling,
    classes,
    classifier_activation,
    name,
    dropout=None,
):
    """Build a Functional model from the function of its feature maps.

    Args:
        features: Function from the input tensor to the last feature maps.
        include_top: Boolean, whether to add global average pooling and a dense layer.
        weights: `None`, the name of a data set that weights ship for, or the path of a weights
            file to load.
        input_shape: `None`, or tuple (height, width, channels).
        pooling: `None`, `"avg"` or `"max"`, with `include_top=False`.
        classes: Integer, number of units of the dense layer.
        classifier_activation: Its activation.
        name: String, the name of the model.
        dropout: `None`, or the rate of dropout in front of the dense layer.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    _check_arguments(include_top, weights, input_shape, pooling, classes)
    if input_shape is None:
        input_shape = (32, 32, 3) if include_top else (None, None, 3)
    inputs = keras.Input(tuple(input_shape), name="image")
    x = features(inputs)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool", **CHANNELS_LAST)(x)
        if dropout is not None:
            x = layers.Dropout(dropout, name="dropout")(x)
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=uniform_bias(x.shape[-1]),
            bias_initializer=uniform_bias(x.shape[-1]),
            # logits and probabilities stay float32 under mixed precision
            dtype=keras.DTypePolicy("float32")
            if keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
            else None,
            name="predictions",
        )(x)
    elif pooling:
        pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[pooling]
        x = pool(name=f"{pooling}_pool", **CHANNELS_LAST)(x)
    model = keras.Model(inputs, x, name=name)
    if weights in pretrained.datasets():
        pretrained.load(model, weights, include_top)
    elif weights is not None:
        model.load_weights(weights)
    return model


def stage_kernel_sizes(conv, kernel_sizes, stages=3):
    """Return the kernel sizes of each stage: the user's, or the paper's for the convolution type.

    Args:
        conv: Type of convolution, as in `km.conv_bn`.
        kernel_sizes: `None`, one list of kernel sizes for every stage, or one list for each.
        stages: Integer, the number of stages.

    Returns:
        A tuple with an entry for each stage, each fit for `km.conv_bn`.

    Raises:
        ValueError: If `conv` is unknown or `kernel_sizes` has another form.
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


def _check_arguments(include_top, weights, input_shape, pooling, classes):
    if include_top and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 1):
        raise ValueError(f"`classes` must be a positive integer. Received: classes={classes!r}")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'`pooling` must be None, "avg" or "max". Received: pooling={pooling!r}')
    is_shape = hasattr(input_shape, "__len__") and len(input_shape) == 3
    if input_shape is not None and not (is_shape and input_shape[-1]):
        raise ValueError(
            "`input_shape` must be (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        )
    shipped = pretrained.datasets()
    is_path = isinstance(weights, str | os.PathLike)
    if weights not in (None, *shipped) and not (is_path and pathlib.Path(weights).is_file()):
        raise ValueError(
            "`weights` must be None or the path of a weights file that exists"
            f"{''.join(f', or {name!r}' for name in shipped)}. Received: weights={weights!r}"
        )
