"""Holds a server under load while its versions change: no failed or wrong answer, flat memory.

    python -m serving.soak --seconds 300 --clients 64 --swap_seconds 10

The server is another process. Its model adds a number that is its version's own, so that each
answer tells whether it is right; half of the clients speak REST and half gRPC.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.command_line import record_sigint
from serving.load import grpc_sender, rest_sender, running_server

_ROWS = np.arange(8, dtype=np.float32)


def publish(base_path: Path, version: int) -> None:
    """Makes a version appear at once: a SavedModel that adds its number to 8 numbers.

    Args:
        base_path: The folder of version folders.
        version: The version's number.
    """
    import tensorflow as tf

    module = tf.Module()
    module.version = tf.Variable(float(version))
    module.weights = tf.Variable(tf.zeros([1000, 1000]))  # 4 MB: a leaked version shows

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def add(x):
        return {"y": x + module.version + module.weights[0, 0]}

    module.add = add
    tf.saved_model.save(module, str(base_path / f".{version}.tmp"), add)
    (base_path / f".{version}.tmp").rename(base_path / str(version))


class Swaps:
    """The versions that may answer at a time: the newest, and those that a call began with.

    Args:
        base_path: The folder of version folders.
    """

    def __init__(self, base_path: Path):
        self._base_path = base_path
        self.newest = 0
        self.next()

    def next(self) -> None:
        """Publishes the next version, and deletes all but the last two."""
        publish(self._base_path, self.newest + 1)
        self.newest += 1
        for old in range(1, self.newest - 1):
            shutil.rmtree(self._base_path / str(old), ignore_errors=True)

    def is_right(self, values: Sequence[float], newest_before: int) -> bool:
        """Tells whether an answer is that of a version that may have given it.

        Args:
            values: The answer.
            newest_before: The newest version when the request was sent.

        Returns:
            Whether it is; the version before is loaded until the newest is.
        """
        version = values[0] - float(_ROWS[0])
        exact = list(values) == [float(row) + version for row in _ROWS]
        return exact and newest_before - 1 <= version <= self.newest + 1


def _resident_mb(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(seconds: float, clients: int, swap_seconds: float) -> dict:
    """Runs a server under load.

    Args:
        seconds: For how long.
        clients: How many send at once.
        swap_seconds: Seconds between two new versions.

    Returns:
        Counts of `right`, `wrong` and `failed` answers, of `swaps`, the failures' `reasons`, and
        the server's `memory_mb` at each swap.

    Raises:
        ValueError: If an argument is not a number above 0.
        RuntimeError: If the server does not start.
    """
    arguments = {"seconds": seconds, "clients": clients, "swap_seconds": swap_seconds}
    for name, value in arguments.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"`{name}` must be above 0 and finite. Received: {name}={value:g}")

    import orjson

    counts: Counter = Counter()
    reasons: Counter = Counter()
    done = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder) / "adder"
        base_path.mkdir()
        swaps = Swaps(base_path)
        flags = [f"--model_base_path={base_path}", "--access_log=", "--enable_batching=true"]
        with (
            record_sigint() as check_interrupts,
            running_server(flags) as (url, address, process_id),
        ):
            rest = rest_sender(url, "default", "", _ROWS)
            rpc = grpc_sender(address, "default", "", _ROWS, "x")

            def client(number: int) -> None:
                while not done.is_set():
                    before = swaps.newest
                    try:
                        if number % 2:
                            values = orjson.loads(rest())["predictions"][0]
                        else:
                            values = list(rpc().outputs["y"].float_val)
                        counts["right" if swaps.is_right(values, before) else "wrong"] += 1
                    except Exception as error:
                        counts["failed"] += 1
                        reasons[str(error)[:200]] += 1

            memory = []
            with ThreadPoolExecutor(clients) as pool:
                try:
                    for number in range(clients):
                        pool.submit(client, number)
                    end = time.monotonic() + seconds
                    for swap in itertools.count(1):
                        wait = min(swap_seconds, end - time.monotonic())
                        if wait <= 0:
                            break
                        time.sleep(wait)
                        memory.append(_resident_mb(process_id))
                        if time.monotonic() < end:
                            swaps.next()
                            check_interrupts()
                            counts["swaps"] = swap
                finally:
                    done.set()  # or the pool would wait for its clients for ever
    return {**counts, "reasons": dict(reasons), "memory_mb": [round(mb) for mb in memory]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code: 0 if all answers were right, 1 if not or if the server did not start, 2 for
        arguments that cannot be, 130 if it was interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="for how long")
    parser.add_argument("--clients", type=int, default=64, help="how many send at once")
    parser.add_argument("--swap_seconds", type=float, default=10.0, help="between new versions")
    flags = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        result = soak(flags.seconds, flags.clients, flags.swap_seconds)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"serving.soak: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    for name, value in result.items():
        print(f"{name}: {value}")
    return 0 if result.get("right") and not result.get("wrong") and not result.get("failed") else 1


if __name__ == "__main__":
    sys.exit(main())
