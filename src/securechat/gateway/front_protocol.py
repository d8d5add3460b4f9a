"""FrontProtocol: the first bytes of every connection. They are HTTP/1.1 (`LimitedHttp`), with a deadline for the request head.

A WebSocket upgrade at `/gateway` is handed to picows on the same transport. No code of ours runs per byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from picows import WSUpgradeRequest, WSUpgradeResponseWithListener

from securechat.gateway.gateway import Gateway
from securechat.gateway.limited_http import LimitedHttp
from securechat.gateway.proxies import Proxies
from securechat.gateway.upgrade import HEAD_S, feed, refusal, websocket_protocol

HTTP_CONNECTIONS: Final = 5_000
"""Of a listener without a gateway: what sends people elsewhere."""
PATH: Final = b"/gateway"


def nothing() -> None:
    """Nobody waits for the end of a TLS handshake."""


class FrontProtocol(LimitedHttp):
    """HTTP/1.1 with a deadline for the head, and a door to the gateway.

    Made by `Listener` for each port, with these three set on the class.

    Attributes:
        gateway: WebSocket connections; None where there is no gateway.
        origins: Origins of browsers that are allowed besides the server's own.
        proxies: The proxies in front.
    """

    gateway: Gateway | None
    origins: Callable[[], frozenset[str]]
    proxies: Callable[[], Proxies]
    _pending_key: str | None = None
    _head_timer: asyncio.TimerHandle | None = None
    shaken: Callable[[], None] = staticmethod(nothing)
    """Called when the TLS handshake is done."""
    announced = ""
    """Whose connection it is, if a proxy said so before TLS began."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline."""
        super().connection_made(transport)
        if self.announced:
            self.client = (self.announced, 0)
        # Not in this turn: aborted inside `connection_made`, the transport closes its descriptor a second time, and by then it may
        # be somebody else's.
        self.shaken()
        if self.gateway is None and len(self.connections) > HTTP_CONNECTIONS:
            self.loop.call_soon(transport.abort)
            return
        key = self.proxies().source(self.client[0] if self.client else "")
        if self.gateway is not None:
            if self.gateway.pending.full(key) or not self.gateway.http.enter(self, key):
                self.gateway.counters.connections_refused += 1
                self.loop.call_soon(transport.abort)
                return
            self.gateway.pending.enter(key)
            self._pending_key = key
        self._head_timer = self.loop.call_later(HEAD_S, transport.abort)

    def on_message_begin(self) -> None:
        """Start it again for each request of a connection that is kept."""
        super().on_message_begin()
        if self.gateway is not None:
            self.gateway.http.wake(self)
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_timer()
        if self.client:
            # Only now are the headers known that say for whom a trusted proxy speaks; each request of a connection has its own.
            self.scope["client"] = (self.proxies().client(self.client[0], self.headers), self.client[1])
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """From now on it may make way for others, until it asks for something again."""
        super().on_response_complete()
        answered = self.cycle is None or self.cycle.response_complete
        if self.gateway is not None and answered and self._head_timer is None and not self.transport.is_closing():
            self.gateway.http.rest(self)

    def make_way(self) -> None:
        """See `Kept`. Not closed: that takes as long as its peer likes."""
        self.loop.call_soon(self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        self._stop_timer()
        if self.gateway is not None:
            self.gateway.http.leave(self)
        super().connection_lost(exc)

    def _should_upgrade_to_ws(self) -> bool:
        return self.gateway is not None

    def handle_websocket_upgrade(self) -> None:
        """Hand the transport to picows, with the head that was read."""
        self._stop_timer()
        self.stop_answer_timer()
        self.connections.discard(self)
        if self.gateway is not None:
            self.gateway.http.leave(self)
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        head.append(b"\r\n")
        address = self.scope["client"][0] if self.scope["client"] else ""
        scheme = self.scheme or "https"

        def upgrade(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            return self._upgrade(request, scheme, address)

        protocol = websocket_protocol(upgrade)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        feed(protocol, b"".join(head))
        self.parser = None  # type: ignore[assignment]  # the parser refers back to us

    def _upgrade(self, request: WSUpgradeRequest, scheme: str, address: str) -> WSUpgradeResponseWithListener:
        """Accept or refuse an upgrade, before anything is allocated for it."""
        gateway = self.gateway
        if gateway is None:
            return refusal(HTTPStatus.NOT_FOUND)
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        origin = request.headers.get("Origin")
        own = f"{scheme}://{request.headers.get('Host', '')}"
        path, _, query = request.path.partition(b"?")
        if path != PATH:
            return refusal(HTTPStatus.NOT_FOUND)
        if query:
            return refusal(HTTPStatus.BAD_REQUEST)  # There is nothing to ask for; a token here would be in somebody's log.
        if self.scope["http_version"] != "1.1" or request.method != b"GET":
            return refusal(HTTPStatus.BAD_REQUEST)
        if request.headers.get("Sec-WebSocket-Version") != "13":
            return refusal(HTTPStatus.UPGRADE_REQUIRED)
        # A browser says where its page is from. What brings cookies and does not say so is none of our clients.
        foreign = request.headers.get("Cookie") is not None if origin is None else origin != own and origin not in self.origins()
        if foreign:
            return refusal(HTTPStatus.FORBIDDEN)
        subprotocol = gateway.session_layer.choose(offered)
        if subprotocol is None:
            return refusal(HTTPStatus.BAD_REQUEST)
        return gateway.admit(address, subprotocol)

    def _stop_timer(self) -> None:
        """The head is there, or will never be."""
        if self._pending_key is not None and self.gateway is not None:
            self.gateway.pending.leave(self._pending_key)
            self._pending_key = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
