"""A target of webhooks for a test: keeps what comes, and answers as it is told."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from securechat.webhooks import Event, verify
from support.ports import free_port
from support.running import wait_until

Answer = Callable[[Event], int]
"""The status for a delivery."""


class Server(ThreadingHTTPServer):
    """One that does not mind when a server that is killed hangs up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of that."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Receiver:
    """An HTTP server on loopback.

    Args:
        secret: When it is known: every delivery is verified.

    Attributes:
        events: What was taken, in order.
        refused: What was not.
        answer: Says what is answered.
        redirect: Where a 3xx leads.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/in?key=of-the-target"
        self.secrets: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.events: list[Event] = []
        self.refused: list[Event] = []
        self.answer: Answer = lambda _event: 204
        self.redirect = ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver._take({**self.headers, "path": self.path}, body)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", receiver.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_words: Any) -> None:
                """Say nothing."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        self.headers.append(headers)
        self.bodies.append(body)
        if self.secrets:
            event = verify(headers, body, self.secrets[-1])
        else:
            told = msgspec.json.decode(body)
            event = Event(id=headers.get("webhook-id", ""), type=told["type"], timestamp=told["timestamp"], data=told["data"])
        status = self.answer(event)
        (self.events if status < 300 else self.refused).append(event)
        return status

    @property
    def texts(self) -> list[str]:
        """Texts of messages that were taken."""
        return [event.data["body"] for event in self.events if event.type == "message.sent" and "body" in event.data]

    def wait(self, count: int, within_s: float = 15) -> list[Event]:
        """Return when so many were taken."""
        wait_until(lambda: len(self.events) >= count, f"{count} deliveries, and not {len(self.events)}", within_s)
        return self.events

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def now_ms() -> int:
    """Return the time."""
    return time.time_ns() // 1_000_000
