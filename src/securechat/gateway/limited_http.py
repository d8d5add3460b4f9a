"""LimitedHttp: uvicorn's HTTP/1.1 with limits on what comes and how slowly answers are read. The parser has none of its own.

What two servers in a row could read in two ways is refused: a header twice of which there is one, or another coding than `chunked`.
A request is counted while it comes, before anything is made of it: the bytes of its head, its headers, the pieces and the trailers
of its body. What is past a limit gets 400, or the connection ends.
"""

from __future__ import annotations

import asyncio
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 192 * 1024
"""What may come before a request head is complete. More than a body may have: one of them can come in the same packet."""
MESSAGE_BYTES: Final = 1024 * 1024
"""What may come after it: a body that is allowed, in many pieces, is far smaller."""
HEADERS_MAX: Final = 100
HEADERS_BYTES: Final = 32 * 1024
"""Names and values of a head and its trailers together."""
PIECES_MAX: Final = 4_096
"""Pieces of a body: each is copied together with those before it."""
ONCE: Final = frozenset(
    {
        b"host", b"origin", b"authorization", b"content-type", b"content-encoding", b"transfer-encoding", b"idempotency-key",
        b"upgrade", b"sec-websocket-key", b"sec-websocket-version",
    }
)  # fmt: skip
"""Headers that come once. `Content-Length` is the parser's."""
ANSWER_S: Final = 30.0
"""Whoever asked reads some of a large answer within this time."""


class LimitedHttp(HttpToolsProtocol):
    """One HTTP connection."""

    in_head = True
    """Whether a request head is still to come, or coming."""
    _received = 0
    _headers = 0
    _headers_bytes = 0
    _pieces = 0
    _answer_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Count what comes of this request."""
        self._received += len(data)
        if self._received > (HEAD_BYTES if self.in_head else MESSAGE_BYTES):
            self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Count anew for each request of a connection that is kept."""
        super().on_message_begin()
        self.in_head = True
        self._received = self._headers = self._headers_bytes = self._pieces = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count headers; trailers are the same to the parser."""
        self._headers += 1
        self._headers_bytes += len(name) + len(value)
        if self._headers > HEADERS_MAX or self._headers_bytes > HEADERS_BYTES:
            raise httptools.HttpParserError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Judge the head as a whole."""
        self.in_head = False
        self._received = 0
        found = [name for name, _ in self.headers if name in ONCE]
        if len(set(found)) < len(found) or (b"host" not in found and self.parser.get_http_version() == "1.1"):
            raise httptools.HttpParserError("a header is missing, or comes twice")
        if (b"transfer-encoding" in found) and dict(self.headers)[b"transfer-encoding"].strip().lower() != b"chunked":
            raise httptools.HttpParserError("an unknown coding")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count pieces."""
        self._pieces += 1
        if self._pieces > PIECES_MAX:
            raise httptools.HttpParserError("too many pieces")
        super().on_body(body)

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is answered: it has a moment to go on, since it holds a place that others want."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It goes on."""
        super().resume_writing()
        self.stop_answer_timer()

    def stop_answer_timer(self) -> None:
        """Nothing is answered here any more."""
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        self.stop_answer_timer()
        super().connection_lost(exc)
