"""The benchmark of a server: its loops, its rounds, its figures, and a short run of all."""

import contextlib
import json
import time

import numpy as np
import pytest
from PIL import Image
from saved_models import export_half_plus
from serving.flags import parse

from serving import benchmark
from serving.benchmark_figure import draw
from serving.benchmark_results import (
    machine,
    machine_text,
    measured_once,
    summary,
    table,
    write_json,
    write_whole,
)
from serving.load import closed_loop, open_loop


def test_loops_send_what_they_say():
    sent = []
    took, seconds = closed_loop(lambda: sent.append(1), clients=2, seconds=0.05)
    assert len(took) == len(sent) > 2
    assert seconds >= 0.05
    took, seconds = open_loop(lambda: None, clients=4, seconds=0.2, rate=100)
    assert len(took) == 20
    assert np.all(took >= 0)
    assert seconds >= 0.2


def test_loops_wait_for_the_last_answer():
    """A server too slow for the load is not said to keep up with it."""
    slow = lambda: time.sleep(0.1)  # noqa: E731
    took, seconds = closed_loop(slow, clients=1, seconds=0.01)
    assert len(took) == 1
    assert seconds >= 0.1
    took, seconds = open_loop(slow, clients=1, seconds=0.1, rate=50)
    assert len(took) == 5
    assert seconds >= 0.5
    assert took[-1] >= 0.4, "the wait of a request that was due counts"


def test_figures_of_a_round_and_of_several():
    once = measured_once(np.arange(1, 102) / 1000, seconds=2.0, in_process=202.0)
    assert once["images/s"] == 50.5
    assert once["ratio"] == 0.25
    percentiles = [once[f"p{p} ms"] for p in (50, 90, 99)]
    np.testing.assert_allclose(percentiles, [51, 91, 100])
    row = summary("REST", 8, [{"images/s": value} for value in (3.0, 1.0, 2.0)])
    assert row["images/s"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert (row["api"], row["clients"], row["n"]) == ("REST", 8, 3)
    assert table([row]).splitlines()[1].split() == ["REST", "8", "2", "(1-3)"]


def test_rounds_take_turns():
    order = []

    def load(api, clients):
        order.append((api, clients))
        return np.ones(clients), 1.0

    def alone():
        order.append("alone")
        return float(order.count("alone"))

    rows = benchmark.measure([("REST", 1), ("gRPC", 2)], load, alone, rounds=2)
    turn = ["alone", ("REST", 1), "alone", ("gRPC", 2), "alone"]
    assert order == turn + turn
    assert rows[0]["in process images/s"]["rounds"] == [1.5, 4.5]
    assert rows[1]["images/s"]["rounds"] == [2.0, 2.0]


def rows_of(clients, rounds=2):
    figures = [
        measured_once(np.linspace(0.001, 0.05, 50) * (1 + r), 1.0 + r, 90.0) for r in range(rounds)
    ]
    return [summary(api, n, figures) for n in clients for api in ("REST", "gRPC")]


@pytest.mark.parametrize("clients", [(64,), (1, 8, 64)])
def test_the_figure_is_a_picture_with_both_apis(tmp_path, clients):
    path = tmp_path / "load.png"
    draw(rows_of(clients), "how", "machine", path)
    with Image.open(path) as picture:
        assert picture.size == (1800, 720)
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors


def test_results_replace_a_file_at_once(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"rows": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("No space left")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fail)
    assert json.loads(path.read_text()) == {"rows": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_the_machine_is_told():
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["versions"]["tensorflow"] in machine_text(facts)
    json.dumps(facts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model_base_path: there is no folder"),
        (["--clients", "8", "0"], "--clients: must be positive, not 0"),
        (["--seconds=nan"], "--seconds: must be positive, not nan"),
        (["--rounds=0"], "--rounds: must be positive, not 0"),
        (["--rate=-1"], "--rate: must be positive, not -1"),
        (["--plot=load.pdf"], "--plot: must end in .png, not load.pdf"),
        (["--json=none/figures.json"], "--json: there is no folder none"),
        (["--json=."], "--json: must be a file, not the folder ."),
    ],
)
def test_flags_that_cannot_be(arguments, words, capsys, tmp_path):
    folder = tmp_path if arguments else tmp_path / "none"
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--model_base_path", str(folder), *arguments])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_models_that_cannot_be(tmp_path, capsys):
    export_half_plus(tmp_path / "m" / "1", 1)
    (tmp_path / "empty").mkdir()
    for folder, signature, words in (
        ("empty", "serving_default", "no version in"),
        ("m", "nope", "nope"),
        ("m", "features", "--signature_name features does not take a batch of pixels"),
    ):
        path = ["--model_base_path", str(tmp_path / folder), "--signature_name", signature]
        assert benchmark.main(path) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert words in line


def test_a_server_of_small_batches_is_started_without_warm_up(monkeypatch):
    """Its model's recorded warm-up may be of batches that such a server refuses."""
    given = []

    @contextlib.contextmanager
    def started(server_flags):
        given.extend(server_flags)
        yield "http://127.0.0.1:8501", "127.0.0.1:8500", 1

    monkeypatch.setattr(benchmark, "running_server", started)
    flags = benchmark._parse(["--model_base_path=.", "--max_batch_size=8"])
    with benchmark._served(flags) as served:
        assert served == ("http://127.0.0.1:8501", "127.0.0.1:8500")
    assert not parse(given).enable_model_warmup


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    def fail(path, results):
        raise OSError("No space left")

    monkeypatch.setattr(benchmark, "_run", lambda flags: (rows_of([1]), "one image"))
    monkeypatch.setattr(benchmark, "write_json", fail)
    assert benchmark.main(["--model_base_path", str(tmp_path), "--json=figures.json"]) == 2
    out, err = capsys.readouterr()
    assert "REST" in out, "what was measured is told all the same"
    assert err.splitlines()[-1] == "serving.benchmark: error: No space left"


@pytest.mark.slow
@pytest.mark.parametrize("loop", [[], ["--rate=40"]])
def test_the_benchmark_prints_a_table(tmp_path, capsys, loop):
    export_half_plus(tmp_path / "m" / "1", 1)
    arguments = ["--signature_name=serving_default", "--clients", "4", "1", "--seconds=0.5"]
    file, plot = tmp_path / "figures.json", tmp_path / "load.png"
    files = ["--json", str(file), "--plot", str(plot), "--rounds=2"]
    path = ["--model_base_path", str(tmp_path / "m")]
    assert benchmark.main([*arguments, *files, *path, *loop]) == 0
    hardware, how, header, *lines = capsys.readouterr().out.splitlines()[-7:]
    assert "tensorflow" in hardware
    assert ("open loop, 40 requests/s" if loop else "closed loop") in how
    assert header.split()[-1] == "ratio"
    shown = [line.split()[:2] for line in lines]
    assert shown == [["REST", "1"], ["gRPC", "1"], ["REST", "4"], ["gRPC", "4"]]
    results = json.loads(file.read_text())
    assert all(row["images/s"]["min"] > 0 for row in results["rows"])
    assert results["machine"]["versions"]["tensorflow"]
    assert plot.stat().st_size > 10_000
    if loop:
        assert all(row["images/s"]["max"] <= 40 for row in results["rows"])
