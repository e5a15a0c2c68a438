import dataclasses
import json
import math
import pathlib
import re

import pytest

import keras_multiception as km
from training.recipes import (
    CELLS,
    IMAGENET32,
    RECIPES,
    Cell,
    describe,
    get_recipe,
    paper_cells,
    recipe_for_cell,
    recipe_name,
)

MULTICEPTION = "resnet20_multiception_cifar10"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.mark.parametrize("name", RECIPES)
def test_names_say_what_recipes_do_and_quick_variants_do_it_on_less(name):
    recipe = RECIPES[name]
    assert re.sub("_(modern|short|muon)$", "", name) == recipe_name(recipe)
    assert recipe.model in km.list_models()
    assert recipe.dataset in (*km.preprocessing.DATASETS, "folder")
    quick = get_recipe(name, quick=True)
    same = ("dataset", "model", "conv", "kernel_sizes", "momentum", "l2", "flip", "pad_and_crop")
    assert all(getattr(quick, key) == getattr(recipe, key) for key in same)
    assert quick.epochs <= 5


PAPER = {
    "train_split": "train",
    "learning_rate": 0.1,
    "min_learning_rate": 5e-5,
    "optimizer": "sgd",
    "momentum": 0.9,
    "l2": 2e-4,
    "l2_on_vectors": True,
    "accumulate_steps": 1,
    "schedule_interval": "epoch",
    "sync_batch_norm": False,
    "dtype_policy": "float32",
    **dict.fromkeys(("image_size", "filters", "warmup_epochs", "weight_decay", "seed"), 0),
    **dict.fromkeys(("clip_norm", "ema", "label_smoothing", "mixup", "cutmix"), 0),
}
CIFAR = {"test_split": "test", "epochs": 300, "batch_size": 128, "pad_and_crop": 4, "flip": True}
STL10 = CIFAR | {"batch_size": 64}
IMAGENET = CIFAR | {"test_split": "validation", "epochs": 50, "pad_and_crop": 0, "flip": False}
OF_DATASET = {"cifar10": CIFAR, "cifar100": CIFAR, "stl10": STL10, IMAGENET32: IMAGENET}


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_has_a_recipe_with_the_settings_of_the_paper(cell):
    recipe = RECIPES[recipe_name(recipe_for_cell(cell))]
    assert cell in paper_cells(recipe)
    network = {key: getattr(cell, key) for key in ("dataset", "model", "conv", "kernel_sizes")}
    assert dataclasses.asdict(recipe) == PAPER | OF_DATASET[cell.dataset] | network


def test_cells_are_those_of_the_published_tables():
    path = SHARED / "paper" / "tables.json"
    if not path.is_file():
        pytest.skip("the transcribed tables are not here")
    tables = json.loads(path.read_text())
    ours = {
        "senet56": "seresnet56",
        "shakenet26_2x96d": "shakeshake26",
        "imagenet32x32": IMAGENET32,
    }
    expected = []
    for number in (1, 2, 3, 5):
        for row in tables[f"table{number}"]:
            place = number, *(ours.get(row[key], row[key]) for key in ("dataset", "model"))
            for conv in ("standard", "dsconv", "mixconv", "multiception"):
                error = row.get(f"{conv}_error" if number == 5 else conv)
                if error is not None:
                    expected.append(Cell(*place, conv, error))
    columns = tables["table4"].pop("columns")
    for title, errors in tables["table4"].items():
        if title != "model":
            first = tuple(int(size[0]) for size in title.split(" & "))
            sizes = None if first == (3, 5, 7) else (first, (3, 5), (3, 3))
            for dataset, error in zip(columns, errors, strict=True):
                name = ours.get(dataset, dataset)
                expected.append(Cell(4, name, "resnet50", "multiception", error, sizes))
    assert sorted(expected, key=str) == sorted(CELLS, key=str)


def test_overrides_come_after_the_quick_variant():
    assert get_recipe(MULTICEPTION, ["epochs=7"], quick=True).epochs == 7


def test_describe_states_command_error_and_source():
    text = describe(MULTICEPTION)
    assert f"python -m training.train --recipe {MULTICEPTION} --workdir" in text
    assert "7.53 % test error, Table I of Bao, Graeber, Wang" in text
    assert "not in the paper" in describe("resnet20_multiception_digits")


@pytest.fixture
def write(tmp_path):
    def write(recipe, **changes):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(dataclasses.asdict(recipe) | changes))
        return str(path)

    return write


def test_recipe_from_a_file(write):
    recipe = get_recipe(MULTICEPTION, ["kernel_sizes=3-5-7,3-5,3-3", "epochs=3"])
    assert get_recipe(write(recipe)) == recipe
    assert get_recipe(write(recipe, learning_rate=1)).learning_rate == 1
    assert f"--recipe {write(recipe)} --workdir runs/mine\n" in describe(write(recipe))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("flip", "false", "true or false"),
        ("epochs", True, "an integer"),
        ("learning_rate", "0.1", "a number"),
        ("model", 5, "a string"),
        ("kernel_sizes", [[3, 5], 3], "kernel sizes such as 3-5"),
    ],
)
def test_values_in_a_file_are_of_their_types(key, value, expected, write):
    with pytest.raises(ValueError, match=f"`{key}` must be {expected}.* Received: {key}="):
        get_recipe(write(RECIPES[MULTICEPTION], **{key: value}))


@pytest.mark.parametrize("text", ["", "[]", '{"epochs": 3}', '{"epoch": 3}', None])
def test_file_without_a_recipe_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ValueError, match=r"`recipe` must be the path of a JSON.*Received: recipe"):
        get_recipe(str(tmp_path / "mine.json"))


def test_warmup_rises_to_the_learning_rate_and_the_cosine_follows():
    recipe = get_recipe(MULTICEPTION, ["epochs=10", "warmup_epochs=4"])
    rates = [recipe.learning_rate_at(epoch) for epoch in range(10)]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert recipe.learning_rate_at(3.999) == pytest.approx(0.1, rel=1e-3)
    assert recipe.learning_rate_at(10) == pytest.approx(5e-5)


def test_learning_rate_is_the_recursion_of_pytorch():
    # CosineAnnealingLR(T_max=epochs, eta_min), as PyTorch computes it: from epoch to epoch
    recipe = get_recipe(MULTICEPTION)
    rate, low = recipe.learning_rate, recipe.min_learning_rate
    for epoch in range(recipe.epochs):
        assert recipe.learning_rate_at(epoch) == pytest.approx(rate, rel=1e-9)
        turn = math.pi / recipe.epochs
        rate = low + (rate - low) * (1 + math.cos(turn * (epoch + 1))) / (
            1 + math.cos(turn * epoch)
        )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("epochs=3", 3),
        ("learning_rate=1", 1.0),
        ("flip=False", False),
        ("train_split=train[:10%]", "train[:10%]"),
        ("kernel_sizes=3", (3,)),
        ("kernel_sizes=3-5-7,3-5,3-3", ((3, 5, 7), (3, 5), (3, 3))),
        ("kernel_sizes=none", None),
    ],
)
def test_overrides_are_parsed_by_type(override, value):
    key = override.split("=")[0]
    parsed = getattr(get_recipe(MULTICEPTION, ["kernel_sizes=7", override]), key)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "key=value"),
        ("epoch=3", "`set` must be .*epochs.*Received: set=epoch=3"),
        ("epochs=3.5", "`epochs` must be an integer. Received: epochs=3.5"),
        ("learning_rate=nan", "`learning_rate` must be above 0 and finite"),
        ("min_learning_rate=0.2", "`min_learning_rate` must be from 0 to `learning_rate`, 0.1"),
        ("momentum=1", "`momentum` must be at least 0 and less than 1"),
        ("optimizer=muon", '`l2` must be 0 unless `optimizer` is "sgd". Received: l2=0.0002'),
        ("warmup_epochs=300", "`warmup_epochs` must be less than `epochs`, 300"),
        ("dtype_policy=float7", "`dtype_policy` must be one of float32, mixed_bfloat16"),
        ("kernel_sizes=3;5", "`kernel_sizes` must be kernel sizes such as 3-5"),
        ("conv=multi", "`conv` must be one of standard, .*, multiception. Received: conv=multi"),
    ],
)
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        get_recipe(MULTICEPTION, [override])


def test_unknown_recipe_names_close_ones():
    with pytest.raises(ValueError, match="did you mean resnet20_multiception_cifar10"):
        get_recipe("resnet20_multiception_cifar")
    with pytest.raises(ValueError, match="--list"):
        get_recipe("?")
