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
        ValueError: If `model` has no ranges to set, there are fewer than two batches, or one of
            them does not fit the model or has NaN or infinite values. The model is then unchanged.

    Example:
        >>> aware = quantize_model(model)
        >>> calibrate_ranges(aware, np.split(images[:640], 20))
    """
    averaged, extreme = _ranges(model)
    if not averaged:
        raise ValueError(f"`model` must be one of `quantize_model`. Received: model={model!r}")
    batches = _checked(model, batches)
    before = [variable.numpy() for variable in model.variables]
    try:
        _set_ranges(model, averaged, extreme, batches)
    except BaseException:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        raise


def _checked(model, batches):
    """Return the batches as a list: at least two, float32, finite and of the model's shape."""
    import tensorflow as tf

    try:
        batches = list(batches)
    except TypeError:
        batches = [batches]
    shapes = [tuple(x.shape) for x in model.inputs]
    for batch in batches:
        arrays = tf.nest.flatten(batch)
        if isinstance(batch, dict) and set(batch) == set(model.input_names):
            arrays = [batch[name] for name in model.input_names]
        received = None
        if len(arrays) != len(shapes):
            received = f"{len(arrays)} arrays in one of them"
        elif not all(map(_fits, arrays, shapes)):
            received = ", ".join(map(_described, arrays))
        elif not all(np.isfinite(array).all() for array in arrays):
            received = "NaN or infinite values"
        if received:
            raise ValueError(
                "`batches` must be an iterable of the model's inputs, float32 and finite, of shape "
                f"{', '.join(map(str, shapes))}. Received: {received}"
            )
    if len(batches) < 2:
        raise ValueError(f"`batches` must be at least two. Received: {len(batches)} batches")
    return batches


def _fits(array, shape):
    own, dtype = _shape_and_dtype(array)
    return (
        dtype == "float32"
        and len(own) == len(shape)
        and own[0] > 0
        and all(expected in (None, size) for size, expected in zip(own, shape, strict=True))
    )


def _described(array):
    shape, dtype = _shape_and_dtype(array)
    return f"{type(array).__name__} of shape {shape} and dtype {dtype}"


def _shape_and_dtype(array):
    dtype = getattr(array, "dtype", None)
    return tuple(getattr(array, "shape", ())), getattr(dtype, "name", str(dtype))


def _set_ranges(model, averaged, extreme, batches):
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
    for layer in getattr(model, "layers", ()):
        for variable in layer.non_trainable_variables:
            name = _name(variable)
            if not name.endswith(_ENDS) or "kernel" in name:  # kernels' ranges are always theirs
                continue
            of_input = type(layer).__name__ == "QuantizeLayer"
            (extreme if of_input else averaged).append(variable)
    return averaged, extreme


def _name(variable):
    return variable.name.split(":")[0].rsplit("/", 1)[-1]
