"""The fastest form of each part of a network, measured on this machine."""

import contextlib
import logging
import statistics
import time

import keras
import numpy as np

from keras_multiception.fusion.folding import pairs
from keras_multiception.fusion.forms import FORMS, obstacle_to, to_form
from keras_multiception.fusion.writing import write_operation

ROUNDS, SECONDS = 15, 0.5  # what one measurement takes at least
MARGIN = 0.97  # another form must take less than this share of the time of the first


def measure_forms(network, batch_size):
    """Time the forms of each depthwise and 1x1 convolution, equal ones once.

    The forms of a pair take turns, compiled as in `predict_on_batch`, the call included; the
    times are medians.

    Args:
        network: A `Network`.
        batch_size: Integer, the number of images.

    Returns:
        A list of dictionaries: `layers`, the names of the 1x1 convolutions; `input_shape`, that
        of one image; `batch_size`; `milliseconds`, a dictionary from forms to times; and `form`,
        the fastest, or the first unless another one is clearly faster.
    """
    rows: dict = {}
    for depthwise, pointwise in pairs(network):
        (x, *_) = network.calls(depthwise)[0].inputs
        key = (
            tuple(x.shape[1:]),
            tuple((branch.start, branch.kernel.shape) for branch in depthwise.branches),
            depthwise.strides,
            depthwise.dilation,
            pointwise.branches[0].kernel.shape,
            depthwise.dtype.name,
        )
        if key not in rows:
            milliseconds = _time_forms(depthwise, pointwise, (batch_size, *x.shape[1:]))
            rows[key] = {
                "layers": [],
                "input_shape": list(x.shape[1:]),
                "batch_size": batch_size,
                "milliseconds": milliseconds,
                "form": _fastest(milliseconds),
            }
        rows[key]["layers"].append(pointwise.name)
    return list(rows.values())


def _fastest(milliseconds):
    form = min(milliseconds, key=milliseconds.get)
    return form if milliseconds[form] < MARGIN * milliseconds[FORMS[0]] else FORMS[0]


def _time_forms(depthwise, pointwise, shape):
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
    models = {}
    for form in FORMS:
        if obstacle_to(form, depthwise, pointwise) is None:
            inputs = y = keras.Input(batch_shape=shape)
            for operation in to_form(form, depthwise, pointwise):
                y = write_operation(operation)(y)
            models[form] = keras.Model(inputs, y)
    times: dict = {form: [] for form in models}
    with _without_tracing_warnings():
        for model in models.values():
            model.predict_on_batch(x)
        rounds, end = 0, time.perf_counter() + SECONDS
        while rounds < ROUNDS or time.perf_counter() < end:
            rounds += 1
            for form, model in models.items():
                start = time.perf_counter()
                model.predict_on_batch(x)
                times[form].append(time.perf_counter() - start)
    return {form: 1000 * statistics.median(values) for form, values in times.items()}


@contextlib.contextmanager
def _without_tracing_warnings():
    """Silence TensorFlow's warning that many functions of one name are traced."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
