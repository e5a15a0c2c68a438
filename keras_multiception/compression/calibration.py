"""The ranges of activations, found before quantization-aware training begins."""

import numpy as np

_ENDS = ("_min", "_max")
STEP = 0.001  # by how much of the difference the toolkit moves a range with each batch


def calibrate_ranges(model, batches):
    """Set the ranges of a model of `quantize_model` to what its activations take.

    The toolkit starts every range at -6..6 and moves it by a thousandth of the difference with each
    step of training, so that a short training ends before they are right. Here the network runs on
    some batches: each sets the ranges anew, with those in front better than the time before; the
    mean over the second half of them stays. Beside ranges nothing of the model changes.

    Args:
        model: A `tf_keras.Model` of `quantize_model`, which is changed in place.
        batches: Iterable of inputs, float32, of the model's shape; some twenty are enough.

    Raises:
        ValueError: If `model` has no ranges to set, or there are fewer than two batches.

    Example:
        >>> aware = quantize_model(model)
        >>> calibrate_ranges(aware, np.split(images[:640], 20))
    """
    averaged, extreme = _ranges(model)
    batches = list(batches)
    if not averaged:
        raise ValueError(f"`model` must be one of `quantize_model`. Received: model={model!r}")
    if len(batches) < 2:
        raise ValueError(f"`batches` must be at least two. Received: {len(batches)} batches")
    others = [variable for variable in model.variables if not _name(variable).endswith(_ENDS)]
    before = [variable.numpy() for variable in others]
    for variable in extreme:
        variable.assign(np.zeros_like(variable.numpy()))
    found = []
    for batch in batches:
        old = [variable.numpy() for variable in averaged]
        model(batch, training=True)
        new = [variable.numpy() for variable in averaged]
        found.append([a + (b - a) / STEP for a, b in zip(old, new, strict=True)])
        for variable, value in zip(averaged, found[-1], strict=True):
            variable.assign(value)
        for variable, value in zip(others, before, strict=True):
            variable.assign(value)
    for variable, *values in zip(averaged, *found[len(found) // 2 :], strict=True):
        variable.assign(np.mean(values, axis=0))


def _ranges(model):
    """Return the variables of ranges: moving averages, and the extremes of the inputs."""
    averaged: list = []
    extreme: list = []
    for layer in model.layers:
        for variable in layer.non_trainable_variables:
            name = _name(variable)
            if not name.endswith(_ENDS) or "kernel" in name:  # kernels' ranges are always theirs
                continue
            of_input = type(layer).__name__ == "QuantizeLayer"
            (extreme if of_input else averaged).append(variable)
    return averaged, extreme


def _name(variable):
    return variable.name.split(":")[0].rsplit("/", 1)[-1]
