"""What happened to each call: counted for Prometheus, and written as a line of JSON."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass

import orjson
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

# The access log: enable it with level INFO and a handler that prints bare messages.
ACCESS_LOG = logging.getLogger("serving.access")
ACCESS_LOG.propagate = False

_REQUEST_COUNT = ":tensorflow:serving:request_count"
_BUCKETS = [10 * 1.8**power for power in range(33)]  # TF Serving's, in microseconds

prometheus_client.disable_created_metrics()


@dataclass
class Call:
    """One call of the server.

    Args:
        entrypoint: `"REST"` or `"GRPC"`.
        api: What was asked: `"predict"`, `"GetModelStatus"`, ...
        method: The HTTP method, or gRPC's.
        path: The path asked for.
        peer: The caller's address.
        model: The model's name, `""` unless there is such a model.
        version: The version that answered, if one did.
        status: What came of it, as a gRPC status name.
        code: The HTTP or gRPC status code.
        seconds: How long it took.
        request_bytes: Size of the request's body.
        response_bytes: Size of the response's body.
    """

    entrypoint: str
    api: str = ""
    method: str = ""
    path: str = ""
    peer: str = ""
    model: str = ""
    version: int | None = None
    status: str = "OK"
    code: int = 0
    seconds: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0


class Telemetry:
    """The metrics of one server, named as TF Serving names them."""

    def __init__(self):
        self._registry = CollectorRegistry()
        self._count = Counter(
            _REQUEST_COUNT,
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for inference requests.",
            ["model_name", "API", "entrypoint"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def record(self, call: Call) -> None:
        """Counts a call that has been answered, and writes it to the access log.

        Args:
            call: The call.
        """
        if call.model:
            self._count.labels(call.model, call.status).inc()
            self._latency.labels(call.model, call.api, call.entrypoint).observe(call.seconds * 1e6)
        if ACCESS_LOG.isEnabledFor(logging.INFO):
            line = {"time": time.time(), **asdict(call)}
            ACCESS_LOG.info(orjson.dumps(line).decode())

    def page(self) -> bytes:
        """Writes the metrics in Prometheus' text format.

        Returns:
            The text.
        """
        text = prometheus_client.generate_latest(self._registry)
        return text.replace(f"{_REQUEST_COUNT}_total".encode(), _REQUEST_COUNT.encode())
