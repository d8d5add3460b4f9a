"""Gateway: all WebSocket connections of this process, and what each of them needs of the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from http import HTTPStatus
from typing import Final

from picows import WSUpgradeResponse, WSUpgradeResponseWithListener

from securechat.auth.manager import AuthManager, Holder
from securechat.auth.rate_limiter import RateLimiter
from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.audit import AuditEvent, Result
from securechat.domain.entries import Entry
from securechat.domain.ports import AccountStore, Clock, LogStore
from securechat.domain.secret import Secret
from securechat.errors import RateLimited, SessionRefused, Unauthorized
from securechat.gateway import draining
from securechat.gateway.arrival import Arrival
from securechat.gateway.connection import ClientConnection
from securechat.gateway.connection_limits import Connections, HttpConnections, Pending
from securechat.gateway.fence import Fence
from securechat.gateway.hub import Hub
from securechat.gateway.rounds import a_few_at_a_time
from securechat.gateway.session import Known
from securechat.gateway.session_layer import SessionLayer
from securechat.gateway.standing import Standing
from securechat.gateway.turns import Turns
from securechat.gateway.upgrade import refusal
from securechat.gateway.writer import TurnWriter
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.handshake import ServerHandshake
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.history import HistoryService

log = logging.getLogger(__name__)

LOOK_AFTER_S: Final = 3.0
"""A round through all connections. Each part of it wakes the loop: with a thousand, a round of 1.5 s took 1 % of a core."""
STANDING_S: Final = 1.5
"""Between two looks at who may still be here, for what was not told."""
COMPLETE_MS: Final = 3_000
"""Over so long those come again who did not get all of their rooms."""
ARRIVALS_WAITING: Final = 1_000
"""Who may wait to be let in: everybody of a full server, after a few tries."""
ARRIVAL_S: Final = 4.0
ARRIVAL_AGAIN_MS: Final = 3_000
SHUT_S: Final = 5.0
"""So long the fence stays shut at most: if the store does not answer, what was known holds."""


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
        ended: Returns (user id, device id) of the sessions that ended since a time.
        clock: For that time, and for the fence.
        note: Hears of what the audit log should remember. Does not wait, and does not raise.
        arrivals: How many are let in at a time: who comes back after an outage leaves the database to those who are there.

    Attributes:
        standing: Whether those who are connected may still be.
        fence: Shut while that is not known.
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
        clock: Clock,
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
        self.fence = Fence(clock)
        self._writer = TurnWriter(asyncio.get_running_loop(), self.fence)
        self.mark = self._writer.mark
        self.dispatch = dispatcher.dispatch
        self.charge = dispatcher.charge
        self.standing = Standing(hub, auth, accounts, ended, clock)
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

    async def holder(self, token: Secret) -> Holder:
        """See `Session.holder`."""
        with self._failures_counted():
            return await self._auth.holder(token)

    async def known(self, holder: Holder) -> Known:
        """See `Session.known`."""
        with self._failures_counted():
            principal, session = await self._auth.session(holder, blocks=True)
            _require_in(principal)
        return Known(principal, session)

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        try:
            yield
        except Unauthorized:
            self.counters.auth_failures += 1
            raise

    async def who(self, token: Secret) -> Principal:
        """See `Session.who`."""
        principal = await self._auth.authenticate(token)
        _require_in(principal)
        return principal

    def arrival(self) -> AbstractAsyncContextManager[None]:
        """See `Session.arrival`."""
        return self._arrivals.turn(
            "Too many come at once.", again_ms=ARRIVAL_AGAIN_MS, waiting_max=ARRIVALS_WAITING, wait_s=ARRIVAL_S
        )

    async def ready(self, known: Known) -> f.Ready:
        """See `Session.ready`."""
        who = known.principal
        expires_in = None if who.expires_at is None else max(0, int(who.expires_at - time.time()))
        rooms = await self._log_store.heads(who.user_id)
        return f.Ready(
            user=known.session.user,
            device=who.device_id,
            rooms=rooms.rooms,
            complete=rooms.complete,
            resumed=True,
            blocked=known.session.blocked,
            expires_in=expires_in,
        )

    def admit(self, address: str, subprotocol: str) -> WSUpgradeResponseWithListener:
        """Accept an upgrade from this address to one of our sub-protocols, or refuse it, before anything is allocated for it."""
        if self.draining:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        status, wait_ms = self.connections.refused(address), 5_000
        if status is None:
            try:
                self._limiter.take("connect.address", address, time.monotonic())
            except RateLimited as error:
                status, wait_ms = HTTPStatus.TOO_MANY_REQUESTS, error.retry_after_ms or wait_ms
        if status is not None:
            self.counters.connections_refused += 1
            return refusal(HTTPStatus(status), wait_ms)
        self.counters.connections_opened += 1
        response = WSUpgradeResponse.create_101_response(extra_headers={"Sec-WebSocket-Protocol": subprotocol})
        handshake = self.session_layer.handshake() if subprotocol == f.SUBPROTOCOL else None
        return WSUpgradeResponseWithListener(response, ClientConnection(self, address, handshake))

    def make_room(self, principal: Principal) -> None:
        """See `Session.make_room`.

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
            async for some in a_few_at_a_time(self._connections(), LOOK_AFTER_S):
                now, wall = time.monotonic(), time.time()
                for connection in some:
                    if connection in self.connections:  # It may have ended since the round began.
                        connection.look_after(now, wall)

    async def watch_standing(self) -> None:
        """See that nobody stays whose session or rights have ended, and that everybody has all rooms, for ever.

        Beside the rounds, which take their time: a process that stood still does this first, and nothing else before.
        """
        while True:
            if standstills := await self.fence.shut(STANDING_S):
                await self._look_behind(standstills)
            else:
                await self._look_ahead()
            self.complete()

    async def _look_ahead(self) -> None:
        """Look who may still be here. When the fence shuts meanwhile that is over: what it shut for comes first."""
        look, shut = asyncio.ensure_future(self.standing.look()), asyncio.ensure_future(self.fence.shut())
        try:
            await asyncio.wait({look, shut}, return_when=asyncio.FIRST_COMPLETED)
            if look.done():
                look.result()
        finally:
            shut.cancel()
            look.cancel()

    async def _look_behind(self, standstills: int) -> None:
        """See who may still be here after so many standstills, and who hears which room; then let everybody go on."""
        self.standing.roles_changed("")  # What said so may be lost, or not read yet.
        try:
            async with asyncio.timeout(SHUT_S), asyncio.TaskGroup() as looks:
                looks.create_task(self.standing.look())
                if self._hub.follower is not None:
                    looks.create_task(self._hub.follower.sure())
        except TimeoutError:
            log.warning("who may be here is not known yet, and they go on")
        await asyncio.sleep(0)  # Who is sent away goes first.
        if self.fence.looked(standstills):
            for connection in self._connections():
                connection.go_on()

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


def _require_in(principal: Principal) -> None:
    policy.require_enrolled(principal, setting_up=False)  # That is done over REST: nothing is heard before.
    policy.require_connection(principal)
