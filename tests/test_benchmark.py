"""The command that measures speed, on settings so small that its numbers mean nothing."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from commands import usage_error

from training import benchmark
from training.benchmarks import page, runner
from training.benchmarks.keras_forms import make_step
from training.benchmarks.runner import FORMS, Plan, measure

runs_here = [
    pytest.mark.backend,
    pytest.mark.skipif(
        keras.backend.backend() == "torch", reason="the benchmark is for TensorFlow and JAX"
    ),
]


@pytest.mark.slow
def test_measures_every_form(tmp_path):
    settings = "batch_size=2 inference_batch_sizes=1 rounds=1 seconds=0"
    output = tmp_path / "runs" / "all"
    assert benchmark.main(["--set", *settings.split(), "--output", str(output)]) == 0
    results = json.loads(output.with_suffix(".json").read_text())
    rows = {(row["task"], row["form"]) for row in results["rows"]}
    needed = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
    needed |= {"int8": "nncf", "litert": "ai_edge_litert"}
    forms = [
        form
        for form in FORMS
        if all(importlib.util.find_spec(needed.get(part, "keras")) for part in form.split("_"))
    ]
    expected = {("inference", form) for form in forms}
    training = ("torch", "torch_compile", "plain", "keras")
    assert rows == expected | {("train_step", form) for form in training if form in forms}
    assert len(results["left_out"]) == len(FORMS) - len(forms)
    record = results["machine"]
    assert (record["backend"], record["onednn"]) == ("tensorflow", "on")
    assert str(tmp_path) not in output.with_suffix(".md").read_text()


def test_a_race_is_written_case_by_case_and_who_waits_does_not_run(tmp_path, monkeypatch):
    monkeypatch.setitem(runner.MODULES, "keras", "light_forms")
    notes = tmp_path / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    settings = {"inference_batch_sizes": (1, 2), "rounds": 2, "seconds": 0.0, "threads": 1}
    forms = ("plain", "keras", "saved_model", "litert")
    plan = Plan(("resnet20",), ("dsconv",), ("inference",), forms, **settings)
    for count, part in enumerate(measure(plan), 1):
        results = page.summarize({**part, "command": "a", "note": "b"})
        assert [row["batch_size"] for row in results["rows"]] == [1, 1, 2, 2][: 2 * count]
        page.PAGE.write(results, tmp_path / "speed")
    assert [row["form"] for row in results["rows"]] == 2 * ["plain", "keras"]
    assert all(len(row["seconds"]) == 2 for row in results["rows"])
    assert {path.suffix for path in tmp_path.glob("speed.*")} == {".json", ".md", ".csv", ".png"}
    killed, absent = results["left_out"]
    assert "saved_model" in killed
    assert "No module named 'absent'" in absent
    # one call for each size as preparation, then two a turn; the others slept for 0.4 s or more
    times = [float(line) for line in notes.read_text().split()]
    assert len(times) == 2 + 2 * 2 * 2
    assert times[4] - times[3] < 0.1


def test_quick_is_other_defaults(monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(benchmark, "measure", lambda plan: plans.append(plan) or [])
    arguments = ["--quick", "--conv", "dsconv", "--set", "rounds=9"]
    assert benchmark.main([*arguments, "--output", str(tmp_path / "x")]) == 0
    assert (plans[0].convs, plans[0].rounds, plans[0].batch_size) == (("dsconv",), 9, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "`KERAS_BACKEND` must be tensorflow or jax. Received: torch"),
        ("--model vgg", "Received: model=vgg"),
        ("--forms fastest", "invalid choice: 'fastest'"),
        ("--set rounds=0", "`rounds` must be at least 1. Received: rounds=0"),
        ("--set inference_batch_sizes=1,0", "`inference_batch_sizes` must be at least 1 each"),
        ("--set threads=10000", "`threads` must be at most the number of cores"),
        ("--set batch_size=few", "`batch_size` must be an integer. Received: batch_size=few"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torch" if not arguments else "tensorflow")
    assert message in usage_error(capsys, benchmark.main, arguments.split())


def test_an_output_that_cannot_be_written_fails_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert benchmark.main(["--output", str(tmp_path / "file" / "speed")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def classifier():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization()]
    model = keras.Sequential(
        [keras.Input((5,)), *layers, keras.layers.Dense(3, activation="softmax")]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy"
    )
    return model


class TestTrainingSteps:
    pytestmark = runs_here

    def test_are_those_of_keras(self):
        rng = np.random.default_rng(0)
        batch = rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 3, 6)
        expected, step = classifier(), make_step(classifier(), *batch)
        for _ in range(3):
            np.testing.assert_allclose(step(), expected.train_on_batch(*batch), rtol=1e-5)


def row(form, seconds, batch_size=8):
    names = {"task": "inference", "model": "resnet20", "conv": "multiception"}
    return names | {"batch_size": batch_size, "form": form, "seconds": seconds}


@pytest.fixture
def results():
    machine = {"backend": "tensorflow", "onednn": "on", "cpus": 2, "gpus": [], "cpu": "A CPU"}
    machine |= {"cpu_flags": ["avx2"], "variables": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
    return page.summarize(
        {
            "command": "python -m training.benchmark",
            "note": "A note.",
            "date": "2026-01-02",
            "machine": machine | {"versions": {"keras": "3"}},
            "load_before_and_after": [0.5, 1.5],
            "left_out": ["torch_compile of resnet20: a reason"],
            "rows": [
                row("torch", [40.0, 60.0, 90.0]),
                row("torch_openvino", [4.0, 6.0, 9.0]),
                row("openvino", [2.0, 2.0, 2.0]),
                row("litert", [3.0, 1.0, 3.0]),
                row("openvino_int8", [1.0, 1.0, 1.0]),
                row("keras", [1.0, 1.0, 1.0], batch_size=1),
            ],
        }
    )


def test_ratios_are_taken_round_by_round_to_the_best_peer_of_a_case(results):
    torch, openvino, ours, _, int8, alone = results["rows"]
    assert ours["vs_peer"] == {"median": 3.0, "low": 2.0, "high": 4.5, "n": 3}
    assert ours["vs_torch"] == {"median": 30.0, "low": 20.0, "high": 45.0, "n": 3}
    assert openvino["vs_peer"]["median"] == torch["vs_torch"]["median"] == 1
    assert int8["vs_peer"]["median"] == 6
    assert (alone["vs_peer"], alone["vs_torch"]) == (None, None)
    first, second = results["races"]
    assert [first[key] for key in ("peer", "ours", "int8")] == [
        "torch_openvino",
        "openvino",
        "openvino_int8",
    ]
    assert [second[key] for key in ("peer", "ours", "int8")] == [None, "keras", None]


def test_page_begins_with_the_best_and_names_the_machine(results):
    text = " ".join(page.PAGE.to_markdown(results, "benchmark.png").split())
    assert text.index("**3.00** (2.00 to 4.50) | **6.00**") < text.index("**30.00**")
    assert "A CPU, 2 cores (avx2; ONEDNN_MAX_CPU_ISA=AVX2)" in text
    assert "left out: torch_compile of resnet20: a reason" in text
    assert page.PAGE.draw(results).axes


def test_every_form_has_a_name():
    assert set(FORMS) == set(page.FORMS)
