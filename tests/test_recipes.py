import dataclasses
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_multiception as km
from training.recipes import RECIPES, Recipe, get_recipe

MULTICEPTION = "resnet20_multiception_cifar10"


@pytest.mark.parametrize("name", RECIPES)
def test_names_say_what_recipes_do(name):
    recipe = RECIPES[name]
    assert name == f"{recipe.model}_{recipe.conv}_{recipe.dataset}"
    assert recipe.model in km.list_models()
    assert recipe.dataset in km.preprocessing.DATASETS


@pytest.mark.parametrize("model", ["resnet20", "resnet50"])
@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv", "multiception"])
def test_cifar10_follows_the_paper(model, conv):
    recipe = get_recipe(f"{model}_{conv}_cifar10")
    assert dataclasses.asdict(recipe) == {
        "dataset": "cifar10",
        "model": model,
        "conv": conv,
        "kernel_sizes": None,
        "train_split": "train",
        "test_split": "test",
        "epochs": 300,
        "batch_size": 128,
        "learning_rate": 0.1,
        "min_learning_rate": 5e-5,
        "momentum": 0.9,
        "l2": 2e-4,
        "pad_and_crop": 4,
        "flip": True,
        "seed": 0,
        "dtype_policy": "float32",
    }


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


@given(epochs=st.integers(1, 1000), low=st.floats(0, 0.1))
def test_learning_rate_falls_and_stays_within_its_bounds(epochs, low):
    recipe = dataclasses.replace(RECIPES[MULTICEPTION], epochs=epochs, min_learning_rate=low)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(epochs)]
    assert rates[0] == recipe.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert min(rates) >= low


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("epochs=3", 3),
        ("learning_rate=1", 1.0),
        ("l2=1e-4", 1e-4),
        ("flip=False", False),
        ("flip=true", True),
        ("conv=dsconv", "dsconv"),
        ("train_split=train[:10%]", "train[:10%]"),
        ("kernel_sizes=3-5", (3, 5)),
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


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3), st.booleans())
def test_values_survive_being_written(batch_size, learning_rate, flip):
    written = [f"batch_size={batch_size}", f"learning_rate={learning_rate}", f"flip={flip}"]
    recipe = get_recipe(MULTICEPTION, written)
    assert (recipe.batch_size, recipe.learning_rate, recipe.flip) == (
        batch_size,
        learning_rate,
        flip,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "key=value"),
        ("epoch=3", "`epoch` is not a key.*epochs.*Received: epoch=3"),
        ("epochs=3.5", "`epochs` must be an integer. Received: epochs=3.5"),
        ("epochs=0", "`epochs` must be at least 1. Received: epochs=0"),
        ("batch_size=-1", "`batch_size` must be at least 1"),
        ("learning_rate=fast", "`learning_rate` must be a number"),
        ("learning_rate=nan", "`learning_rate` must be a finite number above 0"),
        ("learning_rate=inf", "`learning_rate` must be a finite number above 0"),
        ("min_learning_rate=0.2", "`min_learning_rate` must be from 0 to `learning_rate`, 0.1"),
        ("momentum=1", "`momentum` must be at least 0 and less than 1"),
        ("l2=-1", "`l2` must be"),
        ("pad_and_crop=-1", "`pad_and_crop` must be"),
        ("seed=-1", "`seed` must be"),
        ("flip=maybe", "`flip` must be true or false"),
        ("dtype_policy=float7", "`dtype_policy` must be one of float32, mixed_bfloat16"),
        ("kernel_sizes=3;5", "`kernel_sizes` must be kernel sizes such as 3-5"),
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


def test_recipes_are_hashable_values():
    assert len({*RECIPES.values(), Recipe("cifar10", "resnet20", "multiception")}) == len(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--recipe and --workdir are needed"),
        (["--recipe", "resnet", "--workdir", "x"], "`recipe` is unknown"),
        (["--recipe", MULTICEPTION, "--workdir", "x", "--set", "a=b"], "`a` is not a key"),
        (["--epochs", "3"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "training.train", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_list_shows_every_recipe():
    command = [sys.executable, "-m", "training.train", "--list"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == list(RECIPES)
