"""When a request is sent again, and how much later."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import tenacity

from serving.clients.server_error import ServerError

_RESOURCE_EXHAUSTED, _UNAVAILABLE = 8, 14  # gRPC's numbers
_PASSING = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    _RESOURCE_EXHAUSTED,
    _UNAVAILABLE,
)
_MAX_WAIT_SECONDS = 10.0

Answer = TypeVar("Answer")


def retried(send: Callable[[], Answer], retries: int, backoff: float) -> Answer:
    """Sends a request, and again if the server could not be reached or had too much to do.

    Args:
        send: Sends it once, and returns the answer.
        retries: How often it is sent again at most.
        backoff: Seconds before the second try; each wait is twice the one before, but for 10
            seconds at most, and a random part of `backoff` comes to it.

    Returns:
        The answer.

    Raises:
        OSError: As `send` did, with the number of tries in front if there were several.
        ServerError: The same.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=tenacity.wait_exponential_jitter(backoff, _MAX_WAIT_SECONDS, jitter=backoff),
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return retrying(send)
    except (OSError, ServerError) as error:
        tries = retrying.statistics["attempt_number"]
        if tries > 1:
            error.args = (f"After {tries} tries: {error}",)
        raise


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) or (
        isinstance(error, ServerError) and error.status in _PASSING
    )
