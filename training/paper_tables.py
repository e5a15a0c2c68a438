"""The paper's Tables I to V: what each cell trained, and the test error it reports."""

import dataclasses
from collections.abc import Iterator
from typing import Any

IMAGENET32 = "imagenet_resized/32x32"
SOURCE = (
    "Bao, Graeber, Wang: Depthwise Multiception Convolution for Reducing Network Parameters "
    "without Sacrificing Accuracy (ICARCV 2020)"
)
NUMERALS = {1: "I", 2: "II", 3: "III", 4: "IV", 5: "V"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a table."""

    table: int  # 1 to 5
    dataset: str  # a key of `keras_multiception.preprocessing.DATASETS`
    model: str  # a name of `keras_multiception.list_models()`
    conv: str  # type of convolution, as in `keras_multiception.create_model`
    error: float  # top-1 test error in percent: the mean of three runs, at their last epoch
    kernel_sizes: tuple[tuple[int, ...], ...] | None = None  # of each stage, where not the usual


def cells(table: int) -> list[Cell]:
    """Return the cells of a table, in its order; MixConv on MobileNetV2 in Table II is none."""
    if table not in NUMERALS:
        raise ValueError(f"`table` must be 1, 2, 3, 4 or 5. Received: table={table}")
    return [cell for cell in CELLS if cell.table == table]


def _by_type(table: int, *rows: tuple[Any, ...]) -> Iterator[Cell]:
    types = ("standard", "multiception") if table == 5 else ("dsconv", "mixconv", "multiception")
    for dataset, model, *errors in rows:
        for conv, error in zip(types, errors, strict=True):
            if error is not None:
                yield Cell(table, dataset, model, conv, error)


def _table4() -> Iterator[Cell]:
    # The paper names the sets and the "present setting", (3, 5, 7) then (3, 5) then (3, 3), but
    # not the stages: a set is taken as that of the first stage, the others stay.
    columns = ("cifar10", "cifar100", "stl10", IMAGENET32)
    for first, errors in {
        (3, 5): (6.18, 28.94, 17.57, 61.97),
        (3, 7): (5.91, 28.54, 18.76, 62.29),
        (5, 7): (5.85, 29.35, 19.59, 62.05),
        (3, 5, 7): (5.94, 28.54, 16.81, 62.37),
    }.items():
        sizes = None if first == (3, 5, 7) else (first, (3, 5), (3, 3))
        for dataset, error in zip(columns, errors, strict=True):
            yield Cell(4, dataset, "resnet50", "multiception", error, sizes)


CELLS = (
    *_by_type(
        1,
        ("cifar10", "resnet20", 8.5, 8.47, 7.53),
        ("cifar10", "resnet50", 6.41, 7.16, 5.94),
        ("cifar10", "seresnet56", 6.1, 6.88, 5.71),
        ("cifar10", "shakeshake26", 3.77, 4.38, 3.42),
        ("cifar100", "resnet50", 29.77, 30.36, 28.54),
        ("cifar100", "shakeshake26", 20.03, 20.76, 18.92),
    ),
    *_by_type(
        2,
        ("stl10", "resnet50", 17.76, 21.89, 16.81),
        ("stl10", "mobilenetv2", 23.42, None, 19.7),
    ),
    *_by_type(3, (IMAGENET32, "resnet50", 63.63, 65.32, 62.37)),
    *_table4(),
    *_by_type(
        5,
        ("cifar10", "resnet20", 7.17, 7.53),
        ("cifar10", "resnet50", 5.75, 5.94),
        ("cifar10", "seresnet56", 5.69, 5.71),
        ("cifar10", "shakeshake26", 3.35, 3.42),
        ("cifar100", "resnet50", 27.92, 28.54),
        ("cifar100", "shakeshake26", 18.44, 18.92),
        ("stl10", "resnet50", 17.83, 16.81),
        (IMAGENET32, "resnet50", 63.2, 62.37),
    ),
)
