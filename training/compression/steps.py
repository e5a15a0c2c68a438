"""The steps of a compression that train: what each makes of a network, and how it is trained."""

import dataclasses

import keras

import keras_multiception as km
from keras_multiception import compression
from keras_multiception.graphs.equality import sample_inputs
from training.compression.recipes import BLOCKS, split_step

INPUT, OUTPUT = "image", "probabilities"
_PRUNING_ENDS = 0.6  # of the steps; the rest lets the network recover


def with_pixels(model, facts):
    """Put the normalization of a data set in front of a network.

    Args:
        model: A `keras.Model` that takes normalized images and gives class probabilities.
        facts: A `keras_multiception.preprocessing.Dataset`.

    Returns:
        A `keras.Model` from `image`, pixels 0 to 255, to `probabilities`.
    """
    image = keras.Input(model.input_shape[1:], name=INPUT)
    scale = [1 / (255 * std) for std in facts.std]
    offset = [-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)]
    x = keras.layers.Rescaling(scale, offset, name="normalize")(image)
    return keras.Model(image, model(x), name=model.name)


def of_pixels(facts):
    """Return the facts of a data set for a network that normalizes by itself."""
    channels = len(facts.mean)
    return dataclasses.replace(facts, mean=(0.0,) * channels, std=(1 / 255,) * channels)


def in_float32(model):
    """Return a network of another precision as one that computes in float32."""
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model

    def convert(layer):
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy


def is_legacy(model):
    """Return whether a model is one of Keras 2."""
    return not isinstance(model, keras.Model)


def as_legacy(model, facts):
    """Return a network as one of Keras 2 that takes pixels, unless it is one."""
    if is_legacy(model):
        return model
    model = with_pixels(model, facts)
    pixels = 255 * (sample_inputs(model, None) % 1)
    return compression.to_tf_keras(model, pixels)


def prepare(step, model, before, facts, total_steps):
    """Make a network ready to be trained by a step.

    Args:
        step: Name of a step that trains, as in `Compression`.
        model: What the step before made: a `keras.Model`, or a `tf_keras.Model` of pixels.
        before: Names of the steps before.
        facts: A `keras_multiception.preprocessing.Dataset`.
        total_steps: Integer, how many steps it will be trained.

    Returns:
        The network to train, the callbacks it needs, and a function that makes the result of it.
    """
    kind, number = split_step(step)
    if kind == "tune":
        return model, [], lambda trained: trained
    if kind == "branches":
        smaller = compression.prune_branches(model, threshold=number / 100, verbose=False)
        return smaller, [], lambda trained: trained
    legacy = as_legacy(model, facts)
    if kind in (BLOCKS, "prune", "prunedw"):
        blocks, sparsity = ("2:4", 0.5) if kind == BLOCKS else (None, number / 100)
        wrapped = compression.prune_model(
            legacy,
            sparsity,
            end_step=max(1, round(_PRUNING_ENDS * total_steps)),
            frequency=max(1, total_steps // 50),
            blocks=blocks,
            depthwise=kind == "prunedw",
        )
        return wrapped, [compression.pruning_callback()], compression.strip_pruning
    pruned = any(split_step(name)[0].startswith("prune") for name in before)
    if kind == "cluster":
        wrapped = compression.cluster_model(legacy, number, preserve_sparsity=pruned)
        return wrapped, [], compression.strip_clustering
    clustered = any(split_step(name)[0] == "cluster" for name in before)
    preserve = (*(["sparsity"] if pruned else []), *(["clusters"] if clustered else []))
    return compression.quantize_model(legacy, preserve=preserve), [], lambda trained: trained


def fused(model):
    """Return a network with its batch norms folded."""
    return km.fuse(model, verbose=False)
