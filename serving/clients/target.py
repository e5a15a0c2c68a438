"""Which model of which server is asked."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

SCHEMES = ("http", "https", "grpc")


@dataclass(frozen=True)
class Target:
    """A server, a model, and which of its versions.

    Args:
        url: The server's URL.
        model_name: The model's name.
        version: The version's number; `None` for the latest or the labeled one.
        label: The version's label; `None` for the latest or the numbered one.
        timeout: Seconds for a request to be answered.

    Raises:
        ValueError: If there is no such URL, if both version and label are given, or if the
            timeout is not positive.
    """

    url: str
    model_name: str
    version: int | None
    label: str | None
    timeout: float

    def __post_init__(self):
        if self.scheme not in SCHEMES:
            raise ValueError(
                f"`url` must begin with http://, https:// or grpc://. Received: url={self.url!r}"
            )
        if not _has_address(self.url):
            raise ValueError(
                f"`url` must name a host and may name a port. Received: url={self.url!r}"
            )
        if self.version is not None and self.label is not None:
            raise ValueError(
                "`version` and `label` must not be given both. "
                f"Received: version={self.version}, label={self.label!r}"
            )
        if not 0 < self.timeout < float("inf"):
            raise ValueError(
                f"`timeout` must be a positive number of seconds. Received: timeout={self.timeout}"
            )

    @property
    def scheme(self) -> str:
        """What is before `://`."""
        return self.url.partition("://")[0]

    def late(self) -> TimeoutError:
        """Makes the error of a request that was not answered in time."""
        return TimeoutError(
            f"The server at {self.url} did not answer within {self.timeout:g} seconds."
        )


def _has_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
