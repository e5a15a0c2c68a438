"""`km.fuse`: the same answers from fewer and simpler layers."""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, tree

from keras_multiception.blocks import CHANNELS_LAST
from keras_multiception.fusion.folding import fold, separable_pairs
from keras_multiception.fusion.operations import (
    FORMS,
    LINEAR,
    Branch,
    Convolution,
    FusionReport,
    Scale,
    same_padding,
    to_form,
    why_not_form,
)
from keras_multiception.fusion.reading import Network, read_network
from keras_multiception.graphs import (
    copy_activation,
    copy_state,
    linear_outputs,
    rebuild_layer,
    require_equal_answers,
    require_graph,
    sample_inputs,
    unique_name,
)
from keras_multiception.inference import compile_model
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.machine import time_in_turns

_ROUNDS, _SECONDS = 15, 0.01  # of a measurement, and of each call in a round
_MARGIN = 0.97  # another form must take less than this share of the time of the first

_Function = Callable[[Any], Any]  # of a tensor


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
      concatenations, crops and average pooling too, or else into all that read them. One that no
      neighbor can take in becomes a scale and shift of each channel, listed with the reason.
    - *Moved*: the stride of a Multiception into its depthwise convolutions; the bias of a depthwise
      convolution into the 1x1 convolution after it.
    - *Opened*: nested models, `MulticeptionConv2D`, `MixConv2D` and `SeparableConv2D`; the
      convolution that makes their output has their name.
    - *Removed*: dropout and noise; Shake-Shake becomes an addition.
    - *Kept*: other layers with names, weights and dtype policies; what trains them is dropped.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`; it stays as it is.
        form: How a Multiception, or a depthwise and the 1x1 convolution after it, is computed:
            `"separate"`, a depthwise convolution for each kernel size; `"summed"`, the same, but
            the 1x1 convolution in parts that are added, the fastest in ONNX Runtime and OpenVINO;
            `"merged"`, one depthwise convolution for all sizes; `"dense"`, one full convolution;
            `"auto"`, for each the fastest measured here.
        batch_size: Integer, the number of images that `form="auto"` measures with.
        inputs: Inputs of the model, for the comparison and the sizes of `form="auto"`. The default
            is two random ones; 64 along each open axis.
        tolerance: Float, how far the outputs may differ from the model's, relative to the largest.
            The default is 1e-5, or five times what rounding alone does to them, if that is more.
        verbose: Boolean, whether to print the report.

    Returns:
        A new, uncompiled Functional model, whose `fusion_report` is a `FusionReport`.

    Raises:
        ValueError: If the model has no graph, a layer cannot be rebuilt, or an argument is wrong.
        RuntimeError: If the new model answers otherwise, or the model's answers are not finite.

    Example:
        >>> fused = km.fuse(km.ResNet20(weights="cifar10"))
        Fused the model 'resnet20': 30 batch norms folded, 0 left; ...
    """
    require_graph(model)
    if form not in (*FORMS, "auto"):
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, auto. Received: form={form!r}")
    batch_size = standardize_integer(batch_size, "batch_size")
    inputs, report = sample_inputs(model, inputs), FusionReport()
    network, names = read_network(model, [x.shape for x in tree.flatten(inputs)], report)
    fold(network, report)
    _choose_forms(network, form, batch_size, report)
    fused = _write_network(network, model, names)
    answers = linear_outputs(fused, inputs)
    report.difference = require_equal_answers(model, answers, inputs, tolerance)
    if verbose:
        print(f"Fused the model {model.name!r}: {report}")
    fused.fusion_report = report
    return fused


def _choose_forms(network: Network, form: str, batch_size: int, report: FusionReport) -> None:
    """Rewrite each depthwise convolution and the 1x1 convolution after it."""
    if form == "auto":
        report.measurements += measure_forms(network, batch_size)
    forms = {name: row["form"] for row in report.measurements for name in row["layers"]}
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
    """Return the `measurements` of a `FusionReport`: median times of each pair, equal ones once."""
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
            ms, form = min((ms, form) for form, ms in milliseconds.items())
            rows[key] = {
                "layers": [],
                "input_shape": list(x.shape[1:]),
                "batch_size": batch_size,
                "milliseconds": milliseconds,
                "form": form if ms < _MARGIN * milliseconds[FORMS[0]] else FORMS[0],
            }
        rows[key]["layers"].append(pointwise.name)
    return list(rows.values())


def _time_forms(
    depthwise: Convolution, pointwise: Convolution, shape: tuple[int, ...]
) -> dict[str, float]:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
    calls = {}
    for form in FORMS:
        if why_not_form(form, depthwise, pointwise) is None:
            inputs = y = keras.Input(batch_shape=shape)
            for operation in to_form(form, depthwise, pointwise):
                y = _write_convolution(operation)(y)
            run = compile_model(keras.Model(inputs, y))
            # an answer as an array: some backends give it before it is computed
            calls[form] = lambda run=run: keras.ops.convert_to_numpy(run(x))
            calls[form]()  # compiles
    times = time_in_turns(calls, _ROUNDS, _SECONDS)
    return {form: 1000 * statistics.median(values) for form, values in times.items()}


def _write_network(network: Network, model: keras.Model, names: dict[int, str]) -> keras.Model:
    """Build a Functional model of a network that was read from `model`, with `names`."""
    inputs = tree.map_structure(
        lambda x: rebuild_layer(x._keras_history.operation).output, require_graph(model).input
    )
    taken = {*names.values(), *(step.operation.name for step in network.steps)}
    unique = functools.partial(unique_name, taken=taken)
    tensors = dict(zip(map(id, network.inputs), tree.flatten(inputs), strict=True))
    written: dict[int, Any] = {}  # by the id of an operation, a function of tensors

    def tensor(x: Any) -> Any:
        return tensors.get(id(x), x)

    for step in network.steps:
        operation = step.operation
        args, kwargs = tree.map_structure(tensor, (step.args, step.kwargs))
        if id(operation) not in written:
            if isinstance(operation, Convolution):
                activation = copy_activation(operation.activation)
                own = dataclasses.replace(operation, activation=activation)
                written[id(operation)] = _write_convolution(own, unique)
            elif isinstance(operation, Scale):
                written[id(operation)] = _write_scale(operation)
            else:
                written[id(operation)] = rebuild_layer(operation)
                written[id(operation)].name = names[id(operation)]
        new = written[id(operation)]
        results = tree.flatten(new(*args, **kwargs))
        if isinstance(operation, layers.Layer):
            copy_state(operation, new)
        tensors.update(zip(map(id, tree.flatten(step.results)), results, strict=True))
    return keras.Model(inputs, tree.map_structure(tensor, network.outputs), name=model.name)


def _write_convolution(convolution: Convolution, unique: Callable[[str], str] = str) -> _Function:
    """Return a function of tensors that calls the layers of a convolution, always the same.

    `unique` makes the name of a layer one that no other has.
    """
    if convolution.depthwise is not None:
        branches, join = _write_sum(convolution, convolution.depthwise, unique), layers.Add
    else:
        branches, join = _write_branches(convolution, unique), layers.Concatenate
    if len(branches) == 1:
        return branches[0]
    name, shared = convolution.name, {"dtype": convolution.dtype}
    if convolution.activation is LINEAR:
        joined = join(name=name, **shared)
        return lambda x: joined([branch(x) for branch in branches])
    joined = join(name=unique(f"{name}_joined"), **shared)
    activation = layers.Activation(convolution.activation, name=name, **shared)
    return lambda x: activation(joined([branch(x) for branch in branches]))


def _write_sum(
    pointwise: Convolution, depthwise: Convolution, unique: Callable[[str], str]
) -> list[_Function]:
    """Return functions whose outputs add up to a 1x1 convolution of concatenated branches."""
    (mixing,) = pointwise.branches

    def mix(index: int, rows: np.ndarray) -> _Function:
        part = dataclasses.replace(
            pointwise,
            name=unique(f"{pointwise.name}_{index}"),
            branches=(dataclasses.replace(mixing, kernel=rows[None, None]),),
            bias=pointwise.bias if index == 0 else np.zeros_like(pointwise.bias),
            activation=LINEAR,
            depthwise=None,
        )
        return _write_convolution(part, unique)

    def then(first: _Function, second: _Function) -> _Function:
        return lambda x: second(first(x))

    mixed = [mix(*part) for part in enumerate(depthwise.split(mixing.kernel[0, 0]))]
    return list(map(then, _write_branches(depthwise, unique), mixed))


def _write_branches(convolution: Convolution, unique: Callable[[str], str]) -> list[_Function]:
    several = len(convolution.branches) > 1
    biases = convolution.split(convolution.bias)
    return [
        _write_branch(convolution, branch, bias, f"_{index}" if several else "", unique)
        for index, (branch, bias) in enumerate(zip(convolution.branches, biases, strict=True))
    ]


def _write_branch(
    convolution: Convolution,
    branch: Branch,
    bias: np.ndarray,
    suffix: str,
    unique: Callable[[str], str],
) -> _Function:
    """Return a function from the input of a convolution to the output of one branch."""
    is_only = not suffix
    name = convolution.name if is_only else unique(convolution.name + suffix)
    shared: dict[str, Any] = {
        "use_bias": bool(np.any(bias)),
        "activation": convolution.activation if is_only else None,
        "dtype": convolution.dtype,
        "name": name,
    }
    kernel = branch.kernel
    if convolution.kind == "dense":
        layer, pad = layers.Dense(kernel.shape[3], **shared), None
        kernel = kernel[0, 0]
    else:
        size, strides, dilation = kernel.shape[:2], convolution.strides, convolution.dilation
        at_stride_1 = same_padding(size, dilation) if strides == (1, 1) else None
        is_same = branch.is_padded and branch.padding in ("same", at_stride_1)
        pad = None
        if branch.is_padded and not is_same:
            pad = layers.ZeroPadding2D(
                branch.padding, name=unique(f"{name}_pad"), dtype=convolution.dtype, **CHANNELS_LAST
            )
        padding = "same" if is_same else "valid"
        shared.update(strides=strides, dilation_rate=dilation, padding=padding, **CHANNELS_LAST)
        if convolution.kind == "depthwise":
            layer = layers.DepthwiseConv2D(size, depth_multiplier=kernel.shape[3], **shared)
        else:
            layer = layers.Conv2D(kernel.shape[3], size, groups=convolution.groups, **shared)
    weights = [kernel, bias] if shared["use_bias"] else [kernel]

    def call(x: KerasTensor) -> KerasTensor:
        if not is_only and branch.kernel.shape[2] < x.shape[-1]:
            x = x[:, :, :, branch.channels]
        return _call_with(layer, x if pad is None else pad(x), weights)

    return call


def _write_scale(scale: Scale) -> _Function:
    """Return a function that scales: of images a 1x1 depthwise convolution."""
    image = layers.DepthwiseConv2D(1, dtype=scale.dtype, name=scale.name, **CHANNELS_LAST)
    other = layers.BatchNormalization(epsilon=1e-3, dtype=scale.dtype, name=scale.name)
    ones, zeros = np.ones_like(scale.scale), np.zeros_like(scale.scale)

    def call(x: KerasTensor) -> KerasTensor:
        if len(x.shape) == 4:
            return _call_with(image, x, [scale.scale.reshape(1, 1, -1, 1), scale.shift])
        return _call_with(other, x, [scale.scale, scale.shift, zeros, ones - other.epsilon])

    return call


def _call_with(layer: keras.Layer, x: KerasTensor, weights: list[np.ndarray]) -> KerasTensor:
    """Call a layer, at the first time with the weights that it is to have."""
    if not layer.built:
        layer.build(x.shape)
        # after its own come those of its activation, if that is a layer
        for variable, value in zip(layer.weights, weights, strict=False):
            variable.assign(value)
    return layer(x)
