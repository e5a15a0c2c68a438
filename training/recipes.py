"""The paper's Tables I to V, and the named recipes: of every cell of them, and beyond."""

import dataclasses
import difflib
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from training.recipe import Recipe, parse_changes, read_recipe

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

TYPES = ("standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception")

# Section IV of the paper and the code that its Section VI points to, where they differ from the
# defaults of `Recipe`.
_PAPER: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {},
    "stl10": {"batch_size": 64},
    IMAGENET32: {"epochs": 50, "test_split": "validation", "pad_and_crop": 0, "flip": False},
}

# Section IV with what became usual after it. The network, the images and the passes over them
# stay, and so does the cost.
_MODERN: dict[str, Any] = {
    "warmup_epochs": 5,
    "schedule_interval": "step",
    "l2": 5e-4,
    "l2_on_vectors": False,
    "ema": 0.999,
    "label_smoothing": 0.1,
    "mixup": 0.2,
}

# For a CPU: all images, a twenty-fifth of the passes, the learning rate one cycle, smaller crops.
# Chosen on a tenth of the training split, with DSConv and three epochs, one seed each. No crop at
# all came out better still, but in four times the epochs a network would memorize uncropped images.
_SHORT: dict[str, Any] = {
    "epochs": 12,
    "learning_rate": 0.3,
    "min_learning_rate": 0.0,
    "warmup_epochs": 2,
    "schedule_interval": "step",
    "pad_and_crop": 2,
}

# For a CPU again, by an optimizer that gets further in as many epochs. Learning rate and crop were
# chosen as above, with standard convolution and all epochs, after single runs of four epochs.
_MUON: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 0.05,
    "min_learning_rate": 0.0,
    "warmup_epochs": 1,
    "schedule_interval": "step",
    "optimizer": "muon",
    "momentum": 0.6,
    "l2": 0.0,
    "weight_decay": 0.025,
    "label_smoothing": 0.1,
}

_FOLDER: dict[str, Any] = {"image_size": 64, "epochs": 60, "batch_size": 32, "warmup_epochs": 2}
_DIGITS: dict[str, Any] = {"epochs": 5, "batch_size": 32, "pad_and_crop": 2, "flip": False}

# For a laptop: some of the images and a few epochs. It shows that everything works, not the paper's
# errors, nor always in which order the convolutions come.
_QUICK: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 64,
    "learning_rate": 0.05,
    "warmup_epochs": 1,
    "schedule_interval": "step",
}
_QUICK_SPLITS: dict[str, dict[str, Any]] = {
    "cifar10": {"train_split": "train[:20%]"},
    "cifar100": {"train_split": "train[:20%]"},
    "stl10": {"train_split": "train[:40%]", "test_split": "test[:25%]", "batch_size": 32},
    IMAGENET32: {"train_split": "train[:1%]", "test_split": "validation[:4%]"},
    "digits": {"epochs": 2, "batch_size": 32},
    "folder": {"batch_size": 32},
}


def recipe_name(recipe: Recipe, suffix: str = "") -> str:
    """Return the name of a recipe: network, convolution, data set, and what is special."""
    dataset = recipe.dataset.replace(IMAGENET32, "imagenet32x32")
    name = f"{recipe.model}_{recipe.conv}_{dataset}"
    sizes: Any = recipe.kernel_sizes
    if sizes:
        name += "_k" + "-".join(map(str, sizes[0]))
    return f"{name}_{suffix}" if suffix else name


def recipe_for_cell(cell: Cell) -> Recipe:
    """Return the `Recipe` of a `Cell` of the paper's tables."""
    return Recipe(cell.dataset, cell.model, cell.conv, cell.kernel_sizes, **_PAPER[cell.dataset])


def _named(*recipes: Recipe, suffix: str = "") -> dict[str, Recipe]:
    return {recipe_name(recipe, suffix): recipe for recipe in recipes}


def _grid(
    datasets: Iterable[str],
    models: Iterable[str],
    types: Iterable[str],
    suffix: str = "",
    **values: Any,
) -> dict[str, Recipe]:
    places = itertools.product(datasets, models, types)
    return _named(*(Recipe(*place, **values) for place in places), suffix=suffix)


_SHOWN = ("standard", "dsconv", "multiception")
RECIPES = (
    _named(*map(recipe_for_cell, CELLS))
    | _grid(("cifar10",), ("resnet20", "resnet50"), ("mixconv_depthwise",))
    | _grid(("cifar10", "cifar100"), ("resnet20", "resnet50"), _SHOWN, "modern", **_MODERN)
    | _grid(("cifar10",), ("resnet20",), TYPES, "short", **_SHORT)
    | _grid(("cifar10",), ("resnet20",), TYPES, "muon", **_MUON)
    | _named(
        *(
            Recipe("cifar10", "resnet20", "multiception", cell.kernel_sizes, **_SHORT)
            for cell in cells(4)
            if cell.dataset == "cifar10" and cell.kernel_sizes
        ),
        suffix="short",
    )
    | _grid(("folder",), ("resnet20",), TYPES, **_FOLDER)
    | _grid(("digits",), ("resnet20",), TYPES, **_DIGITS)
)


def get_recipe(name: str, overrides: Iterable[str] = (), quick: bool = False) -> Recipe:
    """Return a recipe by its name, a key of `RECIPES`, or from a `.json` file.

    `quick` takes its variant for a laptop; the `overrides`, strings `key=value`, come last.
    """
    if name.endswith(".json"):
        recipe = read_recipe(name)
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "--list shows them."
        raise ValueError(f"`recipe` is unknown: {hint} Received: recipe={name}")
    kinds = {field.name: field.type for field in dataclasses.fields(Recipe)}
    if quick:  # a step of Shake-Shake costs eighty times that of ResNet-20
        narrow = {"filters": 16} if recipe.model == "shakeshake26" and not recipe.filters else {}
        changes = _QUICK | _QUICK_SPLITS.get(recipe.dataset, {}) | narrow
        recipe = dataclasses.replace(recipe, **changes)
    recipe = dataclasses.replace(recipe, **parse_changes(overrides, kinds))
    if recipe.conv not in TYPES:
        raise ValueError(f"`conv` must be one of {', '.join(TYPES)}. Received: conv={recipe.conv}")
    return recipe


def paper_cells(recipe: Recipe) -> list[Cell]:
    """Return the cells of the paper's tables that a recipe trains, whatever its seed."""
    recipe = dataclasses.replace(recipe, seed=0)
    return [cell for cell in CELLS if recipe_for_cell(cell) == recipe]


def describe(name: str) -> str:
    """Say in several lines what a recipe does, how to run it, and what the paper measured."""
    recipe, workdir = get_recipe(name), f"runs/{pathlib.Path(name).stem}"
    lines = [name, "", f"  python -m training.train --recipe {name} --workdir {workdir}"]
    lines += [
        f"  {cell.error:.2f} % test error, Table {NUMERALS[cell.table]} of {SOURCE}"
        for cell in paper_cells(recipe)
    ] or ["  not in the paper"]
    values = dataclasses.asdict(recipe)
    width = max(map(len, values))
    return "\n".join((*lines, "", *(f"  {key:<{width}}  {v}" for key, v in values.items())))
