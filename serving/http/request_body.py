"""Reads the body of an HTTP request, within limits of size and time, and unzips it."""

from __future__ import annotations

import asyncio
import zlib

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY_BYTES = 64 * 2**20
_GZIP = 31  # zlib's word for "gzip, of the largest window"
_CLOSE = {"Connection": "close"}  # the rest of a refused body is not read


async def read_body(request: Request, timeout_seconds: float) -> bytes:
    """Reads the body of a request.

    Args:
        request: The request.
        timeout_seconds: Seconds within which all of it must have come.

    Returns:
        The body as it came, for `unzipped`.

    Raises:
        HTTPException: 413, if it is larger than `MAX_BODY_BYTES`: before it is read, if its length
            is announced. 408, if it does not come in time. 415, if its encoding is not known.
    """
    encoding = _encoding(request)
    if encoding not in ("identity", "gzip"):
        raise HTTPException(415, f"Content-Encoding must be gzip or identity, not {encoding}.")
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _read(request)
    except TimeoutError as error:
        message = f"The request body did not come within {timeout_seconds:g} seconds."
        raise HTTPException(408, message, _CLOSE) from error


def unzipped(request: Request, body: bytes) -> bytes:
    """Unzips the body of a request; what may take long, and should not hold up the event loop.

    Args:
        request: The request.
        body: Its body as it came.

    Returns:
        The body, unzipped if it came as gzip.

    Raises:
        HTTPException: 413, if it is larger than `MAX_BODY_BYTES`. 400, if it is no gzip where it
            says so.
    """
    return _unzip(body) if _encoding(request) == "gzip" else body


def _encoding(request: Request) -> str:
    return request.headers.get("content-encoding", "").strip().lower() or "identity"


async def _read(request: Request) -> bytes:
    body = bytearray()
    if int(request.headers.get("content-length", 0)) <= MAX_BODY_BYTES:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                break
        else:
            return bytes(body)
    raise _too_large()


def _unzip(body: bytes) -> bytes:
    unzip = zlib.decompressobj(_GZIP)
    try:
        text = unzip.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise HTTPException(400, f"The request body is not valid gzip: {error}") from error
    if len(text) > MAX_BODY_BYTES:
        raise _too_large()
    if not unzip.eof:
        raise HTTPException(400, "The request body is not valid gzip: it ends too soon.")
    return text


def _too_large() -> HTTPException:
    message = f"The request body must be of at most {MAX_BODY_BYTES} bytes."
    return HTTPException(413, message, _CLOSE)
