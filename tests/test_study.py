import json
import pathlib
import shlex

import pytest
from commands import finish, kill_when, start, usage_error
from study_folders import write_runs

from training.study import main
from training.study_runs import find_gpus, plan_conditions, plan_runs, recipes_of_tables

DIGITS = ["resnet20_dsconv_digits", "resnet20_multiception_digits"]
DSCONV = "resnet20_dsconv_cifar10"
STANDARD = "resnet20_standard_digits"
WORKDIR = pathlib.Path("work")
RESULTS = pathlib.Path(__file__).parents[1] / "training" / "results"
TINY = ["epochs=2", "train_split=train[:64]", "test_split=test[:32]"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the command sets, and is set back


def start_study(workdir, *arguments):
    recipe = ["--recipe", STANDARD, "--set", *TINY, "--seeds", "1", "--workdir", workdir]
    return start(*recipe, *arguments, module="training.study")


def errors_of(workdir):
    results = json.loads((workdir / "study.json").read_text())
    assert results["missing"] == []
    return {c["label"]: [run["error_by_epoch"] for run in c["runs"]] for c in results["conditions"]}


@pytest.mark.slow
def test_killed_and_repeated_equals_unbroken(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    finish(start_study(unbroken))
    kill_when(killed / STANDARD / "seed_0" / "checkpoints" / "epoch_0001", start_study(killed))
    assert not (killed / STANDARD / "seed_0" / "metrics.json").exists()
    # the training process ends with the study, so that the same command can go on at once
    (output,) = finish(start_study(killed))
    assert f"{STANDARD}, seed 0: resumed" in output
    assert "0 of 1 runs are finished" in output
    assert errors_of(killed) == errors_of(unbroken)


@pytest.mark.slow
def test_failing_runs_are_reported_and_the_others_go_on(tmp_path):
    grid = ["--grid", "batch_size=100000", "batch_size=32", "--parallel", "2"]
    process = start_study(tmp_path, *grid)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "FAILED with exit code 2, others go on: python -m training.train: error" in output
    assert "`batch_size` must be at most the number of training images, 64" in output
    assert f"{STANDARD}_batch_size=32, seed 0: " in output
    page = " ".join((tmp_path / "study.md").read_text().split())
    assert f"1 of 2 runs have no result yet: {STANDARD}_batch_size=100000, seed 0" in page
    assert "| ResNet-20 on digits | standard | 32 |" in page


def test_summary_of_what_is_there(tmp_path, capsys):
    runs = plan_runs(plan_conditions(DIGITS), 2, tmp_path)
    write_runs(runs, lambda recipe, seed: 5.0 if seed == 0 else None)
    output = tmp_path / "results" / "digits"
    arguments = ["--recipe", *DIGITS, "--seeds", "2", "--workdir", str(tmp_path), "--summary_only"]
    assert main([*arguments, "--output", str(output), "--note", "a few digits"]) == 1
    assert f"{runs[2]}: no result" in capsys.readouterr().out
    page = pathlib.Path(f"{output}.md").read_text()
    assert f"`python -m training.study --recipe {' '.join(DIGITS)} --seeds 2`" in page
    assert str(tmp_path) not in page
    assert "a few digits" in page


@pytest.mark.parametrize("study", ["study_15_epochs", "study_60_epochs"])
def test_pages_of_this_repository_come_from_its_records(study, tmp_path):
    page = (RESULTS / f"{study}.md").read_text()
    _, _, _, *arguments = shlex.split(page.split("`")[1])
    folders = ["--workdir", str(RESULTS / study), "--output", str(tmp_path / study)]
    main([*arguments, "--summary_only", *folders])
    assert (tmp_path / f"{study}.md").read_text() == page


def test_a_summary_of_other_runs_is_not_lost(tmp_path, capsys):
    there, empty = ["--workdir", str(tmp_path / "there")], ["--workdir", str(tmp_path / "empty")]
    runs = plan_runs(plan_conditions(DIGITS), 2, tmp_path / "there")
    write_runs(runs, lambda recipe, seed: 5.0 + seed)
    shared = ["--summary_only", "--output", str(tmp_path / "study"), "--recipe"]
    assert main([*shared, *DIGITS, "--seeds", "2", *there]) == 0
    page = (tmp_path / "study.md").read_text()
    for lost, arguments in {
        DIGITS[1]: [DIGITS[0], "--seeds", "2", *there],
        f"{DIGITS[1]}, seed 1": [*DIGITS, "--seeds", "1", *there],
        f"{DIGITS[1]}, seed 0": [*DIGITS, *empty],
    }.items():
        error = usage_error(capsys, main, [*shared, *arguments])
        assert "`output` must not be the results of other runs" in error
        assert lost in error
        assert (tmp_path / "study.md").read_text() == page
    assert main([*shared, *DIGITS, "resnet20_standard_digits", "--seeds", "2", *there]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--table 7", "`table` must be 1, 2, 3, 4 or 5. Received: table=7"),
        ("--table 1 --models vgg", "`models` must be of what the tables have: resnet20, "),
        ("--table 1 --models resnet20 --datasets cifar100", "`datasets` must be of what"),
        ("--table 1 --seeds 0", "must be at least 1"),
        ("--table 1 --parallel 0", "must be at least 1, not 0"),
        ("--table 1 --grid seed=3", "`seed` is set by --seeds"),
        ("--table 1 --grid epochs", "key=value"),
        ("--render none.json", "`render` must be the .json file"),
        ("--seeds 3", "--workdir and --table or --recipe are needed, or --render"),
    ],
)
def test_bad_usage_is_one_line_and_trains_nothing(arguments, message, tmp_path, capsys):
    workdir = ["--workdir", tmp_path / "runs"]
    assert message in usage_error(capsys, main, [*arguments.split(), *workdir])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", []), ("-1", []), ("0", ["0"]), ("2,5", ["2", "5"])]
)
def test_gpus_are_those_made_visible(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == gpus


def test_tables_name_their_recipes_once():
    assert len(recipes_of_tables([1])) == 18
    assert len(recipes_of_tables([4])) == 16
    convs = ("dsconv", "mixconv", "multiception", "standard")
    names = [f"resnet20_{conv}_cifar10" for conv in convs]
    assert recipes_of_tables([1, 5], ["resnet20"], ["cifar10"]) == names


def test_grid_tries_every_combination():
    grid = ["conv=dsconv", "conv=standard", "kernel_sizes=3-5,3-5,3-3", "kernel_sizes=none"]
    conditions = plan_conditions([DSCONV], changes=["epochs=9"], grid=grid)
    recipes = [condition.recipe for condition in conditions]
    sizes = ((3, 5), (3, 5), (3, 3))
    expected = [(conv, each) for conv in ("dsconv", "standard") for each in (sizes, None)]
    assert [(recipe.conv, recipe.kernel_sizes) for recipe in recipes] == expected
    assert {recipe.epochs for recipe in recipes} == {9}
    assert len({condition.label for condition in conditions}) == 4


def test_runs_are_seed_after_seed_and_can_be_given_to_the_train_command():
    runs = plan_runs(plan_conditions(["resnet20_standard_cifar10", DSCONV], quick=True), 2, WORKDIR)
    expected = [(conv, seed) for seed in range(2) for conv in ("standard", "dsconv")]
    assert [(run.recipe.conv, run.seed) for run in runs] == expected
    assert runs[3].path == WORKDIR / f"{DSCONV}_quick" / "seed_1"
    assert runs[3].arguments == ("--recipe", DSCONV, "--quick", "--set", "seed=1")
    [run] = plan_runs(plan_conditions([DSCONV], changes=["epochs=3"]), 1, WORKDIR)
    assert run.arguments == ("--recipe", DSCONV, "--set", "epochs=3", "seed=0")
    assert run.recipe.epochs == 3


def test_two_files_of_one_name_are_refused(tmp_path):
    names = [str(tmp_path / folder / "mine.json") for folder in "ab"]
    for epochs, name in enumerate(map(pathlib.Path, names), start=3):
        name.parent.mkdir()
        recipe = {"dataset": "digits", "model": "resnet20", "conv": "dsconv", "epochs": epochs}
        name.write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="must not name two by the same name"):
        plan_conditions(names)


def test_runs_of_other_recipes_are_not_mixed_in(tmp_path):
    [run] = plan_runs(plan_conditions([DSCONV]), 1, tmp_path)
    write_runs([run], lambda recipe, seed: 8.5)
    assert plan_runs(plan_conditions([DSCONV]), 1, tmp_path) == [run]
    message = r"another configuration.*epochs \(300 there, 9 now\). Received"
    with pytest.raises(ValueError, match=message):
        plan_runs(plan_conditions([DSCONV], changes=["epochs=9"]), 1, tmp_path)
