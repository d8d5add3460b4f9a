"""Listener: the ports of one process, for the web client, REST and the gateway alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from securechat.gateway.acceptor import Acceptor, TLSSource, once
from securechat.gateway.binding import bind
from securechat.gateway.front_protocol import FrontProtocol, nothing
from securechat.gateway.gateway import Gateway
from securechat.gateway.proxies import Proxies


class Listener:
    """The listening sockets of one process.

    Args:
        app: The ASGI application for everything but the gateway.
        gateway: WebSocket connections; None where there is no gateway.
        origins: Origins of browsers that are allowed besides the server's own, read at each upgrade.
        proxies: The proxies in front, read at each request.
        guarded: Whether request heads have a deadline: everywhere but on the admin socket and listener.
    """

    def __init__(
        self,
        app: Any,
        gateway: Gateway | None,
        origins: Callable[[], frozenset[str]],
        proxies: Callable[[], Proxies] = Proxies,
        *,
        guarded: bool = True,
    ) -> None:
        self._config = Config(
            app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            date_header=False, proxy_headers=False, timeout_keep_alive=60, h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self._servers: list[asyncio.AbstractServer | Acceptor] = []
        attributes: dict[str, Any] = {"gateway": gateway, "origins": staticmethod(origins), "proxies": staticmethod(proxies)}
        base = FrontProtocol if guarded else HttpToolsProtocol
        self._protocol = type("Front", (base,), attributes)
        self._gateway = gateway if guarded else None
        self._proxies = proxies

    async def listen(self, host: str, port: int, tls: TLSSource | None, *, shared: bool = False) -> int:
        """Listen on an address and return the port; `shared` with other processes, over which the kernel spreads connections.

        Raises:
            OSError: The address is taken or not ours.
        """
        sockets = await bind(host, port, shared=shared)
        # Not by the network library, without TLS either: out of open files, its listener turns in circles and fills the log.
        self._servers.append(
            Acceptor(sockets, lambda _made, _peer: self._make(), None, lambda _peer: nothing)
            if tls is None
            else Acceptor(sockets, self._make_shaken, tls, self._door, lambda peer: self._proxies().announces(peer))
        )
        return int(sockets[0].getsockname()[1])

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket that only its owner can open."""
        server = await asyncio.get_running_loop().create_unix_server(self._make, path)
        self._servers.append(server)

    def stop_accepting(self) -> None:
        """Take no new connections."""
        for server in self._servers:
            server.close()

    async def finish(self, within_s: float) -> None:
        """Let requests end, then close their connections."""
        for protocol in list(self._state.connections):
            protocol.shutdown()
        deadline = time.monotonic() + within_s
        while self._state.tasks and time.monotonic() < deadline:
            await asyncio.wait(self._state.tasks, timeout=max(0.0, deadline - time.monotonic()))
        for protocol in list(self._state.connections):
            protocol.transport.abort()

    def _door(self, peer: str) -> Callable[[], None] | None:
        """See `Acceptor`: half a handshake is pending like half a request head."""
        if self._gateway is None:
            return nothing
        pending, key = self._gateway.pending, self._proxies().source(peer)
        if pending.full(key):
            self._gateway.counters.connections_refused += 1
            return None
        pending.enter(key)
        return once(partial(pending.leave, key))

    def _make_shaken(self, shaken: Callable[[], None], announced: str) -> Any:
        protocol = self._make()
        protocol.shaken = shaken
        protocol.announced = announced
        return protocol

    def _make(self) -> Any:
        return self._protocol(config=self._config, server_state=self._state, app_state={})
