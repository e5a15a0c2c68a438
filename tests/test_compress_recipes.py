import pytest

from training.compression.recipes import DEFAULT, parse_recipes, split_step


def names(text):
    return [recipe.name for recipe in parse_recipes(text)]


def test_default_is_known_and_begins_with_float():
    assert names(DEFAULT)[0] == "float"
    assert len(names(DEFAULT)) == len(DEFAULT.split(","))


def test_names_are_taken_once_and_in_order():
    assert names(" qat, float,qat,") == ["qat", "float"]


@pytest.mark.parametrize(
    ("name", "training", "conversion"),
    [
        ("float", (), "none"),
        ("ptq", (), "int8"),
        ("float16", (), "float16"),
        ("qat", ("quantize",), "int8"),
        ("prune2to4", ("prune2to4",), "none"),
        ("prune80", ("prune80",), "none"),
        ("pqat", ("prune50", "quantize"), "int8"),
        ("pqat75", ("prune75", "quantize"), "int8"),
        ("cqat", ("cluster16", "quantize"), "int8"),
        ("branches40", ("branches40",), "none"),
    ],
)
def test_steps_of_a_recipe(name, training, conversion):
    (recipe,) = parse_recipes(name)
    assert recipe.training_steps == training
    assert recipe.conversion == conversion
    numbers = [str(number) for _, number in map(split_step, training) if number]
    assert all(number in recipe.description for number in numbers)


@pytest.mark.parametrize(
    ("step", "parts"),
    [("tune", ("tune", 0)), ("prune50", ("prune", 50)), ("prune2to4", ("prune2to4", 0))],
)
def test_steps_are_a_kind_and_a_number(step, parts):
    assert split_step(step) == parts


@pytest.mark.parametrize("text", ["", " , ", "fast", "prune", "prune50x", "50", "qat8", "float,-1"])
def test_unknown_recipes_are_named(text):
    with pytest.raises(ValueError, match=r"`recipe` must .* Received: recipe="):
        parse_recipes(text)


@pytest.mark.parametrize("text", ["prune0", "prune100", "cluster1", "cluster257", "branches100"])
def test_numbers_out_of_range_are_refused(text):
    with pytest.raises(
        ValueError, match=rf"`recipe` must have a number .* Received: recipe={text}"
    ):
        parse_recipes(text)
