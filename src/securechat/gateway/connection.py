"""ClientConnection: one client on the gateway, from `hello` to the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from securechat import __version__
from securechat.domain.accounts import Principal
from securechat.domain.commands import Command, Done
from securechat.domain.entries import Entry
from securechat.domain.limits import LIMITS
from securechat.domain.secret import Secret
from securechat.errors import (
    ChatError,
    Conflict,
    Internal,
    ProtocolViolation,
    RateLimited,
    SessionRefused,
    Unauthorized,
    Unavailable,
)
from securechat.gateway.arrival import Arrival, Outdated
from securechat.gateway.connection_limits import Connections, Patience
from securechat.gateway.message_queue import MessageQueue
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.codec import (
    Block,
    Encoding,
    Form,
    binary_header,
    binary_message,
    encode_json,
    encode_msgpack,
    form_of,
    message,
)
from securechat.protocol.handler import BadFrame, ProtocolHandler, server_side
from securechat.protocol.handshake import ServerHandshake
from securechat.protocol.session import MESSAGES_MAX, ServerSession

log = logging.getLogger(__name__)

HELLO_S: Final = 5.0
"""ClientHello has to be there within this time,"""
FINISHED_S: Final = 10.0
"""ClientFin within this."""
AUTH_S: Final = 10.0
"""And `auth` this long after the connection, or the sealed session, was there."""
SNAPSHOTS: Final = 5
"""How often the rooms are read for one connection: again when what was heard meanwhile makes the snapshot too old."""
EXPIRING_S: Final = 60.0
"""How long before its token ends a connection is told so."""
PING_S: Final = 20.0
PONG_S: Final = 10.0
CLOSE_S: Final = 2.0
"""How long a peer has for the closing handshake."""

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_PING: Final = WSMsgType.PING
_PONG: Final = WSMsgType.PONG
_CLOSE: Final = WSMsgType.CLOSE


def within_reach(after: int, last_seq: int) -> bool:
    """Return whether a client that holds everything up to `after` gets all that is newer, or only the newest page."""
    return 0 <= last_seq - after <= LIMITS.resume_entries


class Session(Protocol):
    """What a connection needs of the server."""

    counters: Counters
    server_name: Callable[[], str]
    key_root: Callable[[], str]
    connections: Connections
    draining: bool

    def note_refusal(self, who: Principal | None, address: str, refused: SessionRefused) -> None:
        """Remember that what a client sent could not be a part of its session."""

    def mark(self, connection: ClientConnection) -> None:
        """Have the connection flushed in this turn."""

    async def answer(self, handshake: ServerHandshake, address: str) -> list[bytes]:
        """Compute the answer to a ClientHello, in its turn; or raise `RateLimited` or `Unavailable`."""

    def arrival(self) -> AbstractAsyncContextManager[None]:
        """Give a turn to be let in; or raise `Unavailable` when too many come at once."""

    async def known(self, token: Secret) -> Principal:
        """Return who holds the token and may have one more connection."""

    def expect(self, connection: ClientConnection, user_id: str, device_id: str) -> None:
        """Note from now on what happens to a session, whose `ready` is about to be read."""

    def forget(self, connection: ClientConnection, user_id: str) -> None:
        """Do not expect the connection any more."""

    async def ready(self, principal: Principal) -> f.Ready:
        """Return what `ready` says to somebody; or raise `Unauthorized` when the session has ended by now."""

    def attach(self, connection: ClientConnection, user_id: str, rooms: Mapping[str, int]) -> Arrival:
        """Let the connection hear its rooms, each from a `seq` on; return what changed since that was read.

        Raises:
            Unauthorized: The session ended since.
            Outdated: That has to be read again.
        """

    def online_in(self, rooms: Iterable[str]) -> dict[str, str]:
        """Return who is online in these rooms."""

    def detach(self, connection: ClientConnection, user_id: str) -> None:
        """Forget the connection."""

    async def newest(self, principal: Principal, room: str) -> int:
        """Return the newest `seq` of a room that this principal may read."""

    def missed(self, principal: Principal, room: str, after: int, last_seq: int) -> AsyncIterator[list[Entry]]:
        """Give everything after a `seq` up to another in pages; or the newest page, when that is out of reach.

        It ends when the principal is no member any more.
        """

    async def who(self, token: Secret) -> Principal:
        """Return who holds the token."""

    def charge(self, who: Principal | None, cost: float, address: str) -> None:
        """Take tokens for what is no command, of the address and of whoever it is, or raise `RateLimited`."""

    def dispatch(self, who: Principal, command: Command, address: str, done: Callable[[Any], None]) -> None:
        """Handle a command."""


def _answer_to_close(code: Any) -> Any:
    """Return the code that answers a close frame: the same, if it may travel (RFC 6455 7.4)."""
    code = int(code or 0)
    if code in {0, 1005}:
        return 1000  # It had none.
    lawful = (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) or 3000 <= code <= 4999
    return code if lawful else int(f.CloseCode.FRAMING)


def _code_of(error: ChatError) -> f.CloseCode:
    """Return the close code for a connection that could not be authenticated: 4401 only if that is the token's fault."""
    if isinstance(error, RateLimited):
        return f.CloseCode.TOO_MANY
    return f.CloseCode.OVERLOADED if isinstance(error, Unavailable) else f.CloseCode.UNAUTHORIZED


class ClientConnection(WSListener):
    """One client.

    Args:
        session: The server.
        address: Where it comes from.
        handshake: Of the sealed sub-protocol; None for the clear one.

    Attributes:
        address: Where it comes from.
        principal: Who it is, once authenticated.
        complete: Whether all of their rooms could be had when they came.
    """

    __slots__ = (
        "_after_ms", "_authenticating", "_blocked", "_catching_up", "_closing", "_counters", "_dirty", "_expiring", "_form",
        "_fragments", "_fragments_text", "_greeted", "_handshake", "_held", "_in_flight", "_last_heard", "_opened_at", "_packs",
        "_patience", "_paused", "_pinged", "_protocol", "_queue", "_resuming", "_retired", "_seal", "_session", "_socket",
        "_transport", "_writable", "address", "complete", "principal",
    )  # fmt: skip

    def __init__(self, session: Session, address: str, handshake: ServerHandshake | None = None) -> None:
        super().__init__()

        self._session = session
        self.address = address
        self._handshake = handshake
        self._packs = handshake is not None
        self._form = form_of(Encoding.JSON, packed=self._packs)
        self._greeted = False
        self._seal: ServerSession | None = None
        self._protocol: ProtocolHandler[Any] = server_side()
        self._queue = MessageQueue()
        self._counters = session.counters
        self._transport: Any = None
        self._socket: Any = None
        self.principal: Principal | None = None
        self.complete = True
        self._after_ms = 0
        self._retired = False
        self._authenticating = False
        self._expiring = False
        self._held: list[Any] = []
        self._in_flight = 0
        self._paused = False
        self._blocked = False
        self._catching_up = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._resuming = asyncio.Lock()
        self._closing = False
        self._dirty = False
        self._fragments: bytearray | None = None
        self._fragments_text = False
        self._opened_at = self._last_heard = time.monotonic()
        self._pinged = False
        self._patience = Patience()

    @property
    def ending(self) -> bool:
        """Whether nothing is read or written any more."""
        return self._closing

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say hello; on the sealed sub-protocol that waits for the session."""
        self._transport = transport
        self._socket = transport.underlying_transport
        self._session.connections.add(self)
        if self._handshake is None:
            self._say_hello()

    def _say_hello(self) -> None:
        hello = f.Hello(
            protocol=f.PROTOCOL_VERSION,
            server=self._session.server_name(),
            version=__version__,
            time=int(time.time() * 1000),
            heartbeat_s=int(PING_S),
            limits=LIMITS,
            root=self._session.key_root() if self._packs else "",
        )
        self.push(Block([hello]))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a WebSocket frame in."""
        self._last_heard = time.monotonic()
        self._pinged = False
        kind = frame.msg_type
        if self._closing and kind != _CLOSE:
            return
        if kind in (_TEXT, _BINARY):
            if frame.rsv1 or frame.rsv2 or frame.rsv3 or self._fragments is not None:
                self.close(f.CloseCode.FRAMING)
            elif frame.fin:
                self._receive(frame.get_payload_as_memoryview(), text=kind == _TEXT)
            else:
                self._fragments = bytearray(frame.get_payload_as_bytes())
                self._fragments_text = kind == _TEXT
        elif kind == _CONTINUATION:
            self._continue(frame)
        elif kind in (_PING, _PONG):
            # Who does not read gets no pongs: they would gather without a limit.
            if self._allowed() and kind == _PING and not self._blocked:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind == _CLOSE:
            if not self._closing:
                self._closing = True
                transport.send_close(_answer_to_close(frame.get_close_code()))
            transport.disconnect()

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Forget the connection. Commands in flight go on: their answers are for the next connection to ask for."""
        self._closing = True
        self._writable.set()
        self._queue.clear()
        self._session.connections.discard(self)
        if self.principal is not None:
            self._session.detach(self, self.principal.user_id)

    def _continue(self, frame: WSFrame) -> None:
        if self._fragments is None or frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.close(f.CloseCode.FRAMING)
            return
        if not frame.payload_size and not frame.fin:
            self.close(f.CloseCode.FRAMING)  # Nothing needs an empty piece; a flood of them costs.
            return
        self._fragments += frame.get_payload_as_memoryview()
        if len(self._fragments) > LIMITS.websocket_message_bytes:
            self.close(f.CloseCode.TOO_BIG)
        elif frame.fin:
            payload, self._fragments = bytes(self._fragments), None
            self._receive(memoryview(payload), text=self._fragments_text)

    def _receive(self, payload: memoryview, *, text: bool) -> None:
        try:
            received = self._open(bytes(payload), text=text) if self._packs else self._decode(payload, text=text)
        except ProtocolViolation as violation:
            self._note(SessionRefused(f.CloseCode.PROTOCOL, violation.detail))
            self.close(f.CloseCode.PROTOCOL, violation.detail)
            return
        except SessionRefused as refused:
            self._refuse(refused)
            return
        if not received and (self._seal is not None or not self._packs):
            self._allowed()
        for frame in received:
            self._handle(frame)

    def _decode(self, payload: memoryview, *, text: bool) -> list[Any]:
        """Return the frames of a message of the clear sub-protocol; the first one decides how this side answers."""
        protocol = self._protocol
        if protocol.encoding is None:
            self.flush()  # What waits is encoded as it was begun.
            self._form = Form.JSON if text else Form.MSGPACK
        return protocol.receive(payload, text=text)

    # ── the sealed sub-protocol ──────────────────────────────────────────────────────────────────────────────────────

    def _open(self, data: bytes, *, text: bool) -> list[Any]:
        """Return the frames of a record; during the handshake, none."""
        if text:
            raise SessionRefused(f.CloseCode.PROTOCOL, "a text message")
        seal = self._seal
        if seal is None:
            self._shake(data)
            return []
        frames: list[Any] = []
        for each in seal.open(data):
            frames += self._protocol.receive(each, text=self._protocol.encoding is Encoding.JSON)
        if len(frames) > LIMITS.frames_per_message:
            raise ProtocolViolation("Too many frames in one record.")
        if seal.worn:
            seal.tick()
        if seal.outgoing:
            self._mark()
        if seal.peer_close is not None:
            self.close(seal.peer_close.code if seal.peer_close.code == f.CloseCode.DRAIN else f.CloseCode.NORMAL)
        return frames

    def _shake(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None:
            raise SessionRefused(f.CloseCode.PROTOCOL, "a message while the handshake is computed")
        if self._greeted:
            self._seal = handshake.finish(data)
            self._handshake = None
            self._protocol.encoding = handshake.encoding
            self._form = form_of(handshake.encoding, packed=True)
            self._opened_at = time.monotonic()
            self._counters.sealed_sessions += 1
            self._say_hello()
        else:
            handshake.take_client_hello(data)
            self._handshake = None  # Until the answer is computed nothing may come.
            self._spawn(self._greet(handshake), "")

    async def _greet(self, handshake: ServerHandshake) -> None:
        try:
            messages = await self._session.answer(handshake, self.address)
        except SessionRefused as refused:
            self._refuse(refused)
        except ChatError as error:
            code = f.CloseCode.TOO_MANY if isinstance(error, RateLimited) else f.CloseCode.OVERLOADED
            self.close(code, f"retry after {error.retry_after_ms} ms")
        else:
            if not self._closing:
                self._greeted = True
                self._handshake = handshake
                self._socket.write(b"".join(map(binary_message, messages)))

    def _refuse(self, refused: SessionRefused) -> None:
        """The reason is for our log; the peer gets one code, whatever it was."""
        self._note(refused)
        self.close(refused.code)

    def _note(self, refused: SessionRefused) -> None:
        """Have it logged, and remembered in the audit log, that a client is sent away for what it did."""
        self._counters.sessions_refused += 1
        log.warning("session refused", extra={"reason": refused.reason, "code": refused.code, "address": self.address})
        self._session.note_refusal(self.principal, self.address, refused)

    def _worn_out(self, refused: SessionRefused) -> None:
        """Nothing can be sealed any more: a client that slept did not answer in time. That is nobody's attack."""
        log.info("session ended", extra={"reason": refused.reason, "code": refused.code, "address": self.address})
        self.close(refused.code)

    def _allowed(self, frame_id: str = "") -> bool:
        """Take tokens for what is no command: pings, empty messages and frames that could not be understood."""
        try:
            self._session.charge(self.principal, 1, self.address)
        except RateLimited as error:
            self._answer(frame_id, error)
            return False
        return True

    def _handle(self, frame: Any) -> None:
        if self._authenticating:
            self._hold(frame)
        elif type(frame) is BadFrame:
            if self._allowed(frame.id):
                self._answer(frame.id, frame.error)
        elif self.principal is not None:
            self._handle_known(self.principal, frame)
        elif type(frame) is f.Auth:
            self._authenticating = True
            self._spawn(self._authenticate(frame), frame.id)
        elif type(frame) is f.Ping:
            self._pong(frame.id)
        else:
            self._answer(frame.id, Unauthorized("The first frame is auth."))
            self.close(f.CloseCode.UNAUTHORIZED, "auth first")

    def _handle_known(self, principal: Principal, frame: Any) -> None:
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
            self._session.dispatch(principal, frame, self.address, partial(self._complete, frame.id))

    def _limited(self, work: Coroutine[Any, Any, None], principal: Principal, frame_id: str, *, cost: int) -> None:
        """Do what only a connection can do, under the limits of a command."""
        try:
            self._session.charge(principal, cost, self.address)
        except ChatError as error:
            work.close()
            self._complete(frame_id, error)
        else:
            self._spawn(self._counted(work), frame_id)

    async def _counted(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._count_out()

    def _count_in(self) -> None:
        self._in_flight += 1
        if self._in_flight >= LIMITS.in_flight and not self._paused:
            self._paused = True
            self._socket.pause_reading()

    def _count_out(self) -> None:
        self._in_flight -= 1
        if self._paused and not self._retired and self._in_flight <= LIMITS.in_flight // 2:
            self._paused = False
            if not self._closing:
                self._socket.resume_reading()

    def _hold(self, frame: Any) -> None:
        """Nothing after `auth` runs before it succeeded."""
        self._held.append(frame)
        if len(self._held) > LIMITS.frames_per_message:
            self.close(f.CloseCode.TOO_MANY, "too many frames before ready")

    # ── answering ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _complete(self, frame_id: str, result: Any) -> None:
        self._count_out()
        self._answer(frame_id, result)

    def _answer(self, frame_id: str, result: Any) -> None:
        if self._closing:
            return
        frame: Any
        if isinstance(result, ChatError):
            frame = f.error_frame(frame_id, result)
            self._counters.refused += 1
        else:
            frame = f.Reply(id=frame_id, data=result)
        self._put_frame(frame)
        if isinstance(result, RateLimited) and self._patience.ends():
            self._note(SessionRefused(f.CloseCode.TOO_MANY, "goes on after being told to wait"))
            self.close(f.CloseCode.TOO_MANY, result.code)

    def _pong(self, frame_id: str) -> None:
        if self._allowed(frame_id):
            self._put_frame(f.Pong(id=frame_id, time=int(time.time() * 1000)))

    def _put_frame(self, frame: Any) -> None:
        encoded = encode_msgpack(frame) if self._protocol.encoding is Encoding.MSGPACK else encode_json(frame)
        if not self._queue.put_frame(encoded) and not self._relieved():
            self._too_slow()
        else:
            self._mark()

    def _mark(self) -> None:
        """Have everything written in this turn of the loop."""
        if not self._dirty:
            self._dirty = True
            self._session.mark(self)

    def _spawn(self, work: Awaitable[None], frame_id: str) -> None:
        task = asyncio.ensure_future(self._guard(work, frame_id))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _guard(self, work: Awaitable[None], frame_id: str) -> None:
        try:
            await work
        except ChatError as error:
            self._answer(frame_id, error)
            if self.principal is None:
                self._after_ms = error.retry_after_ms or 0
                self.close(_code_of(error), error.code)
        except Exception:
            log.exception("connection failed")
            self._answer(frame_id, Internal())
            self.close(f.CloseCode.INTERNAL, "internal")

    async def _authenticate(self, frame: f.Auth) -> None:
        session = self._session
        async with session.arrival():
            if self.ending:
                return  # Who went while it waited costs nothing.
            principal = await session.known(frame.token)
            session.expect(self, principal.user_id, principal.device_id)
            try:
                for left in reversed(range(SNAPSHOTS)):
                    ready = await session.ready(principal)
                    if self._closing:
                        return
                    try:
                        arrival = session.attach(self, principal.user_id, {room.id: room.last_seq for room in ready.rooms})
                        break
                    except Outdated:
                        if not left:
                            raise Unavailable(retry_after_ms=1_000) from None
            finally:
                session.forget(self, principal.user_id)
        # From here to `ready` nothing waits: what is delivered now is queued behind `ready` and what was missed.
        if arrival.role is not None:
            ready.user = msgspec.structs.replace(ready.user, role=arrival.role)
        # The role of now: it may have changed since the token was looked at.
        self.principal = msgspec.structs.replace(principal, role=ready.user.role)
        if self._seal is not None:
            self._seal.authenticated = True
        self.complete = ready.complete
        presence = session.online_in(room.id for room in ready.rooms)
        behind = []
        for room in ready.rooms:
            after = frame.resume.get(room.id)
            if after is not None:
                room.resumed = within_reach(after, room.last_seq)
                behind.append((room.id, after, room.last_seq))
        behind += arrival.missed
        changed = [f.SignalFrame(type="room.closed", room=room) for room in arrival.gone]
        changed += [f.SignalFrame(type="room.opened", summary=summary) for summary in arrival.opened]
        ready.id = frame.id
        ready.resumed = all(room.resumed is not False for room in ready.rooms)
        await self._catch_up(principal, message([ready, *changed], self._form), behind)
        if presence:
            online = f.SignalFrame(type="presence.changed", presence=presence)
            self._queue.put_ephemeral(message([online], self._form))
        self._authenticating = False
        held, self._held = self._held, []
        for each in held:
            self._handle(each)

    async def _extend(self, principal: Principal, frame: f.Auth) -> None:
        fresh = await self._session.who(frame.token)
        if (fresh.user_id, fresh.device_id) != (principal.user_id, principal.device_id):
            raise Conflict("This connection belongs to another device.")
        if self.principal is not None and self.principal.role is not principal.role:
            fresh = msgspec.structs.replace(fresh, role=self.principal.role)  # It changed meanwhile: what was read may be older.
        self.principal = fresh
        self._expiring = False
        self._answer(frame.id, Done())

    async def _resume(self, principal: Principal, frame: f.Resume) -> None:
        async with self._resuming:  # One at a time: it costs much more than any other frame.
            behind = [(room, after, await self._session.newest(principal, room)) for room, after in frame.rooms.items()]
            resumed = {room: within_reach(after, last_seq) for room, after, last_seq in behind}
            reply = f.Reply(id=frame.id, data=f.Resumed(rooms=resumed))
            await self._catch_up(principal, message([reply], self._form), behind)

    async def _catch_up(self, principal: Principal, answer: bytes, behind: list[tuple[str, int, int]]) -> None:
        """Write an answer and what the client has not seen, at the speed at which it reads. What is new meanwhile waits."""
        self.flush()
        self._catching_up += 1
        try:
            await self._write(answer)
            for room, after, last_seq in behind:
                async for entries in self._session.missed(principal, room, after, last_seq):
                    await self._write(message(entries, self._form))
                    if self._closing:
                        return
                    await asyncio.sleep(0)  # The others have their turn after each page.
        finally:
            self._catching_up -= 1
            if self._queue.size:
                self._mark()

    async def _write(self, data: bytes) -> None:
        await self._writable.wait()
        if not self._closing:
            self._write_out([data])

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def push(self, block: Block) -> None:
        """Queue a block by reference. Never waits."""
        if self._closing:
            return
        if not self._queue.put(block.message(self._form)) and not self._relieved():
            self._too_slow()
        elif not self._dirty:
            self._dirty = True
            self._session.mark(self)

    def push_ephemeral(self, block: Block) -> None:
        """Queue a block that may be dropped."""
        if self._closing:
            return
        self._queue.put_ephemeral(block.message(self._form))
        self._mark()

    def _relieved(self) -> bool:
        """Write what waits at once, if the socket takes it: much at a time is not yet a slow reader."""
        if self._blocked or self._catching_up:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Write everything that waits in one write; on the sealed sub-protocol, as one record."""
        self._dirty = False
        if self._blocked or self._closing or self._catching_up or (self._packs and self._seal is None):
            return
        messages = self._queue.take(self._form)
        if messages or (self._seal is not None and self._seal.outgoing):
            self._write_out(messages)

    def _write_out(self, messages: list[bytes]) -> None:
        if self._seal is not None:
            try:
                messages = self._sealed(self._seal, messages)
            except SessionRefused as refused:
                self._blocked = True  # What waits stays in the log.
                self._worn_out(refused)
                return
        # One block is by far the most common, and then every member of the room writes the same object.
        self._socket.write(messages[0] if len(messages) == 1 else b"".join(messages))
        self._counters.writes += 1

    @staticmethod
    def _sealed(seal: ServerSession, messages: list[bytes]) -> list[bytes]:
        """Return the session's own records and one for these packed messages, as pieces of WebSocket messages."""
        found: list[bytes] = []
        if seal.worn:
            seal.tick()
        if seal.outgoing:
            found += map(binary_message, seal.outgoing)
            seal.outgoing.clear()
        for start in range(0, len(messages), MESSAGES_MAX):
            some = messages[start : start + MESSAGES_MAX]
            header, ciphertext, tag = seal.seal_pieces(some[0] if len(some) == 1 else b"".join(some))
            found += (binary_header(len(header) + len(ciphertext) + len(tag)), header, ciphertext, tag)
        return found

    def pause_writing(self) -> None:
        """The socket takes no more: what comes gathers in the queue, up to its limit."""
        self._blocked = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes again."""
        self._blocked = False
        self._writable.set()
        if self._queue.size:
            self._mark()

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered."""
        return self._closing or not (self._in_flight or self._authenticating)

    def announce(self, after_ms: int, within_ms: int = 0) -> None:
        """Tell the client that the connection will be closed within a time, and when to come back after that."""
        self._after_ms = after_ms
        if self._packs and self._seal is None:
            return  # There is no session yet to say it in, nor an encoding: the end of the connection says enough.
        self._put_frame(f.Drain(after_ms=after_ms, within_ms=within_ms))

    def retire(self) -> None:
        """Read nothing more."""
        if not self._closing and self._transport is not None:
            self._retired = True
            self._socket.pause_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Write what waits if the socket takes it, then the close code, then end the connection."""
        if self._closing or self._transport is None:
            return
        self.flush()
        if self.ending:
            return  # It could not be sealed, and that was refused.
        self._closing = True
        if self._seal is not None and (goodbye := self._seal.close(code, self._after_ms)) and not self._blocked:
            # While the client catches up nothing was flushed, and records have an order: the session's own go first.
            self._socket.write(b"".join(map(binary_message, [*self._seal.outgoing, goodbye])))
        self._writable.set()
        self._queue.clear()
        if self.principal is not None:
            self._session.detach(self, self.principal.user_id)
        self._transport.send_close(code, reason.encode()[:120])
        self._socket.resume_reading()
        asyncio.get_running_loop().call_later(CLOSE_S, self._abort)

    def look_after(self, now: float, wall: float) -> None:
        """Called every few seconds: ping the silent, end the dead, the unauthenticated and the expired."""
        silent = now - self._last_heard
        if self._packs and self._seal is None:
            if now - self._opened_at > (FINISHED_S if self._greeted else HELLO_S):
                self.close(f.CloseCode.PROTOCOL)
        elif self.principal is None:
            if now - self._opened_at > AUTH_S:
                self.close(f.CloseCode.REKEY, "auth takes too long")  # Not 4401: nothing was said of the token.
        elif self.principal.expires_at is not None:
            self._look_after_token(self.principal.expires_at - wall)
        if self._seal is not None and not self._closing:
            self._look_after_keys(self._seal)
        if silent > PING_S + PONG_S:
            self._abort()
        elif silent > PING_S and not self._pinged and not self._closing:
            self._pinged = True
            self._transport.send_ping()

    def _look_after_token(self, left_s: float) -> None:
        """Ask for a fresh token once, and end what brought none."""
        if left_s < 0:
            self.close(f.CloseCode.UNAUTHORIZED, "token expired")
        elif left_s <= EXPIRING_S and not self._expiring:
            self._expiring = True
            self._put_frame(f.SignalFrame(type="auth.expiring", expires_in=int(left_s)))

    def _look_after_keys(self, seal: ServerSession) -> None:
        try:
            seal.tick()
        except SessionRefused as refused:
            self._worn_out(refused)
        else:
            if seal.outgoing:
                self._mark()

    def _too_slow(self) -> None:
        self._counters.slow_consumers += 1
        self._blocked = True  # What waits is not written any more: the log has it.
        self.close(f.CloseCode.SLOW_CONSUMER, "slow consumer")

    def _abort(self) -> None:
        self._socket.abort()


_tasks: Final[set[asyncio.Future[None]]] = set()
"""Strong references: the loop keeps only weak ones."""
