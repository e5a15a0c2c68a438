"""A server whose versions change under load: no answer fails or is wrong, and memory stays flat."""

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

from serving.benchmark import grpc_sender, rest_sender
from serving.server import running_server

ROW = np.arange(8, dtype=np.float32)


def publish(base_path, version):
    """Makes a version appear at once: a SavedModel that adds its number to 8 numbers."""
    module = tf.Module()
    module.version = tf.Variable(float(version))
    module.weights = tf.Variable(tf.zeros([1000, 1000]))  # 4 MB: a leaked version shows

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def add(x):
        return {"y": x + module.version + module.weights[0, 0]}

    module.add = add
    tf.saved_model.save(module, str(base_path / f".{version}.tmp"), add)
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
    with running_server(flags) as server, ThreadPoolExecutor(16) as pool:
        rest = rest_sender(server.url, "", ROW)
        rpc = grpc_sender(server.grpc_address, "", ROW, "x")
        for _ in range(8):
            pool.submit(ask, rest, lambda body: orjson.loads(body)["predictions"][0])
            pool.submit(
                ask, rpc, lambda response: tf.make_ndarray(response.outputs["y"])[0].tolist()
            )
        try:
            for _ in range(5):
                time.sleep(3)
                memory.append(resident_mb(server.process_id))
                publish(tmp_path, newest + 1)
                newest += 1
        finally:
            done.set()
    assert not errors, errors[0]
    assert counts["right"] > 500
    assert counts["wrong"] == 0
    assert memory[-1] < memory[0] + 100, memory
