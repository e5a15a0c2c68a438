"""`km.fuse`: the same answers from fewer and simpler layers."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_multiception.fusion.folding import fold, separable_pairs
from keras_multiception.fusion.operations import FORMS, Convolution, to_form, why_not_form
from keras_multiception.fusion.reading import Network, read_network
from keras_multiception.fusion.report import FusionReport
from keras_multiception.fusion.writing import write_convolution, write_network
from keras_multiception.graphs.equality import (
    linear_outputs,
    require_equal_answers,
    sample_inputs,
)
from keras_multiception.graphs.reading import require_graph
from keras_multiception.inference import inference_function
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.machine import time_in_turns

_ROUNDS, _SECONDS = 15, 0.01  # of a measurement, and of each call in a round
_MARGIN = 0.97  # another form must take less than this share of the time of the first


def fuse(
    model: keras.Model,
    form: str = "separate",
    batch_size: int = 1,
    inputs: Any = None,
    tolerance: float | None = None,
    verbose: bool = True,
) -> keras.Model:
    """Return a network for inference that answers like the model and has no batch norms.

    - *Folded*: batch norms, into the convolution or dense layer before, through additions,
      concatenations, crops and average pooling too, or else into all that read them, where these
      do not pad. One that no neighbor can take in exactly, such as between a ReLU and an addition,
      becomes a scale and shift of each channel and is listed with the reason.
    - *Moved*: the stride of a 1x1 convolution into the depthwise convolutions before it; the bias
      of a depthwise convolution into the 1x1 convolution after it.
    - *Opened*: nested models (but those that are called more than once), `MulticeptionConv2D`,
      `MixConv2D` and `SeparableConv2D`; the convolution that makes their output has their name.
    - *Removed*: dropout and noise; Shake-Shake becomes an addition.
    - *Kept*: all other layers with their names, weights and dtype policies, and which calls share
      a layer. Regularizers, constraints and what `compile` set are dropped.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        form: How a depthwise convolution and the 1x1 convolution after it, such as a Multiception,
            are computed, all exact: `"separate"`, a depthwise convolution for each kernel size;
            `"merged"`, one for all sizes, the smaller kernels padded with zeros; `"dense"`, both
            composed into one full convolution; `"auto"`, for each layer the fastest measured here.
        batch_size: Integer, the number of images that `form="auto"` measures with.
        inputs: Inputs of the model, for the comparison and the sizes of `form="auto"`. The default
            is two random ones; 64 along each open axis. A model that takes strings needs them.
        tolerance: Float, how far the outputs may differ from the model's, relative to the largest.
            The default is 1e-5, or five times what rounding alone does to them, if that is more.
        verbose: Boolean, whether to print the report.

    Returns:
        A new, uncompiled Functional model, with the attribute `fusion_report`, a `FusionReport`.

    Raises:
        ValueError: If the model has no graph, a layer cannot be rebuilt from its config, or an
            argument is out of its range.
        RuntimeError: If the new model answers otherwise, or the model's answers are not finite.
    """
    require_graph(model)
    if form not in (*FORMS, "auto"):
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, auto. Received: form={form!r}")
    batch_size = standardize_integer(batch_size, "batch_size")
    inputs = sample_inputs(model, inputs)
    report = FusionReport()
    fused = _fuse(model, [x.shape for x in tree.flatten(inputs)], form, batch_size, report)
    answers = linear_outputs(fused, inputs)
    report.difference = require_equal_answers(model, answers, inputs, tolerance)
    if verbose:
        print(f"Fused the model {model.name!r}: {report}")
    fused.fusion_report = report
    return fused


def _fuse(
    model: keras.Model, shapes: list, form: str, batch_size: int, report: FusionReport
) -> keras.Model:
    network, names = read_network(model, shapes, report)
    fold(network, report)
    _choose_forms(network, form, batch_size, report)
    return write_network(
        network,
        model,
        names,
        lambda nested, shapes: _fuse(nested, shapes, form, batch_size, report),
    )


def _choose_forms(network: Network, form: str, batch_size: int, report: FusionReport) -> None:
    """Rewrite each depthwise convolution and the 1x1 convolution after it."""
    forms = {}
    if form == "auto":
        measurements = measure_forms(network, batch_size)
        report.measurements += measurements
        for row in measurements:
            forms.update(dict.fromkeys(row["layers"], row["form"]))
    for depthwise, pointwise in separable_pairs(network):
        chosen = forms.get(pointwise.name, form)
        reason = why_not_form(chosen, depthwise, pointwise)
        if reason is not None:
            report.kept_forms[pointwise.name] = reason
            chosen = FORMS[0]
        report.forms[pointwise.name] = chosen
        *first, last = to_form(chosen, depthwise, pointwise)
        if first:
            network.replace_op(depthwise, first[0])
        else:
            for step in network.calls(depthwise):
                network.remove(step)
        network.replace_op(pointwise, last)


def measure_forms(network: Network, batch_size: int) -> list[dict]:
    """Time the forms of each depthwise and 1x1 convolution, equal ones once.

    The forms of a pair take turns, each as a `km.inference_function`; the times are medians.

    Returns:
        Dictionaries of `layers`, the names of the 1x1 convolutions; `input_shape`, of one image;
        `batch_size`; `milliseconds`, a dictionary from forms to times; and `form`, the fastest,
        or the first unless another one is clearly faster.
    """
    rows: dict = {}
    for depthwise, pointwise in separable_pairs(network):
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


def _fastest(milliseconds: dict[str, float]) -> str:
    form = min(milliseconds, key=lambda form: milliseconds[form])
    return form if milliseconds[form] < _MARGIN * milliseconds[FORMS[0]] else FORMS[0]


def _time_forms(
    depthwise: Convolution, pointwise: Convolution, shape: tuple[int, ...]
) -> dict[str, float]:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
    calls = {}
    for form in FORMS:
        if why_not_form(form, depthwise, pointwise) is None:
            inputs = y = keras.Input(batch_shape=shape)
            for operation in to_form(form, depthwise, pointwise):
                y = write_convolution(operation)(y)
            run = inference_function(keras.Model(inputs, y))
            calls[form] = functools.partial(_finish, run, x)
            calls[form]()  # compiles
    times = time_in_turns(calls, _ROUNDS, _SECONDS)
    return {form: 1000 * statistics.median(values) for form, values in times.items()}


def _finish(run: Callable[[Any], Any], x: Any) -> np.ndarray:
    """Call a function and wait for its answer, which some backends give before it is computed."""
    return keras.ops.convert_to_numpy(run(x))
