"""The result of `km.cost`, and its tables."""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any


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
        trainable_parameters: Number of trainable weights not counted at an earlier layer.
        non_trainable_parameters: Number of its other weights, likewise.
        multiply_adds: Number of multiply-adds; `None` where they are unknown.
        traffic: Bytes of its inputs and outputs.
        peak_memory: Bytes of all activations that exist while it runs.
        receptive_field: `ReceptiveField` of its output; `None` where it is unknown.
    """

    name: str
    kind: str
    output_shape: tuple
    trainable_parameters: int
    non_trainable_parameters: int
    multiply_adds: int | None
    traffic: int
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
        """From a stage's name to its cost; empty for a model without stages.

        A layer belongs to the stage that its name begins with, `stem` or `stage1`, `stage2` and
        so on, and to `top` if it has none.
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

    def to_table(self) -> str:
        """Return the costs by layer and by stage, for a terminal."""
        return "\n\n".join(self._sections(_align))

    def to_markdown(self) -> str:
        """Return the costs by layer and by stage as Markdown."""
        return "\n\n".join(self._sections(_to_markdown))

    def to_csv(self) -> str:
        """Return the costs by layer as comma-separated values, in plain numbers, with headings."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        fields = [field.name for field in dataclasses.fields(LayerCost)]
        writer.writerow([*fields, "stride"])
        for layer in self.layers:
            values = [getattr(layer, field) for field in fields]
            values[2] = _shape(layer.output_shape)
            writer.writerow([*values[:-1], *_field(layer.receptive_field)])
        return text.getvalue()

    def __str__(self) -> str:
        return self.to_table()

    def _sections(self, layout: Callable[[list], str]) -> Iterator[str]:
        total = dataclasses.replace(self, name="total")
        yield f"{self.name}, one image of {_shape(self.input_shape)}"
        yield layout([("layer", "type", *_COUNTED), *map(_row, self.layers), _row(total)])
        if len(self.stages) > 1:
            yield layout([("stage", "", *_COUNTED), *map(_row, self.stages.values()), _row(total)])
        if self.unknown_layers:
            yield f"Multiply-adds unknown and left out: {', '.join(self.unknown_layers)}"


_COUNTED = (
    "output",
    "trainable",
    "non-trainable",
    "multiply-adds",
    "peak memory",
    "sees",
    "stride",
)


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _to_markdown(rows: Sequence[Sequence[str]]) -> str:
    headings, *body = rows
    rules = [":--" if column < 3 else "--:" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rules, *body))


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
