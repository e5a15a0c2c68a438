"""What came of each call: counted for Prometheus, and written as a line of JSON."""

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
_MAX_NAMES = 1000  # clients may make up names of models; each one counted takes memory

prometheus_client.disable_created_metrics()


@dataclass
class Call:
    """One call of the server."""

    entrypoint: str  # REST or GRPC
    api: str = ""  # predict, metadata, status, ...
    method: str = ""
    path: str = ""
    peer: str = ""
    model: str = ""  # the name asked for, whether there is such a model or not
    version: int | None = None  # that answered
    status: str = "OK"  # a gRPC status name
    code: int = 0  # HTTP's or gRPC's
    seconds: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0


class Telemetry:
    """The metrics of one server, named as TF Serving names them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._names: set[str] = set()
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
        """Counts a call that has been answered, and writes it to the access log."""
        if call.model and (call.model in self._names or len(self._names) < _MAX_NAMES):
            self._names.add(call.model)
            self._count.labels(call.model, call.status).inc()
            if call.status == "OK":  # as in TF Serving
                labels = (call.model, call.api, call.entrypoint)
                self._latency.labels(*labels).observe(call.seconds * 1e6)
        if ACCESS_LOG.isEnabledFor(logging.INFO):
            line = {"time": time.time(), **asdict(call)}
            ACCESS_LOG.info(orjson.dumps(line).decode())

    def page(self) -> bytes:
        """Writes the metrics in Prometheus' text format."""
        text = prometheus_client.generate_latest(self._registry)
        return text.replace(f"{_REQUEST_COUNT}_total".encode(), _REQUEST_COUNT.encode())
