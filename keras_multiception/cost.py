"""What a network costs, counted from its graph: `km.cost`."""

import contextlib
import csv
import dataclasses
import io
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from keras_multiception.blocks import CHANNELS_LAST
from keras_multiception.graphs import first_argument, fits, require_graph, walk
from keras_multiception.layers.mix_conv2d import MixConv2D
from keras_multiception.layers.multiception_conv2d import MulticeptionConv2D

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_POOLING = (layers.AveragePooling2D, layers.MaxPooling2D)
_SHIFTING = (layers.Cropping2D, layers.ZeroPadding2D)
_WITHOUT_PRODUCTS = (layers.Embedding, layers.LayerNormalization, layers.PReLU)
# products of two tensors, by the name of the layer or of the operation of `keras.ops`
_TENSOR_PRODUCT = re.compile(
    r"\w*Attention|(Depthwise|Separable)?Conv|ConvTranspose|(Tensor|V)?[Dd]ot|Einsum|Inner|Matmul|Outer"
)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What one position of a feature map sees of the image, in pixels along each axis."""

    size: tuple[int, ...]  # may reach beyond the border
    strides: tuple[int, ...]  # between the centers of neighbors


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer costs in one inference of one image.

    Attributes:
        name: Its name, after the name of the model or layer that holds it, if any, and a slash.
        kind: The name of its class.
        output_shape: Shape of its output without the batch axis; a tuple of shapes for several.
        trainable_parameters, non_trainable_parameters: Numbers of its weights that no earlier
            layer has.
        multiply_adds: Number of multiply-adds; `None` where they are unknown.
        peak_memory: Bytes of all activations that exist while it runs.
        receptive_field: `ReceptiveField` of its output; `None` where it is unknown.
    """

    name: str
    kind: str
    output_shape: tuple
    trainable_parameters: int
    non_trainable_parameters: int
    multiply_adds: int | None
    peak_memory: int
    receptive_field: ReceptiveField | None

    @property
    def parameters(self) -> int:
        """Number of weights not counted at an earlier layer."""
        return self.trainable_parameters + self.non_trainable_parameters


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network, or one stage of it, costs in one inference of one image.

    Attributes:
        name: Name of the model or stage.
        input_shape: Shape of the model's input without the batch axis, or a tuple of several.
        layers: Tuple with a `LayerCost` for each step, in the order in which Keras runs them.
    """

    name: str
    input_shape: tuple
    layers: tuple[LayerCost, ...]

    @property
    def output_shape(self) -> tuple:
        """Shape of the last layer's output without the batch axis."""
        return self.layers[-1].output_shape if self.layers else self.input_shape

    @property
    def trainable_parameters(self) -> int:
        """Number of trainable weights."""
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def non_trainable_parameters(self) -> int:
        """Number of weights that training does not touch with a gradient."""
        return sum(layer.non_trainable_parameters for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.trainable_parameters + self.non_trainable_parameters

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds, of `unknown_layers` none."""
        return sum(layer.multiply_adds or 0 for layer in self.layers)

    @property
    def unknown_layers(self) -> tuple[str, ...]:
        """Names of the layers whose multiply-adds are unknown."""
        return tuple(layer.name for layer in self.layers if layer.multiply_adds is None)

    @property
    def peak_memory(self) -> int:
        """Bytes of activations that exist at the same time, at most."""
        return max((layer.peak_memory for layer in self.layers), default=0)

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """`ReceptiveField` of the last layer's output; `None` where it is unknown."""
        return self.layers[-1].receptive_field if self.layers else None

    @property
    def stages(self) -> dict[str, "Cost"]:
        """From the `stem` or `stage1` and so on that names of layers begin with to its cost.

        Other layers are the `top`; a model without stages has none.
        """
        stages: dict[str, list] = {}
        for layer in self.layers:
            match = re.match(r"(stem|stage\d+)_", layer.name)
            stages.setdefault(match[1] if match else "top", []).append(layer)
        if set(stages) <= {"top"}:
            return {}
        return {
            name: dataclasses.replace(self, name=name, layers=tuple(layers))
            for name, layers in stages.items()
        }

    def to_markdown(self) -> str:
        """Return the costs by layer and by stage as Markdown, aligned for a terminal, too."""
        total = _row(dataclasses.replace(self, name="total"))
        sections = [
            f"{self.name}, one image of {_shape(self.input_shape)}",
            _table([("layer", "type", *_COUNTED), *map(_row, self.layers), total]),
        ]
        if stages := self.stages.values():
            sections.append(_table([("stage", "", *_COUNTED), *map(_row, stages), total]))
        if self.unknown_layers:
            unknown = ", ".join(self.unknown_layers)
            sections.append(f"Multiply-adds unknown and left out: {unknown}")
        return "\n\n".join(sections)

    to_table = to_markdown
    __str__ = to_markdown

    def to_csv(self) -> str:
        """Return the costs by layer as comma-separated values, in plain numbers, with headings."""
        text = io.StringIO()
        names = [*(field.name for field in dataclasses.fields(LayerCost)), "stride"]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for layer in self.layers:
            size, stride = _field(layer.receptive_field)
            shown = {"output_shape": _shape(layer.output_shape), "receptive_field": size}
            writer.writerow({**vars(layer), **shown, "stride": stride})
        return text.getvalue()


def cost(model: keras.Model, input_shape: Sequence | None = None) -> Cost:
    """Count parameters, multiply-adds, memory and receptive field of a network, layer by layer.

    The counts are for one inference of one image, nested models and our own layers by their parts.

    - *Parameters*: every weight once, at the first layer that uses it.
    - *Multiply-adds*: of `Conv2D`, `DepthwiseConv2D`, `SeparableConv2D` and `Dense`: every entry
      of a kernel once for each position of the output, padding included. One is two FLOPs.
    - *Unknown layers*: others with a weight of two or more axes, products of two tensors, and
      layers with the channels first: their counts and receptive fields are `None`, and in no sum.
    - *Peak memory*: each layer writes its output into new memory, which is freed after the last
      layer that reads it. Weights, workspace and strings are not counted.
    - *Receptive field*: how far a position of the output sees along each axis of the image; where
      branches meet, the largest. Whatever pools a whole feature map sees the whole image.

    Args:
        model: A Functional `keras.Model`, or a built `keras.Sequential`.
        input_shape: Sequence (height, width, channels), or a list of shapes for several inputs.
            The default is the model's own, which must then be static.

    Returns:
        A `Cost`, with `layers`, `stages`, `to_markdown()` and `to_csv()`.

    Raises:
        ValueError: If the model has no graph, or the size of its input is open or another one.

    Example:
        >>> cost = km.cost(km.ResNet20(conv="multiception"))
        >>> cost.trainable_parameters, cost.multiply_adds
        (189434, 32408192)
        >>> print(cost)
    """
    graph = require_graph(model)
    shapes = _input_shapes(graph, input_shape)
    inputs = [
        keras.KerasTensor((1, *shape), x.dtype)
        for shape, x in zip(shapes, graph.inputs, strict=True)
    ]
    counter = _Counter(inputs)
    outputs = walk(graph, inputs, counter.call)
    return Cost(model.name, _one_or_all(shapes), counter.layer_costs(tree.flatten(outputs)))


def report_costs(old: keras.Model, new: keras.Model) -> None:
    """Print what a model costs and what its new form does."""
    counts = {"parameters": (old.count_params(), new.count_params())}
    with contextlib.suppress(ValueError):  # the size of the input is open
        counts["multiply-adds"] = cost(old).multiply_adds, cost(new).multiply_adds
    for label, (before, after) in counts.items():
        change = f"  ({after / before - 1:+.1%})" if before else ""
        print(f"  {label:<13} {before:>15,} -> {after:>15,}{change}")


def _input_shapes(graph: keras.Function, input_shape: Any) -> list[tuple[int, ...]]:
    own = [tuple(x.shape[1:]) for x in graph.inputs]
    try:
        given = own if input_shape is None else list(input_shape)
        several = any(hasattr(entry, "__iter__") for entry in given)
        shapes = [tuple(map(operator.index, shape)) for shape in (given if several else [given])]
        do_fit = all(map(fits, shapes, own)) and all(min(shape, default=1) > 0 for shape in shapes)
    except TypeError:  # not a sequence, or a size that is none
        shapes = []
    if len(shapes) != len(own) or not do_fit:
        raise ValueError(
            "`input_shape` must give the size of every axis but the batch, and fit the model's "
            f"own, {', '.join(map(str, own))}. Received: input_shape={input_shape!r}"
        )
    return shapes


class _Step(NamedTuple):
    name: str
    operation: Any
    inputs: list
    outputs: list


class _Counter:
    """Notes what each operation of a graph costs that is run on shapes."""

    def __init__(self, inputs: list[keras.KerasTensor]) -> None:
        self.inputs = inputs
        self.image = max((tuple(x.shape[1:-1]) for x in inputs), key=len)
        pixel = (1,) * len(self.image)
        self.fields: dict[int, ReceptiveField | None] = {
            # an input without pixels has one position for the whole image
            id(x): ReceptiveField(pixel, pixel if len(x.shape) > 2 else self.image)
            for x in inputs
        }
        self.steps: list[_Step] = []

    def call(self, path: tuple, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the output of an operation; our own layers are run part by part."""
        inner = (*path, operation.name)

        def run(part: Any, x: Any) -> Any:
            return self.call(inner, part, x)

        if isinstance(operation, MulticeptionConv2D):
            return _run_multiception(run, operation, first_argument(args, kwargs))
        if isinstance(operation, MixConv2D):
            return _run_mix_conv(run, operation, first_argument(args, kwargs))
        result = operation.compute_output_spec(*args, **kwargs)
        inputs = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        outputs = tree.flatten(result)
        fields = [self.fields[id(x)] for x in inputs]
        field = _receptive_field(operation, inputs, outputs, fields, self.image)
        for x in outputs:
            self.fields.setdefault(id(x), field)
        self.steps.append(_Step("/".join(inner), operation, inputs, outputs))
        return result

    def layer_costs(self, results: list[keras.KerasTensor]) -> tuple[LayerCost, ...]:
        """Return a `LayerCost` for each step of a model that ends in the tensors `results`."""
        counted: set[int] = set()

        def count(weights: list) -> int:
            new = {id(w): w for w in weights if id(w) not in counted}
            counted.update(new)
            return sum(math.prod(w.shape) for w in new.values())

        return tuple(
            LayerCost(
                step.name,
                type(step.operation).__name__,
                _one_or_all([tuple(x.shape[1:]) for x in step.outputs]),
                count(getattr(step.operation, "trainable_weights", [])),
                count(getattr(step.operation, "non_trainable_weights", [])),
                _multiply_adds(step.operation, step.outputs[0]),
                memory,
                self.fields[id(step.outputs[0])],
            )
            for step, memory in zip(self.steps, self._memory(results), strict=True)
        )

    def _memory(self, results: list[keras.KerasTensor]) -> Iterator[int]:
        """Yield the bytes that are alive during each step."""
        last_use = {
            id(x): index
            for index, step in enumerate(self.steps)
            for x in (*step.inputs, *step.outputs)
        }
        last_use.update((id(x), len(self.steps)) for x in results)
        alive = {id(x): _bytes(x) for x in self.inputs}
        for index, step in enumerate(self.steps):
            alive.update((id(x), _bytes(x)) for x in step.outputs)
            yield sum(alive.values())
            alive = {key: size for key, size in alive.items() if last_use.get(key, -1) > index}


class Split(keras.Operation):
    """Cuts channels into groups, as `MixConv2D` does with its input."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(name="split")
        self.sizes = sizes

    def compute_output_spec(self, x: keras.KerasTensor) -> list[keras.KerasTensor]:
        """Return a tensor for each group."""
        return [keras.KerasTensor((*x.shape[:-1], size), x.dtype) for size in self.sizes]


def _run_multiception(run: Callable, layer: MulticeptionConv2D, x: Any) -> Any:
    x = _concatenate(run, [run(conv, x) for conv in layer.depthwise_convs])
    for part in (layer.depthwise_bn, layer.pointwise_conv, layer.pointwise_bn):
        x = run(part, x)
    return x


def _run_mix_conv(run: Callable, layer: MixConv2D, x: Any) -> Any:
    groups = run(Split(layer.group_channels), x)
    if max(layer.strides) > 1:
        arguments = {"dtype": x.dtype, **CHANNELS_LAST}
        for index, (height, width) in enumerate(layer.kernel_sizes):
            zeros = height // 2, width // 2
            pad = layers.ZeroPadding2D(zeros, name=f"pad_{index}", **arguments)
            groups[index] = run(pad, groups[index])
    return _concatenate(run, list(map(run, layer.convs, groups)))


def _concatenate(run: Callable, branches: list) -> Any:
    if len(branches) == 1:
        return branches[0]
    return run(layers.Concatenate(dtype=branches[0].dtype, name="concatenate"), branches)


def _multiply_adds(operation: Any, output: keras.KerasTensor) -> int | None:
    """Count multiply-adds, as the docstring of `cost` says; `None` if they are unknown."""
    if getattr(operation, "data_format", None) == "channels_first":
        return None
    if isinstance(operation, (*_CONVOLUTIONS, layers.Dense)):
        # the kernels that are computed with, also where a quantized layer stores them packed
        kernels = [getattr(operation, name, None) for name in _KERNELS]
        entries = sum(math.prod(kernel.shape) for kernel in kernels if kernel is not None)
        return entries * math.prod(output.shape[1:-1])
    if isinstance(operation, _WITHOUT_PRODUCTS):
        return 0
    has_kernel = any(len(w.shape) > 1 for w in getattr(operation, "weights", ()))
    return None if has_kernel or _TENSOR_PRODUCT.fullmatch(type(operation).__name__) else 0


def _receptive_field(
    operation: Any, inputs: list, outputs: list, fields: list, image: tuple
) -> ReceptiveField | None:
    """Return what the output sees, given what its inputs see; `None` if it is unknown."""
    if _multiply_adds(operation, outputs[0]) is None:
        return None
    is_pooling = isinstance(operation, _POOLING)
    if not is_pooling and not isinstance(operation, (*_CONVOLUTIONS, *_SHIFTING)):
        before = max((x.shape[1:-1] for x in inputs), key=math.prod)
        after = outputs[0].shape[1:-1]
        if math.prod(before) > math.prod(after) == 1:
            return ReceptiveField(image, image)
        if [n for n in before if n != 1] != [n for n in after if n != 1]:
            return None
    if None in fields:
        return None
    sizes = tuple(map(max, zip(*(field.size for field in fields), strict=True)))
    steps = tuple(map(min, zip(*(field.strides for field in fields), strict=True)))
    if not is_pooling and not isinstance(operation, _CONVOLUTIONS):
        return ReceptiveField(sizes, steps)
    window = operation.pool_size if is_pooling else operation.kernel_size
    rates = (1, 1) if is_pooling else operation.dilation_rate
    if len(sizes) != len(window):
        return None
    axes = zip(sizes, steps, rates, window, strict=True)
    return ReceptiveField(
        tuple(size + step * rate * (length - 1) for size, step, rate, length in axes),
        tuple(map(operator.mul, steps, operation.strides)),
    )


def _one_or_all(entries: list) -> Any:
    return entries[0] if len(entries) == 1 else tuple(entries)


def _bytes(x: keras.KerasTensor) -> int:
    if x.dtype == "string":
        return 0
    return math.prod(x.shape) * np.dtype(x.dtype).itemsize


_COUNTED = (
    "output",
    "trainable",
    "non-trainable",
    "multiply-adds",
    "peak memory",
    "sees",
    "stride",
)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align texts in the first three columns to the left, and numbers to the right."""
    rules = [":--" if i < 3 else "--:" for i in range(len(rows[0]))]
    rows = [rows[0], rules, *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = [str.ljust if i < 3 else str.rjust for i in range(len(widths))]
    return "\n".join(
        f"| {' | '.join(f(x, n) for f, x, n in zip(aligns, row, widths, strict=True))} |"
        for row in rows
    )


def _row(cost: LayerCost | Cost) -> tuple[str, ...]:
    multiply_adds = "unknown" if cost.multiply_adds is None else f"{cost.multiply_adds:,}"
    at_least = ">= " if isinstance(cost, Cost) and cost.unknown_layers else ""
    return (
        cost.name,
        cost.kind if isinstance(cost, LayerCost) else f"{len(cost.layers)} layers",
        _shape(cost.output_shape),
        f"{cost.trainable_parameters:,}",
        f"{cost.non_trainable_parameters:,}",
        at_least + multiply_adds,
        f"{cost.peak_memory / 1024:,.1f} KiB",
        *_field(cost.receptive_field),
    )


def _shape(shape: Any) -> str:
    if any(isinstance(entry, tuple) for entry in shape):
        return " + ".join(map(_shape, shape))
    return "x".join(map(str, shape)) or "1"


def _field(field: ReceptiveField | None) -> tuple[str, str]:
    if field is None:
        return "unknown", "unknown"
    strides = field.strides[:1] if len(set(field.strides)) == 1 else field.strides
    return "x".join(map(str, field.size)), "x".join(map(str, strides))
