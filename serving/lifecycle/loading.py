"""How versions are found and loaded, and where they stand: settings and states as data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from serving.engine.batching import Batching


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands, in TF Serving's words.

    Args:
        version: The version's number.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error_code: `"OK"`, or why loading failed, as a gRPC status name.
        error_message: `""`, or one sentence about that failure.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True)
class Loading:
    """How versions are found and loaded, in TF Serving's words.

    Args:
        file_system_poll_wait_seconds: Seconds between two looks at a base path; 0 looks once.
        batching: How to gather concurrent calls into one; `None` runs each by itself.
        enable_model_warmup: Whether to replay a version's warm-up requests before it serves.
        max_num_load_retries: How often to try again to load a version that did not load. One
            whose files have changed is always tried again.
        load_retry_interval_micros: Microseconds between two tries.
        enable_signature_method_name_check: Whether signatures may classify and regress only if
            their method name says so.
        prefer_tflite_model: Whether to serve a version's `model.tflite`, where it has one, in place
            of its SavedModel.
        num_tflite_pools: Pools of LiteRT interpreters; `None` for as many as processors.
        num_tflite_interpreters_per_pool: Interpreters in each, which answer one call at a time.
    """

    file_system_poll_wait_seconds: float = 1.0
    batching: Batching | None = None
    enable_model_warmup: bool = True
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_signature_method_name_check: bool = False
    prefer_tflite_model: bool = False
    num_tflite_pools: int | None = None
    num_tflite_interpreters_per_pool: int = 1

    def __post_init__(self):
        for name in (
            "file_system_poll_wait_seconds",
            "max_num_load_retries",
            "load_retry_interval_micros",
        ):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must not be negative. Received: {name}={getattr(self, name)}"
                )

    @property
    def interpreters(self) -> int:
        """How many LiteRT interpreters a version has."""
        return (
            self.num_tflite_pools or os.cpu_count() or 1
        ) * self.num_tflite_interpreters_per_pool


DEFAULT_LOADING = Loading()
