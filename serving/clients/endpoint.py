"""Which model of which server is asked, how it fails, and when it is asked again."""

from __future__ import annotations

import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

_SCHEMES = ("http", "https", "grpc", "grpcs")
# By signature and input: the dtype as TensorFlow's protos name it, and the shape, -1 where open.
Signatures = Mapping[str, Mapping[str, tuple[str, Sequence[int]]]]

_RESOURCE_EXHAUSTED, _UNAVAILABLE = 8, 14  # gRPC's numbers
_OVERLOADED = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    _RESOURCE_EXHAUSTED,
    _UNAVAILABLE,
)
# How a server says that a request does not fit its model or is too large; the last two are gRPC's.
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 3, 9)
_MAX_BACKOFF_SECONDS, _MAX_RETRY_AFTER_SECONDS = 10.0, 60.0

Answer = TypeVar("Answer")


class ServerError(RuntimeError):
    """The server's answer was an error, or not the answer of such a model.

    Args:
        message: One sentence.
        status: The HTTP status of the answer; over gRPC, the number of gRPC's status.
        retry_after: The seconds after which the server wants to be asked again.
    """

    def __init__(self, message: str, status: int, retry_after: float = 0.0):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_refusal(self) -> bool:
        """Whether the same request would be refused again, because of what is in it."""
        too_large = self.status == _RESOURCE_EXHAUSTED and "message larger than max" in str(self)
        return too_large or self.status in _REFUSED

    @property
    def is_overload(self) -> bool:
        """Whether the same request may be answered later."""
        return self.status in _OVERLOADED and not self.is_refusal


@dataclass(frozen=True)
class Endpoint:
    """A model of a server, by default its latest version, and how it is asked."""

    url: str
    model_name: str
    version: int | None
    label: str | None
    timeout: float
    retries: int
    backoff: float
    batch_size: int
    ca_certificate: str | Path | None = None
    client_certificate: str | Path | None = None
    client_key: str | Path | None = None

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            is_known = self.scheme in _SCHEMES and parts.hostname and parts.port != 0
        except ValueError:  # no such port
            is_known = False
        if not is_known:
            raise ValueError(
                f"`url` must be SCHEME://HOST:PORT, the scheme one of {', '.join(_SCHEMES)}. "
                f"Received: url={self.url!r}"
            )
        if self.version is not None and self.label is not None:
            raise ValueError(
                "`version` and `label` must not be given both. "
                f"Received: version={self.version}, label={self.label!r}"
            )
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"`timeout` must be positive. Received: timeout={self.timeout}")
        for name, least in (("retries", 0), ("backoff", 0), ("batch_size", 1)):
            if not least <= (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"`{name}` must be {least} or more. Received: {name}={value}")
        if self.is_secure:
            self.ssl_context()
        elif self.ca_certificate or self.client_certificate:
            raise ValueError(
                "`ca_certificate` and `client_certificate` need https:// or grpcs://. "
                f"Received: url={self.url!r}"
            )

    @property
    def scheme(self) -> str:
        """What is before `://`."""
        return self.url.partition("://")[0]

    @property
    def is_secure(self) -> bool:
        """Whether it is asked over TLS."""
        return self.scheme in ("https", "grpcs")

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts `ca_certificate`, or the system's, and shows `client_certificate`."""
        try:
            context = ssl.create_default_context(cafile=self.ca_certificate)
            if self.client_certificate:
                context.load_cert_chain(self.client_certificate, self.client_key, password="")
        except OSError as error:
            raise ValueError(
                "`ca_certificate`, `client_certificate` and its `client_key`, without a password, "
                f"must be PEM files ({error.strerror or error}). "
                f"Received: ca_certificate={self.ca_certificate}, "
                f"client_certificate={self.client_certificate}, client_key={self.client_key}"
            ) from error
        return context

    def timeout_error(self) -> TimeoutError:
        """The error of a request that was not answered in time."""
        return TimeoutError(
            f"The server at {self.url} did not answer within {self.timeout:g} seconds."
        )

    def retried(self, send: Callable[[], Answer]) -> Answer:
        """Sends a request, again if the server was not reached or is overloaded, with back-off.

        One loop serves REST and gRPC: urllib3's `Retry` knows REST only, gRPC's retries give up on
        requests over 256 KiB, and neither has a time limit for each try.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return send()
            except (ConnectionError, ServerError) as error:
                lasting = isinstance(error, ServerError) and not error.is_overload
                if lasting or tries > self.retries:
                    if tries > 1:
                        error.args = (f"After {tries} tries: {error}",)
                    raise
                wait = min(self.backoff * 2 ** (tries - 1), _MAX_BACKOFF_SECONDS)
                wait += random.uniform(0, self.backoff)
                asked = min(getattr(error, "retry_after", 0.0), _MAX_RETRY_AFTER_SECONDS)
            time.sleep(max(wait, asked))
