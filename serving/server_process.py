"""The server as another process, for a demonstration or a measurement."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class ServerProcess(NamedTuple):
    """Where a running server is: REST's URL, gRPC's address and the process' number."""

    url: str
    grpc_address: str
    process_id: int


@contextlib.contextmanager
def running_server(flags: Sequence[str]) -> Iterator[ServerProcess]:
    """Runs `python -m serving.server` on free ports while the `with` block runs."""
    command = [sys.executable, "-m", "serving.server", "--port=0", "--rest_api_port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [next(iter(process.stdout or ()), "").strip() for _ in range(2)]
            if " at http" not in lines[0]:
                raise RuntimeError("The server did not start: see the message above.")
            url, address = (line.split(" at ")[-1] for line in lines)
            yield ServerProcess(url.split("/v1/")[0], address, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)
