import csv
import json
import socket

import keras
import keras_tuner
import pytest
from commands import finish, kill_when, start, usage_error

from keras_multiception.applications.classifier import PAPER_KERNEL_SIZES
from training.recipes import get_recipe
from training.tune import (
    PAGE,
    RecipeTuner,
    hold_out,
    main,
    measure_latency,
    parse_budget,
    trial_recipe,
)

DIGITS = "resnet20_standard_digits"
TINY = ["epochs=2", "train_split=train[:80]"]


def values_of(name=DIGITS, changes=(), **values):
    hp = keras_tuner.HyperParameters()
    hp.values = values
    return trial_recipe(get_recipe(name, changes), hp)


@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv", "multiception"])
def test_default_is_the_recipe(conv):
    recipe = values_of(f"resnet20_{conv}_digits")
    assert (recipe.conv, recipe.filters, recipe.learning_rate, recipe.l2) == (conv, 16, 0.1, 2e-4)
    if conv == "multiception":
        assert recipe.kernel_sizes == PAPER_KERNEL_SIZES
    recipe = values_of(f"resnet20_{conv}_digits", ["kernel_sizes=5", "l2=0"])
    assert recipe.kernel_sizes in ((5,), ((5,),) * 3)
    assert recipe.l2 == 0


def test_values_of_a_trial_go_into_its_recipe():
    sizes = {"kernel_sizes_1": "3-7", "kernel_sizes_2": "5", "kernel_sizes_3": "3-3"}
    recipe = values_of(conv="mixconv", filters=24, l2=1e-3, **sizes)
    assert recipe.kernel_sizes == ((3, 7), (5,), (3, 3))
    assert (recipe.conv, recipe.filters, recipe.l2) == ("mixconv", 24, 1e-3)
    assert values_of(conv="standard", kernel_sizes_1="3-7").kernel_sizes is None
    recipe = values_of(DIGITS, ["optimizer=muon", "l2=0", "weight_decay=0.02"], weight_decay=0.1)
    assert (recipe.optimizer, recipe.l2, recipe.weight_decay) == ("muon", 0, 0.1)
    # Hyperband shortens the schedule
    recipe = values_of(DIGITS, ["epochs=9", "warmup_epochs=3"], **{"tuner/epochs": 3})
    assert (recipe.epochs, recipe.warmup_epochs) == (3, 2)


@pytest.mark.parametrize(
    ("split", "kept", "held_out"),
    [
        ("train", "train[:90%]", "train[90%:100%]"),
        ("train[:20%]", "train[:18%]", "train[18%:20%]"),
        ("train[:64]", "train[:58]", "train[58:64]"),
        ("train[:12.5%]", "train[:11.25%]", "train[11.25%:12.5%]"),
    ],
)
def test_last_tenth_of_the_training_split_is_held_out(split, kept, held_out):
    recipe = hold_out(get_recipe(DIGITS, [f"train_split={split}"]))
    assert (recipe.train_split, recipe.test_split) == (kept, held_out)
    own = hold_out(get_recipe(DIGITS, ["train_split=train[10%:]"]), "train[:10%]")
    assert (own.train_split, own.test_split) == ("train[10%:]", "train[:10%]")


def test_learning_rates_are_none_that_a_recipe_refuses():
    hp = keras_tuner.HyperParameters()
    trial_recipe(get_recipe(DIGITS, ["min_learning_rate=0.09"]), hp)
    assert [each.min_value for each in hp.space if each.name == "learning_rate"] == [0.09]


def test_budget():
    budget = {"parameters": 200000, "latency_ms": 2.5}
    assert parse_budget(["parameters=200000", "latency_ms=2.5"]) == budget
    wrong = ("parameters", "parameters=few", "bytes=3", "parameters=0", "parameters=-5")
    for text in (*wrong, "latency_ms=nan", "latency_ms=inf"):
        with pytest.raises(ValueError, match=f"`budget` must be.*Received: budget={text}"):
            parse_budget([text])


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "hyperband"])
def test_first_trial_is_the_recipe_and_a_reloaded_search_tries_again_what_was_begun(
    algorithm, tmp_path
):
    recipe = hold_out(get_recipe("resnet20_multiception_digits", TINY))
    first = RecipeTuner(recipe, tmp_path, algorithm, 5).oracle.create_trial("tuner0")
    assert trial_recipe(recipe, first.hyperparameters).learning_rate == recipe.learning_rate
    assert first.hyperparameters.values["kernel_sizes_1"] == "3-5-7"
    # killed here; or, the other time, after the trial was written and before the oracle was
    for damage in (lambda state: None, lambda state: state.update(ongoing_trials={})):
        path = tmp_path / "search" / "oracle.json"
        state = json.loads(path.read_text())
        damage(state)
        path.write_text(json.dumps(state))
        again = RecipeTuner(recipe, tmp_path, algorithm, 5).oracle.create_trial("tuner0")
        assert again.trial_id == first.trial_id
        assert again.hyperparameters.values == first.hyperparameters.values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--recipe mobilenetv2_multiception_stl10", "`filters` must be 0 for mobilenetv2"),
        (f"--recipe {DIGITS} --trials 0", "must be at least 1, not 0"),
        (f"--recipe {DIGITS} --budget size=3", "`budget` must be"),
        (f"--recipe {DIGITS} --set train_split=train[10%:]", "`validation_split` must be given"),
        (f"--recipe {DIGITS} --set train_split=train[:1]", "too small to take a tenth out"),
        (f"--recipe {DIGITS} --validation_split train[90%:]", "must have nothing of `train_split`"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, capsys, tmp_path):
    assert message in usage_error(capsys, main, [*arguments.split(), "--workdir", tmp_path])
    assert not (tmp_path / "tune.json").exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"recipe": 3}'])
def test_another_file_in_the_place_of_a_search_is_one_line(content, capsys, tmp_path):
    (tmp_path / "tune.json").write_text(content)
    arguments = ["--recipe", DIGITS, "--workdir", tmp_path]
    assert "tune.json is not that of a search" in usage_error(capsys, main, arguments)


@pytest.mark.slow
def test_all_over_budget_is_an_error_and_other_searches_are_kept_apart(tmp_path, capsys):
    arguments = ["--recipe", DIGITS, "--set", *TINY, "--algorithm", "random", "--trials", "2"]
    arguments += ["--workdir", str(tmp_path), "--budget"]
    assert main([*arguments, "parameters=1000"]) == 1
    assert "no trial could be trained: all are over the budget" in capsys.readouterr().err
    assert "| over budget |" in (tmp_path / "tune.md").read_text()
    assert not (tmp_path / "winner.json").exists()
    error = usage_error(capsys, main, [*arguments, "parameters=2000"])
    assert "`workdir` must not hold another configuration" in error
    assert "budget ({'parameters': 1000} there, {'parameters': 2000} now)" in error


def start_search(workdir, trials=2, **environment):
    arguments = ["--recipe", DIGITS, "--set", *TINY, "--algorithm", "random"]
    arguments += ["--trials", trials, "--workdir", workdir]
    return start(*arguments, module="training.tune", **environment)


def trials_of(workdir):
    """Return the row of each trial's accuracy."""
    with (workdir / "tune.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["metric"] == "accuracy"]


@pytest.mark.slow
def test_killed_and_repeated_equals_unbroken_also_with_more_trials(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    finish(start_search(unbroken))
    moment = killed / "search" / "trial_0" / "run" / "checkpoints" / "epoch_0001"
    kill_when(moment, start_search(killed, trials=1))
    (output,) = finish(start_search(killed))
    assert "Resuming after epoch 1 of 2" in output
    assert "Running Trial #2" in output
    assert trials_of(killed) == trials_of(unbroken)
    assert [row["status"] for row in trials_of(killed)] == ["trained", "trained"]
    winner = get_recipe(str(killed / "winner.json"))
    assert (winner.train_split, winner.test_split) == ("train[:80]", "test")
    accuracies = {row["learning_rate"]: float(row["value"]) for row in trials_of(killed)}
    assert accuracies[str(winner.learning_rate)] == max(accuracies.values())


@pytest.mark.slow
def test_a_chief_and_workers_search_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    names = ("worker0", "worker1", "chief")
    started = [start_search(tmp_path, KERASTUNER_TUNER_ID=name, **shared) for name in names]
    *_, said = finish(*started)
    assert "won" in said
    assert [row["status"] for row in trials_of(tmp_path)] == ["trained", "trained"]
    assert (tmp_path / "winner.json").is_file()


@pytest.mark.backend
def test_latency_is_that_of_one_image():
    inputs = x = keras.Input((32, 32, 3))
    small = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    for _ in range(4):
        x = keras.layers.Conv2D(64, 5, padding="same")(x)
    assert 0 < measure_latency(small, calls=5) < measure_latency(keras.Model(inputs, x), calls=5)


def test_page_of_a_search(tmp_path):
    changes = ["conv=multiception", "kernel_sizes=3-5,3,3", "filters=16"]
    trials = [
        {"trial": str(name), "recipe": get_recipe(DIGITS, changes), "status": status}
        | {"accuracy": accuracy, "parameters": parameters, "latency_ms": parameters}
        for name, (accuracy, parameters, status) in enumerate(
            [
                (0.8, 190_000, "trained"),
                (None, 400_000, "over budget"),
                (0.8, 150_000, "trained"),
                (None, None, "failed"),
            ]
        )
    ]
    results = {"introduction": "What was searched.", "trials": trials}
    PAGE.write_files(results, tmp_path / "tune")
    page = " ".join((tmp_path / "tune.md").read_text().split())
    assert "The winner is trial 2" in page
    assert "| 2 | multiception | 3-5, 3, 3 | 16 | 0.1 |" in page
    assert "| over budget | - | 400,000 |" in page
    assert len(trials_of(tmp_path)) == 4
    PAGE.write_files(results | {"trials": []}, tmp_path / "none")
