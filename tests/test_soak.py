"""A short soak and a short benchmark: real servers, real clients, versions that change."""

import json

import numpy as np
import pytest
from saved_models import export_half_plus

from serving import benchmark
from serving.load import closed_loop, open_loop
from serving.soak import Swaps, soak


@pytest.mark.slow
def test_no_answer_fails_or_is_wrong_while_versions_change():
    result = soak(seconds=20, clients=16, swap_seconds=4)
    assert result["right"] > 500
    assert result["swaps"] >= 3
    assert result.get("wrong", 0) == 0
    assert result.get("failed", 0) == 0, result["reasons"]
    first, *_, last = result["memory_mb"]
    assert last < first + 100


def test_the_soak_knows_wrong_answers(tmp_path):
    swaps = Swaps(tmp_path)
    swaps.next()
    assert swaps.is_right([2.0 + i for i in range(8)], newest_before=2)
    assert swaps.is_right([1.0 + i for i in range(8)], newest_before=2), "2 may still be loading"
    assert not swaps.is_right([9.0 + i for i in range(8)], newest_before=2)
    assert not swaps.is_right([2.0] * 8, newest_before=2)


def test_loops_send_what_they_say():
    sent = []
    took = closed_loop(lambda: sent.append(1), clients=2, seconds=0.05)
    assert len(took) == len(sent) > 2
    took = open_loop(lambda: None, clients=4, seconds=0.2, rate=100)
    assert len(took) == 20
    assert np.all(took >= 0)


@pytest.mark.slow
def test_the_benchmark_prints_a_table(tmp_path, capsys):
    export_half_plus(tmp_path / "m" / "1", 1)
    arguments = ["--signature_name=serving_default", "--clients=4", "--seconds=1"]
    file = tmp_path / "figures.json"
    path = ["--model_base_path", str(tmp_path / "m"), "--json", str(file)]
    assert benchmark.main([*arguments, *path]) == 0
    header, rest, grpc = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[-1] == "ratio"
    assert (rest.split()[0], grpc.split()[0]) == ("REST", "gRPC")
    assert all(row["images/s"] > 0 for row in json.loads(file.read_text())["rows"])
