"""A process of its own for one side of a benchmark, which measures when it is told to."""

import importlib
import multiprocessing
import os
import pathlib
import re
import signal
import traceback

from training.benchmarks.plan import take_turn

# Where each side is; a module with `make_jobs`, `environment` and, Keras' alone, `work`.
SIDES = {
    "keras": "training.benchmarks.keras_side",
    "torch": "training.benchmarks.torch_side",
}


class Worker:
    """One side of a benchmark in a process of its own.

    The processes of a benchmark do nothing but when it is their turn, and run on the same cores.

    Args:
        side: A key of `SIDES`.
        plan: A `Plan`.
        variables: Dictionary, environment variables to set before anything is imported.

    Raises:
        RuntimeError: In every method, if the process failed; the message says how.
        ValueError: In every method, if it refused the plan.
    """

    def __init__(self, side, plan, variables=None):
        context = multiprocessing.get_context("spawn")
        self.side = side
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, side, plan, variables or {}), daemon=True
        )
        self._process.start()
        theirs.close()

    def make(self):
        """Make everything to be measured.

        Returns:
            A list of `Case`, and a list of sentences on what was left out.
        """
        return self._ask("make")

    def measure(self, case, seconds):
        """Give a case its turn, and return the seconds of one unit of it."""
        return self._ask("measure", case, seconds)

    def work(self):
        """Return a dictionary from the first four fields of `Case` to the work of `count_work`."""
        return self._ask("work")

    def environment(self):
        """Return versions, devices and threads, as a dictionary fit for JSON."""
        return self._ask("environment")

    def memory(self):
        """Return the bytes of memory in use now, and the most that have been."""
        return self._ask("memory")

    def close(self):
        """End the process."""
        self._connection.close()
        self._process.join(5)
        self._process.terminate()
        self._process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, *request):
        try:
            self._connection.send(request)
            error, answer = self._connection.recv()
        except (EOFError, OSError) as failure:
            self._process.join(5)
            raise RuntimeError(
                f"The process of the {self.side} side ended with exit code "
                f"{self._process.exitcode}."
            ) from failure
        if isinstance(error, ValueError):
            raise error
        if error:
            raise RuntimeError(f"The process of the {self.side} side failed: {error}")
        return answer


def _serve(connection, side, plan, variables):
    """Answer requests until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    os.environ.update(variables)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: plan.threads])
    jobs: dict = {}
    while True:
        try:
            request, *args = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if request == "make":
                jobs, left_out = importlib.import_module(SIDES[side]).make_jobs(plan)
                answer = list(jobs), left_out
            elif request == "measure":
                answer = take_turn(jobs[args[0]], args[1])
            elif request in ("work", "environment"):
                answer = getattr(importlib.import_module(SIDES[side]), request)(plan)
            else:
                answer = _memory()
            connection.send((None, answer))
        except ValueError as error:
            connection.send((ValueError(str(error)), None))
        except Exception as error:
            traceback.print_exc()
            connection.send((repr(error), None))


def _memory():
    """Read the resident memory of this process, now and at its highest.

    The kernel's own high-water mark of this program; `ru_maxrss` begins with that of the parent.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    kilobytes = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return tuple(1024 * int(kilobytes[name]) for name in ("VmRSS", "VmHWM"))
