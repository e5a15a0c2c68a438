"""The command that measures speed, on settings so small that its numbers mean nothing."""

import csv
import json
import pathlib
import time

import pytest

from training import benchmark
from training.benchmarks.plan import CHOICES, Job, Plan, take_turn
from training.benchmarks.worker import Worker


def measured(path):
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.slow
def test_measures_in_turns_and_writes_what_it_measured(tmp_path):
    arguments = "--conv dsconv --task inference --forms plain separate --inference_batch_sizes 1 2"
    output = tmp_path / "runs" / "speed"
    settings = ["--rounds", "2", "--seconds", "0", "--no_memory", "--output", str(output)]
    assert benchmark.main([*arguments.split(), *settings]) == 0
    results = measured(output)
    cases = [(row["form"], row["batch_size"]) for row in results["rows"]]
    assert cases == [("plain", 1), ("separate", 1), ("plain", 2), ("separate", 2)]
    assert all(row["milliseconds"]["n"] == 2 and row["vs_plain"] for row in results["rows"])
    assert all(row["of_limit"] > 0 for row in results["rows"])
    assert set(results["limits"]) == {"product", "stream"}
    facts = results["environments"]["keras"]
    assert (facts["backend"], facts["onednn"]) == ("tensorflow", "on")
    assert facts["versions"].keys() >= {"python", "keras", "tensorflow"}
    assert str(tmp_path) not in output.with_suffix(".md").read_text()
    assert len(list(csv.reader(output.with_suffix(".csv").open()))) == 5


@pytest.mark.slow
def test_measures_every_form(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("ai_edge_litert")
    arguments = ["--conv", "multiception", "--batch_size", "2", "--inference_batch_sizes", "1"]
    arguments += ["--steps", "1", "--rounds", "1", "--seconds", "0", "--onednn", "both"]
    assert benchmark.main([*arguments, "--output", str(tmp_path / "all")]) == 0
    results = measured(tmp_path / "all")
    rows = {(row["task"], row["form"]) for row in results["rows"] if row["side"] != "torch"}
    keras = [form for name, forms in CHOICES.items() if name != "torch" for form in forms]
    expected = {("inference", form) for form in keras}
    expected |= {(task, form) for task in ("train_step", "fit") for form in ("plain", "fast")}
    assert rows == expected
    sides = {row["side"] for row in results["rows"]}
    assert sides == {"keras", "keras, oneDNN off", "torch"}
    assert results["left_out"] == []
    assert [row["form"] for row in results["memory"]] == ["plain", "fast", "torch_channels_last"]
    assert all(row["peak"] > row["before"] > 1e7 for row in results["memory"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (("standard", "dsconv", "mixconv", "multiception"), 7, True)),
        (["--quick"], (("multiception",), 3, False)),
        (["--quick", "--conv", "dsconv", "--rounds", "9"], (("dsconv",), 9, False)),
    ],
)
def test_quick_is_other_defaults(arguments, expected, monkeypatch, tmp_path):
    received = []

    def run(plan, onednn, memory):
        received.append((plan.convs, plan.rounds, memory))
        raise ValueError

    monkeypatch.setattr(benchmark, "run", run)
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--output", str(tmp_path / "x")])
    assert received == [expected]


def test_a_turn_does_once_more_than_it_counts():
    calls = []
    assert take_turn(Job(lambda: calls.append(time.sleep(0.01)), units=2), 0) < 0.01 * 5
    assert len(calls) == 2
    seconds = take_turn(Job(lambda: calls.append(time.sleep(0.01))), 0.05)
    assert 4 <= len(calls) <= 8
    assert seconds >= 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--conv nothing", "invalid choice: 'nothing'"),
        ("--forms fastest", "invalid choice: 'fastest'"),
        ("--rounds 0", "`rounds` must be at least 1. Received: rounds=0"),
        ("--batch_size 0", "`batch_size` must be at least 1"),
        ("--inference_batch_sizes 1 0", "`inference_batch_sizes` must be at least 1 each"),
        ("--threads 10000", "`threads` must be at most the number of cores"),
        ("--seconds nan", "`seconds` must be between 0 and 60. Received: seconds=nan"),
        ("--render nothing.json", "`render` must be the .json file"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        benchmark.main(arguments.split())
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_another_backend_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(SystemExit):
        benchmark.main([])
    assert "`KERAS_BACKEND` must be tensorflow or jax. Received: torch" in capsys.readouterr().err


def test_an_unknown_network_is_refused_by_its_process():
    plan = Plan(("vgg",), ("dsconv",), ("inference",), ("plain",))
    with (
        Worker("keras", plan) as worker,
        pytest.raises(ValueError, match=r"`model` must be among .* Received: model=vgg"),
    ):
        worker.make()


def test_a_process_that_dies_is_reported():
    worker = Worker("keras", Plan((), (), (), ()))
    worker._process.kill()
    with pytest.raises(RuntimeError, match=r"process of the keras side ended with exit code -9"):
        worker.environment()
    worker.close()


def test_an_output_that_cannot_be_written_fails_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = pathlib.Path(tmp_path / "file" / "speed")
    assert benchmark.main(["--output", str(output)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
