"""A short soak: a real server, real clients, versions that change."""

import pytest

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
