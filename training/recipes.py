"""The named recipes: every cell of the paper's tables, and those that go beyond it."""

import dataclasses
import difflib
import pathlib
from collections.abc import Iterable
from typing import Any

from training.paper_tables import CELLS, IMAGENET32, NUMERALS, SOURCE, Cell, cells
from training.recipe import Recipe, override, read_recipe

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


RECIPES = (
    _named(*map(recipe_for_cell, CELLS))
    | _named(*(Recipe("cifar10", model, "mixconv_depthwise") for model in ("resnet20", "resnet50")))
    | _named(
        *(
            Recipe(dataset, model, conv, **_MODERN)
            for dataset in ("cifar10", "cifar100")
            for model in ("resnet20", "resnet50")
            for conv in ("standard", "dsconv", "multiception")
        ),
        suffix="modern",
    )
    | _named(*(Recipe("cifar10", "resnet20", conv, **_SHORT) for conv in TYPES), suffix="short")
    | _named(*(Recipe("cifar10", "resnet20", conv, **_MUON) for conv in TYPES), suffix="muon")
    | _named(
        *(
            Recipe("cifar10", "resnet20", "multiception", sizes, **_SHORT)
            for sizes in (cell.kernel_sizes for cell in cells(4) if cell.dataset == "cifar10")
            if sizes
        ),
        suffix="short",
    )
    | _named(
        *(
            Recipe(
                "folder", "resnet20", conv, image_size=64, epochs=60, batch_size=32, warmup_epochs=2
            )
            for conv in TYPES
        )
    )
    | _named(
        *(
            Recipe("digits", "resnet20", conv, epochs=5, batch_size=32, pad_and_crop=2, flip=False)
            for conv in TYPES
        )
    )
)


def get_recipe(name: str, overrides: Iterable[str] = (), quick: bool = False) -> Recipe:
    """Return a recipe by its name, a key of `RECIPES`, or from a `.json` file.

    `quick` takes its variant for a laptop, and the `overrides`, strings `key=value`, come last.

    Example:
        >>> get_recipe("resnet20_multiception_cifar10", ["epochs=30", "kernel_sizes=3-5"])
    """
    if name.endswith(".json"):
        recipe = read_recipe(name)
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "--list shows them."
        raise ValueError(f"`recipe` is unknown: {hint} Received: recipe={name}")
    recipe = override(quick_variant(recipe) if quick else recipe, overrides)
    if recipe.conv not in TYPES:
        raise ValueError(f"`conv` must be one of {', '.join(TYPES)}. Received: conv={recipe.conv}")
    return recipe


def quick_variant(recipe: Recipe) -> Recipe:
    """Return a recipe's variant for a laptop: fewer images, a few epochs.

    Shake-Shake, whose step costs eighty times that of ResNet-20, gets 16 filters in place of 96.
    """
    narrow = {"filters": 16} if recipe.model == "shakeshake26" and not recipe.filters else {}
    return dataclasses.replace(recipe, **_QUICK | _QUICK_SPLITS.get(recipe.dataset, {}) | narrow)


def paper_cells(recipe: Recipe) -> list[Cell]:
    """Return the cells of the paper's tables that a recipe trains, whatever its seed."""
    recipe = dataclasses.replace(recipe, seed=0)
    return [cell for cell in CELLS if recipe_for_cell(cell) == recipe]


def describe(name: str) -> str:
    """Say in several lines what a recipe does, how to run it, and what the paper measured."""
    recipe, workdir = get_recipe(name), f"runs/{pathlib.Path(name).stem}"
    lines = [name, "", f"  python -m training.train --recipe {name} --workdir {workdir}"]
    lines += [f"  {paper_error(cell)}" for cell in paper_cells(recipe)] or ["  not in the paper"]
    width = max(map(len, dataclasses.asdict(recipe)))
    lines += ["", *(f"  {key:<{width}}  {v}" for key, v in dataclasses.asdict(recipe).items())]
    return "\n".join(lines)


def paper_error(cell: Cell) -> str:
    """Say what the paper measured in a cell, and where."""
    return f"{cell.error:.2f} % test error, Table {NUMERALS[cell.table]} of {SOURCE}"
