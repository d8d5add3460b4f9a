"""Conversation: what one client says, and is answered: `auth` first, then commands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from securechat import __version__
from securechat.domain.accounts import Principal
from securechat.domain.commands import Done
from securechat.domain.limits import LIMITS
from securechat.errors import ChatError, Conflict, Internal, RateLimited, SessionRefused, Unauthorized, Unavailable
from securechat.gateway.connection_limits import Patience
from securechat.gateway.session import Session
from securechat.gateway.welcome import let_in, within_reach
from securechat.protocol import frames as f
from securechat.protocol.codec import Block
from securechat.protocol.handler import BadFrame

if TYPE_CHECKING:
    from securechat.gateway.connection import ClientConnection

log = logging.getLogger(__name__)

AUTH_S: Final = 10.0
"""`auth` has to be there so long after `hello`."""
EXPIRING_S: Final = 60.0
"""How long before its token ends a connection is told so."""


def _code_of(error: ChatError) -> f.CloseCode:
    """Return the close code for a connection that could not be authenticated: 4401 only if that is the token's fault."""
    if isinstance(error, RateLimited):
        return f.CloseCode.TOO_MANY
    return f.CloseCode.OVERLOADED if isinstance(error, Unavailable) else f.CloseCode.UNAUTHORIZED


class Conversation:
    """What is said on one connection.

    Args:
        session: The server.
        connection: Where it is said.
    """

    __slots__ = (
        "_began_at", "_connection", "_expiring", "_fenced", "_held", "_in_flight", "_patience", "_paused", "_resuming", "_session",
    )  # fmt: skip

    def __init__(self, session: Session, connection: ClientConnection) -> None:
        self._session = session
        self._connection = connection
        self._began_at = time.monotonic()
        self._held: list[Any] | None = None
        """What came behind `auth` while that is looked at."""
        self._fenced: list[Any] | None = None
        """What came while the fence was shut."""
        self._in_flight = 0
        self._paused = False
        self._expiring = False
        self._resuming = asyncio.Lock()
        self._patience = Patience()

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered."""
        return not self._in_flight and self._held is None and self._fenced is None

    def begin(self, heartbeat_s: int, *, sealed: bool) -> None:
        """Say hello.

        Args:
            heartbeat_s: How often somebody silent is pinged.
            sealed: Whether inside a sealed session, whose keys have a root.
        """
        self._began_at = time.monotonic()
        hello = f.Hello(
            protocol=f.PROTOCOL_VERSION,
            server=self._session.server_name(),
            version=__version__,
            time=int(time.time() * 1000),
            heartbeat_s=heartbeat_s,
            limits=LIMITS,
            root=self._session.key_root() if sealed else "",
        )
        self._connection.push(Block([hello]))

    def look_after(self, now: float, wall: float) -> None:
        """Called every few seconds: end the unauthenticated and the expired; ask for a fresh token once."""
        principal = self._connection.principal
        if principal is None:
            if now - self._began_at > AUTH_S:
                self._connection.close(f.CloseCode.REKEY, "auth takes too long")  # Not 4401: nothing was said of the token.
        elif principal.expires_at is not None:
            left_s = principal.expires_at - wall
            if left_s < 0:
                self._connection.close(f.CloseCode.UNAUTHORIZED, "token expired")
            elif left_s <= EXPIRING_S and not self._expiring:
                self._expiring = True
                self._connection.put_frame(f.SignalFrame(type="auth.expiring", expires_in=int(left_s)))

    # ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, frame: Any) -> None:
        """Take the next frame of the client, or a `BadFrame`."""
        principal = self._connection.principal
        if self._held is not None:
            self._hold(self._held, frame)
        elif principal is not None and (self._fenced is not None or self._session.fence.check()):
            self._wait(frame)
        elif type(frame) is BadFrame:
            if self.allowed(frame.id):
                self._answer(frame.id, frame.error)
        elif principal is not None:
            self._take_known(principal, frame)
        elif type(frame) is f.Auth:
            self._held = []
            self.spawn(self._authenticate(frame), frame.id)
        elif type(frame) is f.Ping:
            self._pong(frame.id)
        else:
            self._answer(frame.id, Unauthorized("The first frame is auth."))
            self._connection.close(f.CloseCode.UNAUTHORIZED, "auth first")

    def _hold(self, held: list[Any], frame: Any) -> None:
        """Nothing after `auth` runs before it succeeded."""
        held.append(frame)
        if len(held) > LIMITS.frames_per_message:
            self._connection.close(f.CloseCode.TOO_MANY, "too many frames before ready")

    def _wait(self, frame: Any) -> None:
        """Nothing runs while the fence is shut: the session may have ended while this process stood still."""
        if self._fenced is None:
            self._fenced = []
            self._connection.pause_reading()
            self.spawn(self._take_fenced(), "")
        self._fenced.append(frame)  # Nothing more is read, so there is no need for a limit.

    async def _take_fenced(self) -> None:
        await self._session.fence.opened()
        fenced, self._fenced = self._fenced or [], None
        self._take_all(fenced)
        self._resume_reading()

    def _take_all(self, frames: list[Any]) -> None:
        """Take what waited, unless its session has ended meanwhile."""
        for each in frames:
            if not self._connection.ending:
                self.take(each)

    def _resume_reading(self) -> None:
        if not self._paused and self._fenced is None:
            self._connection.resume_reading()

    def _take_known(self, principal: Principal, frame: Any) -> None:
        kind = type(frame)
        if kind is f.Ping:
            self._pong(frame.id)
            return
        self._count_in()
        if kind is f.Resume:
            self._limited(self._resume(principal, frame), principal, frame.id, cost=max(1, len(frame.rooms)))
        elif kind is f.Auth:
            self._limited(self._extend(principal, frame), principal, frame.id, cost=5)
        else:
            self._session.dispatch(principal, frame, self._connection.address, partial(self._complete, frame.id))

    def _limited(self, work: Coroutine[Any, Any, None], principal: Principal, frame_id: str, *, cost: int) -> None:
        """Do what only a connection can do, under the limits of a command."""
        try:
            self._session.charge(principal, cost, self._connection.address)
        except ChatError as error:
            work.close()
            self._complete(frame_id, error)
        else:
            self.spawn(self._counted(work), frame_id)

    async def _counted(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._count_out()

    def _count_in(self) -> None:
        self._in_flight += 1
        if self._in_flight >= LIMITS.in_flight and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def _count_out(self) -> None:
        self._in_flight -= 1
        if self._paused and self._in_flight <= LIMITS.in_flight // 2:
            self._paused = False
            self._resume_reading()

    def allowed(self, frame_id: str = "") -> bool:
        """Take tokens for what is no command: pings, empty messages and frames that could not be understood."""
        try:
            self._session.charge(self._connection.principal, 1, self._connection.address)
        except RateLimited as error:
            self._answer(frame_id, error)
            return False
        return True

    # ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────

    def _complete(self, frame_id: str, result: Any) -> None:
        self._count_out()
        self._answer(frame_id, result)

    def _answer(self, frame_id: str, result: Any) -> None:
        connection = self._connection
        if connection.ending:
            return
        if not isinstance(result, ChatError):
            connection.put_frame(f.Reply(id=frame_id, data=result))
            return
        self._session.counters.refused += 1
        connection.put_frame(f.error_frame(frame_id, result))
        if isinstance(result, RateLimited) and self._patience.ends():
            connection.refuse(SessionRefused(f.CloseCode.TOO_MANY, "goes on after being told to wait"), result.code)

    def _pong(self, frame_id: str) -> None:
        if self.allowed(frame_id):
            self._connection.put_frame(f.Pong(id=frame_id, time=int(time.time() * 1000)))

    # ── what takes time ──────────────────────────────────────────────────────────────────────────────────────────────

    def spawn(self, work: Awaitable[None], frame_id: str) -> None:
        """Do something that waits; what it raises is the answer to a frame."""
        task = asyncio.create_task(self._guard(work, frame_id), name="conversation")
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _guard(self, work: Awaitable[None], frame_id: str) -> None:
        connection = self._connection
        try:
            await work
        except ChatError as error:
            if self._held is None:
                self._answer(frame_id, error)
            else:
                self._end_coming_in(frame_id, error)
        except Exception:
            log.exception("connection failed")
            self._answer(frame_id, Internal())
            connection.close(f.CloseCode.INTERNAL, "internal")

    def _end_coming_in(self, frame_id: str, error: ChatError) -> None:
        """Close a connection that cannot be let in; who has `ready` already comes back for what was missed."""
        known = self._connection.principal is not None
        if not known:
            self._answer(frame_id, error)
        code = f.CloseCode.OVERLOADED if known else _code_of(error)
        self._connection.close(code, error.code, after_ms=error.retry_after_ms or 0)

    async def _authenticate(self, auth: f.Auth) -> None:
        welcome = await let_in(self._session, self._connection, auth)
        if welcome is None:
            return
        connection, ready = self._connection, welcome.ready
        # From here to `ready` nothing waits: what is delivered now is queued behind `ready` and what was missed.
        connection.know(welcome.principal, complete=ready.complete)
        presence = self._session.online_in(room.id for room in ready.rooms)  # With this one, who is known by now.
        await connection.catch_up(welcome.principal, [ready, *welcome.changes], welcome.behind)
        if presence:
            connection.push_ephemeral(Block([f.SignalFrame(type="presence.changed", presence=presence)]))
        held, self._held = self._held or [], None
        self._take_all(held)

    async def _extend(self, principal: Principal, frame: f.Auth) -> None:
        """Go on with a fresh token of the same device."""
        fresh = await self._session.who(frame.token)
        if (fresh.user_id, fresh.device_id) != (principal.user_id, principal.device_id):
            raise Conflict("This connection belongs to another device.")
        known = self._connection.principal
        if known is not None and known.role is not principal.role:
            fresh = msgspec.structs.replace(fresh, role=known.role)  # It changed meanwhile: what was read may be older.
        self._connection.principal = fresh
        self._expiring = False
        self._answer(frame.id, Done())

    async def _resume(self, principal: Principal, frame: f.Resume) -> None:
        async with self._resuming:  # One at a time: it costs much more than any other frame.
            behind = [(room, after, await self._session.newest(principal, room)) for room, after in frame.rooms.items()]
            resumed = {room: within_reach(after, last_seq) for room, after, last_seq in behind}
            await self._connection.catch_up(principal, [f.Reply(id=frame.id, data=f.Resumed(rooms=resumed))], behind)


_tasks: Final[set[asyncio.Future[None]]] = set()
"""Strong references: the loop keeps only weak ones."""


async def finish(within_s: float) -> None:
    """Have what is under way answered, and end what is not within this time: the store may be closed after that."""
    loop = asyncio.get_running_loop()
    if tasks := {task for task in _tasks if task.get_loop() is loop}:
        _, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        if late:
            log.warning("reads were not answered in time", extra={"count": len(late)})
            await asyncio.wait(late, timeout=within_s)
