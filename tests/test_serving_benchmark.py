"""The benchmark of a server: its loops, its rounds, its figures, and a short run of all."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pytest
import tensorflow as tf
from PIL import Image
from saved_models import export_half_plus, export_signatures, signature
from test_floors import ROOT

from serving import benchmark
from serving.benchmark import grpc_sender, rest_sender, send_load
from serving.server import running_server

RECORDED = ROOT / "serving" / "results" / "benchmark_resnet20.json"


def test_loops_wait_for_the_last_answer():
    sent = []
    took, _ = send_load(lambda: sent.append(1), clients=2, seconds=0.3)
    assert len(took) == len(sent) > 2
    took, seconds = send_load(lambda: time.sleep(0.1), clients=1, seconds=0.1, rate=50)
    assert len(took) == 5
    assert seconds >= 0.5
    assert took[-1] >= 0.4, "the wait of a request that was due counts"


def test_recorded_results_are_rendered_again(tmp_path, capsys):
    plot = tmp_path / "load.png"
    assert benchmark.main(["--render", str(RECORDED), "--plot", str(plot)]) == 0
    assert capsys.readouterr().out == RECORDED.with_suffix(".md").read_text()
    with Image.open(plot) as picture:
        assert picture.size == (1800, 720)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [[], ["--rate=40"]])
def test_the_benchmark_prints_a_table(tmp_path, capsys, loop):
    """The server takes smaller batches than the model's recorded warm-up may have."""
    export_half_plus(tmp_path / "m" / "1", 1)
    arguments = ["--signature_name=serving_default", "--clients", "4", "1", "--seconds=0.5"]
    file, plot = tmp_path / "figures.json", tmp_path / "load.png"
    files = ["--json", str(file), "--plot", str(plot), "--rounds=2", "--max_batch_size=8"]
    path = ["--model_base_path", str(tmp_path / "m")]
    assert benchmark.main([*arguments, *files, *path, *loop]) == 0
    out = capsys.readouterr().out
    assert ("open loop, 40 requests/s" if loop else "closed loop") in out
    results = json.loads(file.read_text())
    shown = [(row["api"], row["clients"]) for row in results["rows"]]
    assert shown == [("REST", 1), ("gRPC", 1), ("REST", 4), ("gRPC", 4)]
    assert all(row["images/s"]["min"] > 0 for row in results["rows"])
    assert results["machine"]["versions"]["tensorflow"]
    capsys.readouterr()
    assert benchmark.main(["--render", str(file)]) == 0
    assert capsys.readouterr().out in out
    assert plot.stat().st_size > 10_000
    if loop:
        assert all(row["images/s"]["max"] <= 40 for row in results["rows"])


# ---- a server whose versions change under load: no answer is wrong, and memory stays flat

ROW = np.arange(8, dtype=np.float32)


def publish(base_path, version):
    """Makes a version appear at once: a SavedModel that adds its number to 8 numbers."""
    module = tf.Module()
    module.version = tf.Variable(float(version))
    module.weights = tf.Variable(tf.zeros([1000, 1000]))  # 4 MB: a leaked version shows

    @signature(x=([None, 8], tf.float32))
    def serving_default(x):
        return {"y": x + module.version + module.weights[0, 0]}

    export_signatures(base_path / f".{version}.tmp", serving_default, module=module)
    (base_path / f".{version}.tmp").rename(base_path / str(version))
    shutil.rmtree(base_path / str(version - 2), ignore_errors=True)


def resident_mb(process_id):
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_no_answer_fails_or_is_wrong_while_versions_change(tmp_path):
    counts, errors, memory = Counter(), [], []
    newest, done = 1, threading.Event()

    def ask(send, read):
        while not done.is_set():
            before = newest
            try:
                values = read(send())
            except Exception as error:
                errors.append(error)
                continue
            version = values[0] - ROW[0]
            exact = values == [row + version for row in ROW]
            # Up to the newest that is visible; the one before it until that is loaded.
            right = exact and before - 1 <= version <= newest + 1
            counts["right" if right else "wrong"] += 1

    publish(tmp_path, 1)
    flags = [f"--model_base_path={tmp_path}", "--access_log=", "--enable_batching=true"]
    with running_server(flags) as (url, address, process), ThreadPoolExecutor(16) as pool:
        rest = rest_sender(url, "", ROW)
        rpc = grpc_sender(address, "", ROW, "x")
        for _ in range(8):
            pool.submit(ask, rest, lambda body: orjson.loads(body)["predictions"][0])
            pool.submit(
                ask, rpc, lambda response: tf.make_ndarray(response.outputs["y"])[0].tolist()
            )
        try:
            for _ in range(5):
                time.sleep(3)
                memory.append(resident_mb(process))
                publish(tmp_path, newest + 1)
                newest += 1
        finally:
            done.set()
    assert not errors, errors[0]
    assert counts["right"] > 500
    assert counts["wrong"] == 0
    assert memory[-1] < memory[0] + 100, memory
