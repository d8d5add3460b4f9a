"""One port for the web client, REST and the gateway.

`FrontProtocol` is HTTP/1.1 (`LimitedHttp`) with a deadline for the request head; a WebSocket upgrade at `/gateway` is handed to
picows on the same transport. No code of ours runs per byte.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]  # public class, absent from the stubs
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from securechat.auth.addresses import PROXY_PROTOCOL, Network, client_address, peer_in, source_of
from securechat.auth.manager import AuthManager
from securechat.auth.rate_limiter import RateLimiter
from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.audit import AuditEvent, Result
from securechat.domain.entries import Entry
from securechat.domain.limits import LIMITS
from securechat.domain.ports import AccountStore, LogStore
from securechat.domain.secret import Secret
from securechat.errors import ChatError, RateLimited, SessionRefused, Unauthorized, Unavailable
from securechat.gateway import draining
from securechat.gateway.acceptor import Acceptor, TLSSource, once
from securechat.gateway.arrival import Arrival
from securechat.gateway.connection import ClientConnection
from securechat.gateway.connection_limits import Connections, HttpConnections, Pending
from securechat.gateway.hub import Hub
from securechat.gateway.limited_http import LimitedHttp
from securechat.gateway.session_layer import SessionLayer
from securechat.gateway.turns import Turns
from securechat.gateway.writer import TurnWriter
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.handshake import ServerHandshake
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.history import HistoryService

log = logging.getLogger(__name__)

HEAD_S: Final = 5.0
"""A request head has to be there within this time."""
HTTP_CONNECTIONS: Final = 5_000
"""Of a listener without a gateway: what sends people elsewhere."""
LOOK_AFTER_S: Final = 1.5
ENDED_MS: Final = 10_000
"""How far back it is looked for sessions that ended without our being told, beside what was not looked at."""
COMPLETE_MS: Final = 3_000
"""Over so long those come again who did not get all of their rooms."""
RECHECK_BATCH: Final = 100
"""Users that are looked at in one turn of the loop."""
ARRIVALS_WAITING: Final = 1_000
"""Who may wait to be let in: everybody of a full server, after a few tries."""
ARRIVAL_S: Final = 4.0
ARRIVAL_AGAIN_MS: Final = 3_000
PATH: Final = b"/gateway"
_READ_BYTES: Final = 4 * 1024


class _Quiet:
    """A logger for picows: it makes one logger per connection of a real one, and logs what clients do wrong."""

    def isEnabledFor(self, _level: int) -> bool:  # noqa: N802 - the name is the library's
        return False

    def info(self, *_values: object) -> None:
        """Say nothing."""

    log = debug = warning = error = info

    def exception(self, *values: object) -> None:
        """Pass on what is our own mistake."""
        log.error("gateway callback failed: %s", values[0] if values else "", exc_info=True)  # noqa: LOG014 - picows calls this while it handles the exception


_quiet: Final = _Quiet()


class Gateway:
    """All WebSocket connections of this process: the `Session` that each of them uses.

    Args:
        hub: Who listens to what.
        auth: Who is asking.
        accounts: People.
        log_store: Rooms.
        history: Catching up.
        dispatcher: Commands.
        counters: What is counted.
        limiter: For connecting again and again.
        pending: Connections on their way in; its caps are those of all connections.
        server_name: What `hello` says.
        session_layer: The sealed sub-protocol.
        ended: Returns (user id, device id) of the sessions that ended within so many milliseconds.
        note: Hears of what the audit log should remember. Does not wait, and does not raise.
        arrivals: How many are let in at a time: who comes back after an outage leaves the database to those who are there.
    """

    def __init__(
        self,
        hub: Hub,
        auth: AuthManager,
        accounts: AccountStore,
        log_store: LogStore,
        history: HistoryService,
        dispatcher: CommandDispatcher,
        counters: Counters,
        limiter: RateLimiter,
        pending: Pending,
        server_name: Callable[[], str],
        session_layer: SessionLayer,
        ended: Callable[[int], Awaitable[Iterable[tuple[str, str]]]],
        note: Callable[[AuditEvent], None],
        arrivals: int = 4,
    ) -> None:
        self._hub = hub
        self.expect = hub.expect
        self.forget = hub.forget
        self.online_in = hub.online_in
        self._auth = auth
        self._accounts = accounts
        self._log_store = log_store
        self._history = history
        self._writer = TurnWriter(asyncio.get_running_loop())
        self.mark = self._writer.mark
        self.dispatch = dispatcher.dispatch
        self.charge = dispatcher.charge
        self._ended = ended
        self._note = note
        self._arrivals = Turns(arrivals)
        self.counters = counters
        self.pending = pending
        self.server_name = server_name
        self.session_layer = session_layer
        self.key_root = session_layer.root
        self.connections = Connections(pending)
        self.http = HttpConnections(pending)
        self._limiter = limiter
        self.draining = False
        self._recheck = False
        self._roles_stale = False
        self._knew_ended_at = time.monotonic()

    def recheck_roles(self, _user_id: str) -> None:
        """Somebody's role may have changed without our being told."""
        self._roles_stale = True

    def recheck(self) -> None:
        """The settings changed: see to it that whoever is connected would still be let in."""
        self._recheck = True

    async def answer(self, handshake: ServerHandshake, address: str) -> list[bytes]:
        """See `Session.answer`."""
        return await self.session_layer.admission.answer(handshake, address)

    def note_refusal(self, who: Principal | None, address: str, refused: SessionRefused) -> None:
        """See `Session.note_refusal`."""
        event = AuditEvent(
            action="session.refused", actor=who.user_id if who else "", device=who.device_id if who else "", address=address,
            result=Result.REFUSED, reason=refused.reason, details={"code": int(refused.code)},
        )  # fmt: skip
        self._note(event)

    async def who(self, token: Secret) -> Principal:
        """See `Session.who`."""
        principal = await self._auth.authenticate(token)
        policy.require_enrolled(principal, setting_up=False)  # That is done over REST: nothing is heard before.
        policy.require_connection(principal)
        return principal

    def arrival(self) -> AbstractAsyncContextManager[None]:
        """See `Session.arrival`."""
        refusal = Unavailable("Too many come at once.", retry_after_ms=ARRIVAL_AGAIN_MS)
        return self._arrivals.turn(refusal, waiting_max=ARRIVALS_WAITING, wait_s=ARRIVAL_S)

    async def known(self, token: Secret) -> Principal:
        """See `Session.known`."""
        try:
            principal = await self.who(token)
        except Unauthorized:
            self.counters.auth_failures += 1
            raise
        self._make_room(principal)
        return principal

    async def ready(self, principal: Principal) -> f.Ready:
        """See `Session.ready`."""
        # Asked again: what ends a session from here on finds the connection among those that are expected.
        found = await self._accounts.session(user_id=principal.user_id, device_id=principal.device_id, blocks=True)
        if found is None or found.device.revoked or found.user.disabled:
            raise Unauthorized("The session has ended.")
        expires_in = None if principal.expires_at is None else max(0, int(principal.expires_at - time.time()))
        rooms = await self._log_store.heads(principal.user_id)
        return f.Ready(
            user=found.user,
            device=principal.device_id,
            rooms=rooms.rooms,
            complete=rooms.complete,
            resumed=True,
            blocked=found.blocked,
            expires_in=expires_in,
        )

    def admit(self, address: str, subprotocol: str) -> WSUpgradeResponseWithListener:
        """Accept an upgrade from this address to one of our sub-protocols, or refuse it, before anything is allocated for it."""
        if self.draining:
            return _refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        status, wait_ms = self.connections.refused(address), 5_000
        if status is None:
            try:
                self._limiter.take("connect.address", address, time.monotonic())
            except RateLimited as error:
                status, wait_ms = HTTPStatus.TOO_MANY_REQUESTS, error.retry_after_ms or wait_ms
        if status is not None:
            self.counters.connections_refused += 1
            return _refuse(HTTPStatus(status), wait_ms)
        self.counters.connections_opened += 1
        response = WSUpgradeResponse.create_101_response(extra_headers={"Sec-WebSocket-Protocol": subprotocol})
        handshake = self.session_layer.handshake() if subprotocol == f.SUBPROTOCOL else None
        return WSUpgradeResponseWithListener(response, ClientConnection(self, address, handshake))

    def _make_room(self, principal: Principal) -> None:
        """Keep an account within its number of connections.

        Raises:
            RateLimited: It connects too often, or has too many connections and none of this device that could be replaced.
        """
        self._limiter.take("connect.account", principal.user_id, time.monotonic())
        own = self._hub.connections_of(principal.user_id)
        if len(own) < self.pending.caps.account:
            return
        for connection in own:  # Oldest first.
            if connection.principal is not None and connection.principal.device_id == principal.device_id:
                connection.close(f.CloseCode.REPLACED, "replaced by a newer connection of this device")
                return
        raise RateLimited("This account has too many connections.", retry_after_ms=60_000)

    def attach(self, connection: ClientConnection, user_id: str, rooms: Mapping[str, int]) -> Arrival:
        """See `Session.attach`."""
        arrival = self._hub.attach(connection, user_id, rooms)
        self.connections.known(connection)
        return arrival

    def detach(self, connection: ClientConnection, user_id: str) -> None:
        """See `Session.detach`."""
        self._hub.detach(connection, user_id)

    async def newest(self, principal: Principal, room: str) -> int:
        """See `Session.newest`."""
        state = policy.require_in(principal, "fetch", await self._log_store.room(room, user_id=principal.user_id), room)
        return state.last_seq

    async def missed(self, principal: Principal, room: str, after: int, last_seq: int) -> AsyncIterator[list[Entry]]:
        """See `Session.missed`."""
        pages = self._history.missed(room, after, last_seq)
        while True:
            async with self._arrivals.some_time():
                entries = await anext(pages, None)
                if entries is None:
                    return
                state = await self._log_store.room(room, user_id=principal.user_id)
            if state is None or not policy.may_read(state, principal.user_id):
                return  # A page takes time to be read by the client: who was removed meanwhile gets no more.
            yield entries

    async def look_after(self) -> None:
        """Ping, and end what is dead, for ever."""
        while True:
            await asyncio.sleep(LOOK_AFTER_S)
            await self._close_ended()
            self.complete()
            if self._roles_stale:
                self._roles_stale = False
                await self._read_roles()
            if self._recheck:
                self._recheck = False
                await self._close_unenrolled()
            now, wall = time.monotonic(), time.time()
            for connection in self._connections():
                connection.look_after(now, wall)

    async def _close_ended(self) -> None:
        """Close what belongs to a session that ended, if the bus did not say so, or said so while it was authenticating."""
        now = time.monotonic()
        try:
            for user_id, device_id in await self._ended(ENDED_MS + int((now - self._knew_ended_at) * 1_000)):
                self._hub.disconnect(user_id=user_id, device_ids={device_id}, code=f.CloseCode.UNAUTHORIZED)
        except ChatError as error:
            log.warning("sessions that ended are not known now", extra={"code": error.code})
        else:
            self._knew_ended_at = now

    async def _read_roles(self) -> None:
        """Let the roles that the store knows hold on open connections."""
        users = self._hub.users()
        try:
            while users:
                told = self._hub.roles_told
                found = await self._accounts.users(users[:RECHECK_BATCH])
                if self._hub.roles_told != told:
                    continue  # What came meanwhile may be newer than what was read.
                for user in found:
                    self._hub.change_role(user)
                del users[:RECHECK_BATCH]
        except ChatError as error:
            self._roles_stale = True
            log.warning("roles are not known now", extra={"code": error.code})

    async def _close_unenrolled(self) -> None:
        """Close connections of those whose role wants a second factor now, and who have none."""
        try:
            for number, user_id in enumerate(self._hub.users()):
                await self._auth.disconnect_unenrolled(user_id)
                if number % RECHECK_BATCH == 0:
                    await asyncio.sleep(0)
        except ChatError as error:
            self._recheck = True
            log.warning("who lacks a second factor is not known now", extra={"code": error.code})

    async def drain(self, spread_s: float, window_s: float) -> None:
        """Tell every client to come back, and let them go in batches within a time; see `gateway.draining`.

        Without a window nobody is closed yet: what they sent is answered first.
        """
        self.draining = True
        connections = self._connections()
        window_s = draining.announce(connections, spread_s=spread_s, window_s=window_s)
        if window_s:
            await draining.let_go(connections, window_s)

    def complete(self) -> None:
        """Have those come again whose rooms could not all be had when they came, if now they can."""
        if not self._log_store.whole:
            return
        lacking = [each for each in self._connections() if not each.complete]
        for index, connection in enumerate(lacking):
            connection.complete = True
            connection.announce(COMPLETE_MS * (index + 1) // len(lacking))
            connection.close(f.CloseCode.DRAIN, "drain")

    def abort(self) -> None:
        """End what is left."""
        for connection in self._connections():
            connection.close(f.CloseCode.DRAIN, "drain")

    def _connections(self) -> list[ClientConnection]:
        return [each for each in self.connections if isinstance(each, ClientConnection)]


def _nothing() -> None:
    pass


class FrontProtocol(LimitedHttp):
    """HTTP/1.1 with a deadline for the head, and a door to the gateway."""

    gateway: Gateway | None
    origins: Callable[[], frozenset[str]]
    proxies: Callable[[], Proxies]
    _pending_key: str | None = None
    _head_timer: asyncio.TimerHandle | None = None
    shaken: Callable[[], None] = staticmethod(_nothing)
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

        protocol = WSProtocol(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=upgrade,
            logger=_quiet,
            disconnect_on_exception=True,
            websocket_handshake_timeout=HEAD_S,
            enable_auto_ping=False,  # `look_after` pings all connections without a task for each
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=False,  # a ping is a sign of life, so `ClientConnection` answers it
            max_frame_size=LIMITS.websocket_message_bytes,
            extra_headers=None,
            read_buffer_init_size=_READ_BYTES,
        )
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        data = b"".join(head)
        while data:
            buffer = protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            data = data[size:]
            protocol.buffer_updated(size)
        self.parser = None  # type: ignore[assignment]  # the parser refers back to us

    def _upgrade(self, request: WSUpgradeRequest, scheme: str, address: str) -> WSUpgradeResponseWithListener:
        """Accept or refuse an upgrade, before anything is allocated for it."""
        gateway = self.gateway
        if gateway is None:
            return _refuse(HTTPStatus.NOT_FOUND)
        offered = [word.strip() for word in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        origin = request.headers.get("Origin")
        own = f"{scheme}://{request.headers.get('Host', '')}"
        path, _, query = request.path.partition(b"?")
        if path != PATH:
            return _refuse(HTTPStatus.NOT_FOUND)
        if query:
            return _refuse(HTTPStatus.BAD_REQUEST)  # There is nothing to ask for; a token here would be in somebody's log.
        if self.scope["http_version"] != "1.1" or request.method != b"GET":
            return _refuse(HTTPStatus.BAD_REQUEST)
        if request.headers.get("Sec-WebSocket-Version") != "13":
            return _refuse(HTTPStatus.UPGRADE_REQUIRED)
        # A browser says where its page is from. What brings cookies and does not say so is none of our clients.
        foreign = request.headers.get("Cookie") is not None if origin is None else origin != own and origin not in self.origins()
        if foreign:
            return _refuse(HTTPStatus.FORBIDDEN)
        subprotocol = gateway.session_layer.choose(offered)
        if subprotocol is None:
            return _refuse(HTTPStatus.BAD_REQUEST)
        return gateway.admit(address, subprotocol)

    def _stop_timer(self) -> None:
        """The head is there, or will never be."""
        if self._pending_key is not None and self.gateway is not None:
            self.gateway.pending.leave(self._pending_key)
            self._pending_key = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _refuse(status: HTTPStatus, retry_after_ms: int = 1_000) -> WSUpgradeResponseWithListener:
    wait = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
    headers = {"Retry-After": str(-(-retry_after_ms // 1_000))} if status in wait else {}
    if status is HTTPStatus.UPGRADE_REQUIRED:
        headers["Sec-WebSocket-Version"] = "13"
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, status.phrase.encode(), headers), None)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies in front of this server.

    Attributes:
        trusted: Their networks.
        header: What they write: a key of `auth.addresses.HEADERS`, or `PROXY_PROTOCOL`.
    """

    trusted: tuple[Network, ...] = ()
    header: str = "x-forwarded-for"

    def trust(self, peer: str) -> bool:
        """Return whether a peer is one of them."""
        return bool(self.trusted) and any(peer_in(peer, network) for network in self.trusted)

    def announces(self, peer: str) -> bool:
        """Return whether a peer is a proxy that says before TLS whose connection it is."""
        return self.header == PROXY_PROTOCOL and self.trust(peer)

    def source(self, peer: str) -> str:
        """Return by what a peer is counted: its source; nothing for a proxy, which stands for many."""
        return "" if self.trust(peer) else source_of(peer)

    def client(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return whose request it is."""
        if self.header == PROXY_PROTOCOL:
            return peer  # That was said when the connection began: no header is believed.
        return client_address(peer, headers, self.trusted, self.header)


async def _bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Return a socket for each address of a host, IPv4 and IPv6, that this machine has.

    Raises:
        OSError: One of them is taken, or none is ours.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _name, address in dict.fromkeys(found):
        try:
            each = socket.socket(family, kind, protocol)
        except OSError as error:  # No IPv6 in this kernel.
            missing = error
            continue
        try:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
        except OSError as error:
            each.close()
            if error.errno == errno.EADDRNOTAVAIL:
                missing = error
                continue
            for other in sockets:
                other.close()
            raise
        sockets.append(each)
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    return sockets


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
        sockets = await _bind(host, port, shared=shared)
        # Not by the network library, without TLS either: out of open files, its listener turns in circles and fills the log.
        self._servers.append(
            Acceptor(sockets, lambda _made, _peer: self._make(), None, lambda _peer: _nothing)
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
            return _nothing
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
