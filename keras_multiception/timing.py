"""Time repeated calls."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def seconds_per_call(call: Callable[[], object], seconds: float = 0.0) -> float:
    """Return the mean time of as many calls as fill `seconds`, of one at least."""
    calls, start, elapsed = 0, time.perf_counter(), 0.0
    while not calls or elapsed < seconds:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
    return elapsed / calls


def time_in_turns(
    calls: Mapping[Key, Callable[[], object]], rounds: int, seconds: float = 0.0
) -> dict[Key, list[float]]:
    """Return `seconds_per_call` of each call in each round; one more round warms up.

    The calls take turns, so that their ratios hold on a busy machine.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            times[key].append(seconds_per_call(call, seconds))
    return {key: rows[1:] for key, rows in times.items()}
