import dataclasses
import pathlib

import pytest
from study_folders import write_run

from training.studies.plan import (
    check_networks,
    plan_conditions,
    plan_runs,
    recipes_of_tables,
)

DSCONV = "resnet20_dsconv_cifar10"
WORKDIR = pathlib.Path("work")


def test_tables_name_their_recipes_once():
    assert len(recipes_of_tables([1])) == 18
    assert len(recipes_of_tables([4])) == 16
    both = recipes_of_tables([1, 5], ["resnet20"], ["cifar10"])
    assert both == [
        *(f"resnet20_{conv}_cifar10" for conv in ("dsconv", "mixconv", "multiception", "standard"))
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([6],), "`table` must be 1, 2, 3, 4 or 5. Received: table=6"),
        (
            ([1], ["vgg"]),
            "`models` must be of the tables asked for: resnet20.*Received: models=vgg",
        ),
        (([2], [], ["cifar10"]), "`datasets` must be of the tables asked for: stl10. Received"),
        (([1], ["resnet20"], ["cifar100"]), "leave no cell of the tables"),
    ],
)
def test_tables_without_such_a_cell_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipes_of_tables(*arguments)


def test_grid_tries_every_combination():
    grid = ["conv=dsconv", "conv=standard", "kernel_sizes=3-5,3-5,3-3", "kernel_sizes=none"]
    conditions = plan_conditions([DSCONV], changes=["epochs=9"], grid=grid)
    recipes = [condition.recipe for condition in conditions]
    sizes = ((3, 5), (3, 5), (3, 3))
    assert [(recipe.conv, recipe.kernel_sizes) for recipe in recipes] == [
        ("dsconv", sizes),
        ("dsconv", None),
        ("standard", sizes),
        ("standard", None),
    ]
    assert {recipe.epochs for recipe in recipes} == {9}
    assert len({condition.label for condition in conditions}) == 4


def test_runs_are_seed_after_seed_and_can_be_given_to_the_train_command():
    runs = plan_runs(plan_conditions(["resnet20_standard_cifar10", DSCONV], quick=True), 2, WORKDIR)
    assert [(run.recipe.conv, run.seed) for run in runs] == [
        ("standard", 0),
        ("dsconv", 0),
        ("standard", 1),
        ("dsconv", 1),
    ]
    assert runs[3].path == WORKDIR / f"{DSCONV}_quick" / "seed_1"
    assert runs[3].arguments == ("--recipe", DSCONV, "--quick", "--set", "seed=1")
    [run] = plan_runs(plan_conditions([DSCONV], changes=["epochs=3"]), 1, WORKDIR)
    assert run.arguments == ("--recipe", DSCONV, "--set", "epochs=3", "seed=0")
    assert run.recipe.epochs == 3


def test_labels_are_one_folder_each():
    [condition] = plan_conditions([DSCONV], grid=["dataset=imagenet_resized/32x32"])
    assert "/" not in condition.label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"changes": ["seed=3"]}, "`seed` is set by --seeds"),
        ({"grid": ["seed=3"]}, "`seed` is set by --seeds"),
        ({"grid": ["epoch=3"]}, "`epoch` is not a key"),
        ({"grid": ["epochs"]}, "key=value"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_conditions([DSCONV], **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model=resnet21", "`model` must be one of .*resnet20.* Received: model=resnet21"),
        ("dataset=cifar99", "`dataset` must be one of cifar10, .*folder. Received"),
        ("kernel_sizes=4", "`kernel_sizes` must"),
        ("kernel_sizes=3,4,3", "`kernel_sizes` must"),
    ],
)
def test_networks_and_data_are_known_before_anything_is_trained(change, message):
    check_networks(plan_conditions([DSCONV, "resnet20_multiception_folder"]))
    with pytest.raises(ValueError, match=message):
        check_networks(plan_conditions([DSCONV], grid=[change]))


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder, epochs in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.json").write_text(
            f'{{"dataset": "digits", "model": "resnet20", "conv": "dsconv", "epochs": {epochs}}}'
        )
    names = [str(tmp_path / folder / "mine.json") for folder in "ab"]
    with pytest.raises(ValueError, match="must not name two by the same name"):
        plan_conditions(names)


def test_runs_of_other_recipes_are_not_mixed_in(tmp_path):
    [run] = plan_runs(plan_conditions([DSCONV]), 1, tmp_path)
    write_run(run, 8.5)
    assert plan_runs(plan_conditions([DSCONV]), 1, tmp_path) == [run]
    with pytest.raises(ValueError, match=r"other recipes.*epochs \(300 there, 9 now\). Received"):
        plan_runs(plan_conditions([DSCONV], changes=["epochs=9"]), 1, tmp_path)
    with pytest.raises(ValueError, match=r"`seeds` must be at least 1. Received: seeds=0"):
        plan_runs([], 0, tmp_path)


def test_seed_is_all_that_runs_of_a_condition_differ_in(tmp_path):
    one, other = plan_runs(plan_conditions([DSCONV]), 2, tmp_path)
    assert dataclasses.replace(one.recipe, seed=1) == other.recipe
