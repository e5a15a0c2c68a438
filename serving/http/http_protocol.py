"""uvicorn's HTTP protocol, with limits for the request's head and errors in JSON."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.json_text import dumps

MAX_HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 10.0


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes connections whose request line and headers are too slow to come, or too large.

    uvicorn itself limits only the time between two requests. A connection that sends nothing, or a
    byte now and then, would stay open for ever.
    """

    def connection_made(self, transport):
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Counts what comes before a head is whole."""
        if self._timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(f"A request's head must be of at most {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begins to wait for the rest of a head."""
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stops to wait."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops to wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        self._stop_waiting()
        body = dumps({"error": msg})
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _await_head(self) -> None:
        if self._timer is None:
            self._head_bytes = 0
            message = f"A request's head must come within {HEAD_SECONDS:g} seconds."
            self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, message)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, message: str) -> None:
        if not self.transport.is_closing():
            self.send_400_response(message)
