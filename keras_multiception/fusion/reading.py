"""Read a Keras model as a network of steps, in inference: layers opened, batch norms as numbers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import keras
import numpy as np
from keras import KerasTensor, layers, tree

from keras_multiception.fusion.operations import (
    LINEAR,
    NO_PADDING,
    Branch,
    Convolution,
    FusionReport,
    Padding,
    Scale,
    count_outputs,
    same_padding,
)
from keras_multiception.graphs import first_argument, require_graph, unique_name, walk
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D
from keras_multiception.layers.shake_shake import ShakeShake

Kind = TypeVar("Kind")


@dataclasses.dataclass(eq=False)
class Step:
    """A call of an operation; its tensors are `KerasTensor`, and calls of one layer share one."""

    operation: Any  # a `Convolution`, a `Scale`, or a layer, model or operation of Keras
    args: tuple
    kwargs: dict
    results: Any

    @property
    def inputs(self) -> list[KerasTensor]:
        """The tensors that it reads."""
        return [x for x in tree.flatten((self.args, self.kwargs)) if isinstance(x, KerasTensor)]


class Network:
    """Steps in an order in which they can run, from input tensors to a structure of outputs."""

    def __init__(self, inputs: list[KerasTensor], steps: list[Step], outputs: Any) -> None:
        self.inputs = inputs
        self.steps = steps
        self.outputs = outputs

    def calls(self, operation: Any) -> list[Step]:
        """Return the steps that call an operation."""
        return [step for step in self.steps if step.operation is operation]

    def writer(self, x: KerasTensor) -> Step | None:
        """Return the step that makes a tensor; `None` for an input of the network."""
        for step in self.steps:
            if any(y is x for y in tree.flatten(step.results)):
                return step
        return None

    def readers(self, x: KerasTensor) -> list[Step | None]:
        """Return the steps that read a tensor, once for each time; `None` is the network's end."""
        found: list = [step for step in self.steps for y in step.inputs if y is x]
        return found + [None for y in tree.flatten(self.outputs) if y is x]

    def operations(self, kind: type[Kind]) -> list[Kind]:
        """Return the operations of a class, each once."""
        found = {id(s.operation): s.operation for s in self.steps if isinstance(s.operation, kind)}
        return list(found.values())

    def replace_op(self, old: Any, new: Any) -> None:
        """Put an operation in the place of another."""
        for step in self.calls(old):
            step.operation = new

    def remove(self, step: Step) -> None:
        """Take out a step of one input and one output: its readers read its input instead."""
        (x,) = step.inputs
        self.steps.remove(step)

        def new(y: Any) -> Any:
            return x if y is step.results else y

        for other in self.steps:
            other.args, other.kwargs = tree.map_structure(new, (other.args, other.kwargs))
        self.outputs = tree.map_structure(new, self.outputs)


def read_network(
    model: keras.Model, shapes: list, report: FusionReport
) -> tuple[Network, dict[int, str]]:
    """Return a model as a network for inputs of some shapes, and names of operations by their id.

    Nested models are inlined. The report takes what is folded in reading.
    """
    graph = require_graph(model)
    inputs = [KerasTensor(shape, x.dtype) for shape, x in zip(shapes, graph.inputs, strict=True)]
    reader = _Reader(report, [x._keras_history.operation for x in graph.inputs])
    outputs = walk(graph, inputs, reader.call)
    reader.name_parts()
    return Network(inputs, reader.steps, outputs), reader.names


class _Reader:
    """Runs operations on shapes, and notes the steps."""

    def __init__(self, report: FusionReport, inputs: list) -> None:
        self.report = report
        self.steps: list[Step] = []
        self.chains: dict = {}  # from the id of a layer to the operations that it becomes
        self.names = {id(operation): operation.name for operation in inputs}
        self.parts: list = []  # operations named after the layer that they are a part of

    def call(self, path: tuple, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the output of an operation."""
        x = first_argument(args, kwargs)
        results = operation.compute_output_spec(*args, **kwargs)
        chain = self.chain(path, operation, x, bool(kwargs.get("training")))
        if chain is None:
            self.steps.append(Step(operation, args, kwargs, results))
            return results
        if not chain:
            return x
        for part in chain[:-1]:
            middle = KerasTensor(results.shape, results.dtype)
            self.steps.append(Step(part, (x,), {}, middle))
            x = middle
        self.steps.append(Step(chain[-1], (x,), {}, results))
        return results

    def chain(self, path: tuple, operation: Any, x: Any, training: bool) -> list | None:
        """Return the operations that stand for a layer, or `None` if it stays."""
        key = id(operation), training
        if key not in self.chains:
            name = self._name(path, operation)
            chain = None if training else self._operations(operation, name, x)
            if training and isinstance(operation, layers.BatchNormalization):
                self.report.left[name] = "it is called with training=True"
            self.chains[key] = chain
            self.parts += [part for part in chain or () if part.name != name]
        return self.chains[key]

    def _operations(self, layer: Any, name: str, x: Any) -> list | None:
        """Return what a layer or operation, here called `name`, is in inference for `x`.

        They are empty for the identity, and `None` for one that stays as it is.
        """
        if isinstance(layer, ShakeShake):
            return self._mean(layer, name, x[0].shape[-1])
        if isinstance(layer, layers.BatchNormalization):
            return _batch_norm(layer, name, len(x.shape), self.report)
        is_linear = type(layer) is layers.Activation and layer.activation is LINEAR
        if (type(layer) in _IDENTITIES or is_linear) and layer.compute_dtype == x.dtype:
            self.report.removed.append(name)
            return []
        rule = _RULES.get(type(layer))
        quantized = getattr(layer, "quantization_mode", None) is not None
        if rule is None or quantized or getattr(layer, "data_format", None) == "channels_first":
            return None
        return rule(layer, name, self.report)

    def _mean(self, shake: ShakeShake, name: str, channels: int) -> list:
        """Return the operations of Shake-Shake in inference: a sum, and half of it."""
        self.report.removed.append(name)
        add = layers.Add(name=name, dtype=shake.dtype_policy)
        self.names[id(add)] = name
        half = np.full(channels, 0.5)
        return [add, Scale(f"{name}_half", half, np.zeros(channels), shake.dtype_policy)]

    def _name(self, path: tuple, operation: Any) -> str:
        """Return the operation's name; where nested models repeat it, with theirs in front."""
        taken = set(self.names.values())
        name = operation.name
        if name in taken:
            name = unique_name("_".join((*path, name)), taken)
        return self.names.setdefault(id(operation), name)

    def name_parts(self) -> None:
        """Give parts of layers other names where layers have theirs."""
        taken = set(self.names.values())
        for part in self.parts:
            new = dataclasses.replace(part, name=unique_name(part.name, taken))
            for step in self.steps:
                if step.operation is part:
                    step.operation = new


def _batch_norm(layer: Any, name: str, rank: int, report: FusionReport) -> list[Scale] | None:
    if type(layer).__module__.split(".")[0] not in ("keras", "keras_multiception"):
        report.left[name] = f"its class {type(layer).__name__} may do more than its base class"
        return None
    if layer.axis not in (-1, rank - 1):
        report.left[name] = f"it normalizes along axis {layer.axis}, which is not the last"
        return None
    scale, shift = _scale_and_shift(layer)
    return [Scale(name, scale, shift, layer.dtype_policy)]


def _scale_and_shift(batch_norm: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = map(_numbers, (batch_norm.moving_mean, batch_norm.moving_variance))
    scale = 1 / np.sqrt(variance + batch_norm.epsilon)
    if batch_norm.gamma is not None:
        scale = scale * _numbers(batch_norm.gamma)
    shift = -mean * scale
    return scale, shift if batch_norm.beta is None else shift + _numbers(batch_norm.beta)


def _plain(layer: Any, name: str, report: FusionReport) -> list[Convolution]:
    kernel = _numbers(layer.kernel)
    if isinstance(layer, layers.Dense):
        return [_convolution(layer, name, "dense", [Branch(0, kernel[None, None])], [layer])]
    branch = Branch(0, kernel, _padding(layer))
    if isinstance(layer, layers.DepthwiseConv2D):
        return [_convolution(layer, name, "depthwise", [branch], [layer])]
    return [_convolution(layer, name, "conv", [branch], [layer], groups=layer.groups)]


def _separable_conv2d(layer: Any, name: str, report: FusionReport) -> list[Convolution]:
    branch = Branch(0, _numbers(layer.depthwise_kernel), _padding(layer))
    depthwise = _convolution(
        layer, f"{name}_depthwise", "depthwise", [branch], [None], activation=LINEAR
    )
    return [depthwise, _pointwise(layer, name, layer.pointwise_kernel, layer)]


def _multiception_conv2d(layer: Any, name: str, report: FusionReport) -> list[Convolution]:
    can_move = layer.dilation_rate == (1, 1) and layer.strides[0] == layer.strides[1]
    convs = layer.depthwise_convs
    depthwise = _convolution(
        layer,
        f"{name}_depthwise",
        "depthwise",
        _branches(layer, convs, [0] * len(convs)),
        [None] * len(convs),
        strides=layer.strides if can_move else (1, 1),
        activation=LINEAR,
    )
    mixing = layer.pointwise_conv
    pointwise = _pointwise(
        layer, name, mixing.kernel, mixing, (1, 1) if can_move else layer.strides
    )
    pointwise = pointwise.after(*_scale_and_shift(layer.depthwise_bn))
    pointwise = pointwise.then(*_scale_and_shift(layer.pointwise_bn))
    report.folded += [f"{name}/depthwise_bn", f"{name}/pointwise_bn"]
    if max(layer.strides) > 1:
        (report.moved_strides if can_move else report.kept_strides).append(name)
    return [depthwise, pointwise]


def _mix_conv2d(layer: Any, name: str, report: FusionReport) -> list[Convolution]:
    starts = np.cumsum([0, *layer.group_channels[:-1]]).tolist()
    kind = "depthwise" if layer.depthwise else "conv"
    branches = _branches(layer, layer.convs, starts)
    return [_convolution(layer, name, kind, branches, layer.convs)]


def _branches(layer: Any, convs: Sequence, starts: Sequence[int]) -> list[Branch]:
    kernels = [_numbers(conv.kernel) for conv in convs]
    return [
        Branch(start, kernel, same_padding(kernel.shape[:2], layer.dilation_rate))
        for start, kernel in zip(starts, kernels, strict=True)
    ]


def _pointwise(
    layer: Any, name: str, kernel: Any, conv: Any, strides: tuple[int, int] = (1, 1)
) -> Convolution:
    branch = Branch(0, _numbers(kernel))
    return _convolution(layer, name, "conv", [branch], [conv], strides=strides, dilation=(1, 1))


def _convolution(
    layer: Any, name: str, kind: str, branches: list[Branch], convs: Sequence, **changes: Any
) -> Convolution:
    """Return a convolution with the arguments of a layer, and for each branch a conv's bias."""
    biases = [
        _numbers(conv.bias) if conv is not None and conv.use_bias else np.zeros(outputs)
        for conv, outputs in zip(convs, count_outputs(kind, branches), strict=True)
    ]
    arguments = {
        "strides": tuple(getattr(layer, "strides", (1, 1))),
        "dilation": tuple(getattr(layer, "dilation_rate", (1, 1))),
        "activation": layer.activation,
        **changes,
    }
    return Convolution(
        name, kind, tuple(branches), np.concatenate(biases), layer.dtype_policy, **arguments
    )


def _padding(layer: Any) -> Padding | str:
    if layer.padding == "valid":
        return NO_PADDING
    if max(layer.strides) > 1:
        return "same"
    return same_padding(layer.kernel_size, layer.dilation_rate)


def _numbers(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


_IDENTITIES = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
_RULES = {
    layers.Conv2D: _plain,
    layers.Dense: _plain,
    layers.DepthwiseConv2D: _plain,
    layers.SeparableConv2D: _separable_conv2d,
    MixConv2D: _mix_conv2d,
    MulticeptionConv2D: _multiception_conv2d,
}
