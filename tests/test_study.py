import fcntl
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from study_folders import write_runs

from training.studies.plan import plan_conditions, plan_runs
from training.studies.runs import find_gpus, train_runs
from training.study import main

DIGITS = ["resnet20_dsconv_digits", "resnet20_multiception_digits"]
TINY = ["epochs=2", "train_split=train[:64]", "test_split=test[:32]"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the command sets, and is set back


def command(workdir, *arguments):
    recipes = ["--recipe", *DIGITS, "--seeds", "1", "--workdir", str(workdir)]
    return [sys.executable, "-m", "training.study", *recipes, *arguments]


def errors_of(workdir):
    results = json.loads((workdir / "study.json").read_text())
    assert results["missing"] == []
    return {c["label"]: [run["error_by_epoch"] for run in c["runs"]] for c in results["conditions"]}


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_repeated_equals_unbroken(tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    subprocess.run(command(unbroken, "--set", *TINY), check=True)

    process = subprocess.Popen(command(killed, "--set", *TINY), stdout=subprocess.PIPE, text=True)
    wait_for(killed / DIGITS[0] / "seed_0" / "checkpoints" / "epoch_0001", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / DIGITS[0] / "seed_0" / "metrics.json").exists()

    # the training process ends with the study, so that the same command can go on at once
    repeated = subprocess.run(
        command(killed, "--set", *TINY), capture_output=True, text=True, check=True
    )
    assert f"{DIGITS[0]}, seed 0: resumed" in repeated.stdout
    assert errors_of(killed) == errors_of(unbroken)
    again = subprocess.run(
        command(killed, "--set", *TINY), capture_output=True, text=True, check=True
    )
    assert "2 of 2 runs are finished" in again.stdout


@pytest.mark.slow
def test_failing_runs_are_reported_and_the_others_go_on(tmp_path):
    grid = ["--grid", "batch_size=100000", "batch_size=32", "--parallel", "2"]
    one = ["--recipe", DIGITS[0], "--set", *TINY, "--seeds", "1", "--workdir", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "training.study", *one, *grid],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "FAILED with exit code 2, others go on: python -m training.train: error" in result.stdout
    assert "`batch_size` must be at most the number of training images, 64" in result.stdout
    assert f"{DIGITS[0]}_batch_size=32, seed 0: " in result.stdout
    page = (tmp_path / "study.md").read_text()
    assert f"1 of 2 runs have no result yet: {DIGITS[0]}_batch_size=100000, seed 0" in page
    assert "| ResNet-20 on digits | DSConv; batch_size 32 | 1 of 1 |" in page


def test_runs_of_another_study_are_left_to_it(tmp_path, capfd):
    first, second = plan_runs(plan_conditions(DIGITS), 1, tmp_path)
    write_runs([first], lambda recipe, seed: 5.0)
    second.path.parent.mkdir()
    with second.path.with_suffix(".log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        train_runs([first, second], [], 1, None, on_finish=pytest.fail)
    assert capfd.readouterr().out.splitlines() == [
        "1 of 2 runs are finished.",
        f"{second}: another study is training it",
    ]


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


def test_a_summary_of_other_conditions_is_not_lost(tmp_path, capsys):
    shared = ["--seeds", "1", "--workdir", str(tmp_path), "--summary_only"]
    assert main(["--recipe", *DIGITS, *shared]) == 1
    page = (tmp_path / "study.md").read_text()
    with pytest.raises(SystemExit):
        main(["--recipe", DIGITS[0], *shared])
    error = capsys.readouterr().err
    assert "`output` must not be the summary of other conditions" in error
    assert f"{DIGITS[1]}. Received" in error
    assert (tmp_path / "study.md").read_text() == page
    assert main(["--recipe", *DIGITS, f"{DIGITS[0]}", *shared]) == 1  # what was there, and more
    assert main(["--recipe", DIGITS[0], *shared, "--output", str(tmp_path / "one")]) == 1


def test_a_summary_of_runs_that_are_not_there_is_not_lost(tmp_path, capsys):
    there, empty = tmp_path / "there", tmp_path / "empty"
    write_runs(plan_runs(plan_conditions(DIGITS), 2, there), lambda recipe, seed: 5.0 + seed)
    shared = ["--recipe", *DIGITS, "--summary_only", "--output", str(tmp_path / "study")]
    assert main([*shared, "--seeds", "2", "--workdir", str(there)]) == 0
    page = (tmp_path / "study.md").read_text()
    for arguments in (["--seeds", "1", "--workdir", str(there)], ["--workdir", str(empty)]):
        with pytest.raises(SystemExit):
            main([*shared, *arguments])
        error = capsys.readouterr().err
        assert "`output` must not be the summary of runs that this study does not have" in error
        assert f"{DIGITS[1]}, seed 1" in error
        assert (tmp_path / "study.md").read_text() == page


def test_a_note_is_no_mathematics(tmp_path):
    write_runs(plan_runs(plan_conditions(DIGITS), 1, tmp_path), lambda recipe, seed: 5.0)
    shared = ["--recipe", *DIGITS, "--seeds", "1", "--workdir", str(tmp_path), "--summary_only"]
    assert main([*shared, "--note", "costs $5_{ and $6"]) == 0
    assert "costs $5_{ and $6" in (tmp_path / "study.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir and --table or --recipe are needed, or --render"),
        (["--table", "1"], "--workdir and --table"),
        (["--table", "7", "--workdir", "x"], "`table` must be 1, 2, 3, 4 or 5. Received: table=7"),
        (["--recipe", "resnet", "--workdir", "x"], "`recipe` is unknown"),
        (["--table", "1", "--workdir", "x", "--seeds", "0"], "`seeds` must be at least 1"),
        (["--table", "1", "--workdir", "x", "--parallel", "0"], "`parallel` must be auto or at"),
        (["--render", "none.json"], "`render` must be the .json file"),
        (["--table", "1", "--workdir", "x", "--output", "."], "`output` must be a path of files"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", []), ("-1", []), ("0", ["0"]), ("2,5", ["2", "5"])]
)
def test_gpus_are_those_made_visible(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == gpus
