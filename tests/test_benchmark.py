"""The command that measures speed, on settings so small that its numbers mean nothing."""

import copy
import importlib.util
import json
import time

import keras
import numpy as np
import pytest
from commands import usage_error

import keras_multiception as km
from training import benchmark
from training.benchmarks import page
from training.benchmarks.keras_runner import count_work, make_fit, make_step
from training.benchmarks.runner import (
    CHOICES,
    RUNNER_OF,
    RUNNERS,
    Job,
    Plan,
    measure,
    run_once,
)

runs_here = [
    pytest.mark.backend,
    pytest.mark.skipif(
        keras.backend.backend() == "torch", reason="the benchmark is for TensorFlow and JAX"
    ),
]


@pytest.mark.slow
def test_measures_every_form(tmp_path):
    pytest.importorskip("ai_edge_litert")
    settings = "batch_size=2 inference_batch_sizes=1 steps=1 rounds=1 seconds=0"
    arguments = ["--conv", "multiception", "--set", *settings.split()]
    output = tmp_path / "runs" / "all"
    assert benchmark.main([*arguments, "--output", str(output)]) == 0
    results = json.loads(output.with_suffix(".json").read_text())
    rows = {(row["task"], row["form"]) for row in results["rows"] if row["side"] == "keras"}
    expected = {("inference", form) for form, runner in RUNNER_OF.items() if runner == "keras"}
    expected |= {(task, form) for task in ("train_step", "fit") for form in ("plain", "fast")}
    assert rows == expected
    assert all(row["milliseconds"]["n"] == 1 and row["vs_plain"] for row in results["rows"])
    assert all(row["of_limit"] > 0 for row in results["rows"])
    assert set(results["limits"]) == {"product", "stream"}
    record = results["environments"]["keras"]
    assert (record["backend"], record["onednn"]) == ("tensorflow", "on")
    assert str(tmp_path) not in output.with_suffix(".md").read_text()
    memory = ["plain", "fast"]
    if importlib.util.find_spec("torch"):
        assert {row["side"] for row in results["rows"]} == {"keras", "torch"}
        assert results["left_out"] == []
        memory.append("torch_channels_last")
    assert [row["form"] for row in results["memory"]] == memory
    assert all(row["peak"] > row["before"] > 1e7 for row in results["memory"])


@pytest.fixture
def own_runner(monkeypatch):
    monkeypatch.setitem(RUNNERS, "keras", RUNNERS["keras"]._replace(module="light_runner"))


def plan_of(model="resnet20", **settings):
    settings = {"rounds": 2, "seconds": 0.0, "threads": 1} | settings
    return Plan((model,), ("dsconv",), ("inference",), ("plain", "fast"), **settings)


@pytest.mark.usefixtures("own_runner")
def test_results_are_there_after_each_case(tmp_path):
    plan = plan_of(inference_batch_sizes=(1, 2))
    parts = [page.summarize({**part, "command": "a", "note": "b"}) for part in measure(plan)]
    sizes = [[row["batch_size"] for row in part["rows"]] for part in parts]
    assert sizes == [[1, 1], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert [row["form"] for row in parts[-1]["rows"]] == 2 * ["plain", "fast"]
    assert all(len(row["seconds"]) == 2 for row in parts[-1]["rows"])
    assert [entry["form"] for entry in parts[-1]["memory"]] == ["plain", "fast"]
    assert parts[-1]["left_out"] == ["x: a reason"]
    names = {f"speed.{suffix}" for suffix in ("json", "md", "csv", "png")}
    for part in parts:
        page.PAGE.write(part, tmp_path / "speed")
        assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.usefixtures("own_runner")
@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("vgg", ValueError, "Received: model=vgg"),
        (
            "absent",
            ValueError,
            "`forms` must leave something.*absent'. Received: forms=plain, fast",
        ),
        ("killed", RuntimeError, "process of the keras runner failed: BrokenProcessPool"),
    ],
)
def test_what_fails_in_a_process_is_reported(model, error, message):
    with pytest.raises(error, match=message):
        next(measure(plan_of(model)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (("standard", "dsconv", "mixconv", "multiception"), 7, True)),
        (["--quick"], (("multiception",), 3, False)),
        (["--quick", "--conv", "dsconv", "--set", "rounds=9"], (("dsconv",), 9, False)),
    ],
)
def test_quick_is_other_defaults(arguments, expected, monkeypatch, tmp_path):
    received = []

    def measure_nothing(plan):
        received.append((plan.convs, plan.rounds, plan.memory))
        raise ValueError

    monkeypatch.setattr(benchmark, "measure", measure_nothing)
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--output", str(tmp_path / "x")])
    assert received == [expected]


def test_every_form_has_a_name():
    assert set(RUNNER_OF) <= set(page.FORMS)
    assert {form for forms in CHOICES.values() for form in forms} == set(RUNNER_OF)


def test_a_turn_does_once_more_than_it_counts():
    calls = []
    assert run_once(Job(lambda: calls.append(time.sleep(0.01)), units=2), 0) < 0.01 * 5
    assert len(calls) == 2
    assert run_once(Job(lambda: calls.append(time.sleep(0.01))), 0.05) >= 0.01
    assert 4 <= len(calls) <= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "`KERAS_BACKEND` must be tensorflow or jax. Received: torch"),
        ("--conv nothing", "invalid choice: 'nothing'"),
        ("--forms fastest", "invalid choice: 'fastest'"),
        ("--set rounds=0", "`rounds` must be at least 1. Received: rounds=0"),
        ("--set inference_batch_sizes=1,0", "`inference_batch_sizes` must be at least 1 each"),
        ("--set threads=10000", "`threads` must be at most the number of cores"),
        ("--set seconds=nan", "`seconds` must be between 0 and 60. Received: seconds=nan"),
        ("--set dtype_policy=int8", "`dtype_policy` must be one of float32"),
        ("--set steps=few", "`steps` must be an integer. Received: steps=few"),
        ("--render nothing.json", "`render` must be the .json file"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torch" if not arguments else "tensorflow")
    assert message in usage_error(capsys, benchmark.main, arguments.split())


def test_an_output_that_cannot_be_written_fails_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert benchmark.main(["--output", str(tmp_path / "file" / "speed")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 3, 6)


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

    def test_are_those_of_keras(self, batch):
        fitted, expected, step = classifier(), classifier(), make_step(classifier(), *batch)
        make_fit(fitted, *batch, steps=3)()
        for _ in range(3):
            np.testing.assert_allclose(step(), expected.train_on_batch(*batch), rtol=1e-5)
        for a, b in zip(fitted.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_work_of_a_small_network_is_that_counted_by_hand():
    image = x = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    cost = km.cost(keras.Model(image, x))
    products = 9 * 2 * 3 * 16 + 3 * 2
    convolution, norm, relu, pool, dense = 32 + 48, 48 + 48, 48 + 48, 48 + 3, 3 + 2
    weights = 9 * 2 * 3 + 4 * 3 + 3 * 2 + 2
    step = 2 * (convolution + norm + relu + pool + dense) + weights
    assert count_work(cost, 2, training=True) == {"flop": 3 * 2 * products * 2, "bytes": 12 * step}
    answer = 2 * (convolution + norm + pool + dense) + weights
    assert count_work(cost, 2, training=False) == {"flop": 2 * products * 2, "bytes": 4 * answer}


def test_a_concatenation_moves_nothing():
    image = keras.Input((4, 4, 2))
    layer = km.layers.MulticeptionConv2D(3, (3, 5))
    cost = km.cost(keras.Model(image, layer(image)))
    branches, norm, pointwise, last = 2 * (32 + 32), 64 + 64, 64 + 48, 48 + 48
    weights = (9 + 25) * 2 + 4 * 4 + 4 * 3 + 3 + 4 * 3
    expected = 4 * (branches + norm + pointwise + last + weights)
    assert count_work(cost, 1, training=False)["bytes"] == expected


def row(form, seconds, side="keras", task="inference", work=None):
    names = {"task": task, "model": "resnet20", "conv": "multiception", "batch_size": 8}
    return names | {"form": form, "side": side, "work": work, "seconds": seconds}


@pytest.fixture
def results():
    work = {"flop": 30e9, "bytes": 1e9}
    record = {"backend": "tensorflow", "onednn": "on", "threads": 2, "gpus": [], "cpu": "A CPU"}
    memory = {"model": "resnet20", "conv": "multiception", "form": "fast"}
    return page.summarize(
        {
            "command": "python -m training.benchmark",
            "note": "A note.",
            "date": "2026-01-02",
            "environments": {"keras": record | {"cpu_flags": ["avx2", "fma"], "versions": {}}},
            "load_before_and_after": [0.5, 1.5],
            "left_out": ["torch_channels_first: a reason"],
            "rows": [
                row("product", [1 / 100, 1 / 60, 1 / 80], task="limit"),
                row("stream", [1 / 4, 1 / 4, 1 / 4], task="limit"),
                row("plain", [4.0, 6.0, 9.0], work=work),
                row("separate", [2.0, 2.0, 2.0], work=work),
                row("torch_channels_last", [4.0, 3.0, 1.0], side="torch", work=work),
            ],
            "memory": [memory | {"before": 4e8, "peak": 9e8}],
        }
    )


def test_ratios_are_taken_round_by_round_and_the_limit_is_that_of_the_machine(results):
    plain, separate, torch = results["rows"]
    assert separate["vs_plain"] == {"median": 3.0, "low": 2.0, "high": 4.5, "n": 3}
    assert separate["vs_torch"] == {"median": 1.5, "low": 0.5, "high": 2.0, "n": 3}
    assert plain["vs_plain"]["median"] == torch["vs_torch"]["median"] == 1
    assert separate["images_per_second"] == 4
    product = {"median": 80, "low": 60, "high": 100, "n": 3}
    assert results["limits"]["product"] == pytest.approx(product)
    assert separate["limit_ms"] == pytest.approx(1000 * (30 / 80 + 1 / 4))
    assert separate["of_limit"] == pytest.approx(0.625 / 2)
    assert plain["of_limit"] == pytest.approx(0.625 / 6)


def test_without_a_base_or_a_limit_there_is_no_ratio(results):
    rows = [{**r, "work": None} for r in copy.deepcopy(results["rows"]) if r["form"] != "plain"]
    alone = page.summarize({**results, "rows": rows})
    assert [each["vs_plain"] for each in alone["rows"]] == [None] * 2
    assert alone["limits"] == {}
    assert [each["of_limit"] for each in alone["rows"]] == [None] * 2


def test_page_has_ratios_memory_and_machine(results):
    text = " ".join(page.PAGE.to_markdown(results, "benchmark.png").split())
    assert "| ours, fused: separate | **3.00** (2.00 to 4.50) |" in text
    assert "| 400 | 900 | 500 |" in text
    assert "matrix product: 80 (60 to 100) GFLOP/s, n = 3" in text
    assert "onednn: on, threads: 2, cpu: A CPU, cpu flags: avx2 fma" in text
    assert "left out: torch_channels_first: a reason" in text
