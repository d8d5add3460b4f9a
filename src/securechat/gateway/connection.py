"""ClientConnection: one WebSocket of a client on the gateway, from the upgrade to the end: messages in, messages out.

What is said on it is a `Conversation`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from securechat.domain.accounts import Principal
from securechat.errors import ChatError, ProtocolViolation, RateLimited, SessionRefused
from securechat.gateway.conversation import Conversation
from securechat.gateway.framing import Fragments, answer_to_close
from securechat.gateway.message_queue import MessageQueue
from securechat.gateway.sealed_wire import Greeting, frames_of, goodbye_of, records_of
from securechat.gateway.session import Session
from securechat.gateway.welcome import Behind
from securechat.protocol import frames as f
from securechat.protocol.codec import Block, Encoding, Form, binary_message, encode_json, encode_msgpack, form_of, message
from securechat.protocol.handler import ProtocolHandler, server_side
from securechat.protocol.handshake import ServerHandshake
from securechat.protocol.session import ServerSession

log = logging.getLogger(__name__)

PING_S: Final = 20.0
"""Who is silent so long is pinged."""
PONG_S: Final = 10.0
"""Who is silent so long after a ping is gone."""
CLOSE_S: Final = 2.0
"""How long a peer has for the closing handshake."""

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_PING: Final = WSMsgType.PING
_PONG: Final = WSMsgType.PONG
_CLOSE: Final = WSMsgType.CLOSE


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
        "_after_ms", "_blocked", "_catching_up", "_closing", "_conversation", "_counters", "_dirty", "_form", "_fragments",
        "_greeting", "_last_heard", "_packs", "_pinged_at", "_protocol", "_queue", "_retired", "_seal", "_session", "_socket",
        "_transport", "_writable", "address", "complete", "principal",
    )  # fmt: skip

    def __init__(self, session: Session, address: str, handshake: ServerHandshake | None = None) -> None:
        super().__init__()

        self._session = session
        self._counters = session.counters
        self.address = address
        self.principal: Principal | None = None
        self.complete = True
        self._conversation = Conversation(session, self)
        self._transport: Any = None
        self._socket: Any = None
        self._fragments: Fragments | None = None
        self._protocol: ProtocolHandler[Any] = server_side()
        self._packs = handshake is not None
        self._form = form_of(Encoding.JSON, packed=self._packs)
        self._greeting = Greeting(handshake) if handshake is not None else None
        self._seal: ServerSession | None = None
        self._queue = MessageQueue()
        self._dirty = False
        self._blocked = False
        self._catching_up = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._after_ms = 0
        self._retired = False
        self._closing = False
        self._last_heard = time.monotonic()
        self._pinged_at = 0.0
        """When it was pinged, as long as nothing came since."""

    @property
    def ending(self) -> bool:
        """Whether nothing is read or written any more."""
        return self._closing

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Let the conversation begin; on the sealed sub-protocol that waits for the session."""
        self._transport = transport
        self._socket = transport.underlying_transport
        self._session.connections.add(self)
        if self._greeting is None:
            self._conversation.begin(int(PING_S), sealed=False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a WebSocket frame in."""
        self._last_heard = time.monotonic()
        self._pinged_at = 0.0
        kind = frame.msg_type
        if self._closing and kind != _CLOSE:
            return
        if kind in (_TEXT, _BINARY):
            if frame.rsv1 or frame.rsv2 or frame.rsv3 or self._fragments is not None:
                self.close(f.CloseCode.FRAMING)
            elif frame.fin:
                self._receive(frame.get_payload_as_memoryview(), text=kind == _TEXT)
            else:
                self._fragments = Fragments(frame.get_payload_as_bytes(), text=kind == _TEXT)
        elif kind == _CONTINUATION:
            self._continue(frame)
        elif kind in (_PING, _PONG):
            # Who does not read gets no pongs: they would gather without a limit.
            if self._conversation.allowed() and kind == _PING and not self._blocked:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind == _CLOSE:
            if not self._closing:
                self._closing = True
                transport.send_close(answer_to_close(frame.get_close_code()))
            transport.disconnect()

    def _continue(self, frame: WSFrame) -> None:
        fragments = self._fragments
        if fragments is None:
            self.close(f.CloseCode.FRAMING)
        elif (wrong := fragments.add(frame)) is not None:
            self.close(wrong)
        elif frame.fin:
            self._fragments = None
            self._receive(memoryview(fragments.joined()), text=fragments.text)

    def _receive(self, payload: memoryview, *, text: bool) -> None:
        try:
            received = self._open(bytes(payload), text=text) if self._packs else self._decode(payload, text=text)
        except ProtocolViolation as violation:
            self.refuse(SessionRefused(f.CloseCode.PROTOCOL, violation.detail), violation.detail)
            return
        except SessionRefused as refused:
            self.refuse(refused)
            return
        if not received and self._greeting is None:
            self._conversation.allowed()
        take = self._conversation.take
        for frame in received:
            take(frame)

    def _decode(self, payload: memoryview, *, text: bool) -> list[Any]:
        """Return the frames of a message of the clear sub-protocol; the first one decides how this side answers."""
        protocol = self._protocol
        if protocol.encoding is None:
            self.flush()  # What waits is encoded as it was begun.
            self._form = Form.JSON if text else Form.MSGPACK
        return protocol.receive(payload, text=text)

    def _open(self, data: bytes, *, text: bool) -> list[Any]:
        """Return the frames of a record; during the handshake, none."""
        if text:
            raise SessionRefused(f.CloseCode.PROTOCOL, "a text message")
        seal, greeting = self._seal, self._greeting
        if greeting is not None:
            self._shake(greeting, data)
        if seal is None:
            return []
        frames = frames_of(data, seal, self._protocol)
        if seal.outgoing:
            self._mark()
        if seal.peer_close is not None:
            self.close(seal.peer_close.code if seal.peer_close.code == f.CloseCode.DRAIN else f.CloseCode.NORMAL)
        return frames

    def _shake(self, greeting: Greeting, data: bytes) -> None:
        self._seal = greeting.take(data)
        if self._seal is None:
            self._conversation.spawn(self._greet(greeting), "")
            return
        self._greeting = None
        self._protocol.encoding = greeting.handshake.encoding
        self._form = form_of(greeting.handshake.encoding, packed=True)
        self._counters.sealed_sessions += 1
        self._conversation.begin(int(PING_S), sealed=True)

    async def _greet(self, greeting: Greeting) -> None:
        try:
            messages = await self._session.answer(greeting.handshake, self.address)
        except SessionRefused as refused:
            self.refuse(refused)
        except ChatError as error:
            code = f.CloseCode.TOO_MANY if isinstance(error, RateLimited) else f.CloseCode.OVERLOADED
            self.close(code, f"retry after {error.retry_after_ms} ms")
        else:
            if not self._closing:
                greeting.answered()
                self._socket.write(b"".join(map(binary_message, messages)))

    def know(self, principal: Principal, *, complete: bool) -> None:
        """Take note of who it is; `complete`: all of their rooms can be had."""
        self.principal = principal
        self.complete = complete
        if self._seal is not None:
            self._seal.authenticated = True

    def pause_reading(self) -> None:
        """Read nothing more until `resume_reading`."""
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless the connection is about to end."""
        if not self._closing and not self._retired:
            self._socket.resume_reading()

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

    def put_frame(self, frame: Any) -> None:
        """Queue what is for this connection only. Never waits."""
        encoded = encode_msgpack(frame) if self._protocol.encoding is Encoding.MSGPACK else encode_json(frame)
        if not self._queue.put_frame(encoded) and not self._relieved():
            self._too_slow()
        elif not self._dirty:
            self._dirty = True
            self._session.mark(self)

    def _mark(self) -> None:
        """Have everything written in this turn of the loop."""
        if not self._dirty:
            self._dirty = True
            self._session.mark(self)

    def _relieved(self) -> bool:
        """Write what waits at once, if the socket takes it: much at a time is not yet a slow reader."""
        if self._blocked or self._catching_up or (self.principal is not None and self._session.fence.check()):
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Write everything that waits in one write; on the sealed sub-protocol, as one record."""
        self._dirty = False
        if self._blocked or self._closing or self._catching_up or (self._packs and self._seal is None):
            return
        if self._session.fence.is_shut and self.principal is not None:
            return  # It may be for somebody who may not be here any more. `go_on` comes later, or the end.
        messages = self._queue.take(self._form)
        if messages or (self._seal is not None and self._seal.outgoing):
            self._write_out(messages)

    def _write_out(self, messages: list[bytes]) -> None:
        if self._seal is not None:
            try:
                messages = records_of(messages, self._seal)
            except SessionRefused as refused:
                self._blocked = True  # What waits stays in the log.
                self._worn_out(refused)
                return
        # One block is by far the most common, and then every member of the room writes the same object.
        self._socket.write(messages[0] if len(messages) == 1 else b"".join(messages))
        self._counters.writes += 1

    async def catch_up(self, principal: Principal, answer: list[Any], behind: Behind) -> None:
        """Write an answer and what the client has not seen, at the speed at which it reads. What is new meanwhile waits."""
        self._session.fence.check()
        self.flush()
        self._catching_up += 1
        try:
            await self._write(message(answer, self._form))
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
        await self._session.fence.opened()
        if not self._closing:
            self._write_out([data])

    def go_on(self) -> None:
        """The fence is open: write what waited for that. Who was typing a while ago is nobody's business any more."""
        self._queue.drop_ephemeral()
        self._mark()

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
        return self._closing or self._conversation.idle

    def announce(self, after_ms: int, within_ms: int = 0) -> None:
        """Tell the client that the connection will be closed within a time, and when to come back after that."""
        self._after_ms = after_ms
        if self._packs and self._seal is None:
            return  # There is no session yet to say it in, nor an encoding: the end of the connection says enough.
        self.put_frame(f.Drain(after_ms=after_ms, within_ms=within_ms))

    def retire(self) -> None:
        """Read nothing more."""
        if not self._closing and self._transport is not None:
            self._retired = True
            self._socket.pause_reading()

    def refuse(self, refused: SessionRefused, reason: str = "") -> None:
        """Send the client away for what it did. Why is for our logs; the peer gets a code, and a reason that helps nobody else."""
        self._counters.sessions_refused += 1
        log.warning("session refused", extra={"reason": refused.reason, "code": refused.code, "address": self.address})
        self._session.note_refusal(self.principal, self.address, refused)
        self.close(refused.code, reason)

    def _worn_out(self, refused: SessionRefused) -> None:
        """Nothing can be sealed any more: a client that slept did not answer in time. That is nobody's attack."""
        log.info("session ended", extra={"reason": refused.reason, "code": refused.code, "address": self.address})
        self.close(refused.code)

    def _too_slow(self) -> None:
        self._counters.slow_consumers += 1
        self._blocked = True  # What waits is not written any more: the log has it.
        self.close(f.CloseCode.SLOW_CONSUMER, "slow consumer")

    def close(self, code: int, reason: str = "", *, after_ms: int | None = None) -> None:
        """Write what waits if the socket takes it, then the close code, then end the connection.

        Args:
            code: A close code.
            reason: For whoever looks at the close frame, at most 120 bytes.
            after_ms: When to come back, if that was not announced.
        """
        if after_ms is not None:
            self._after_ms = after_ms
        if self._closing or self._transport is None:
            return
        if not self._session.fence.check():
            self.flush()
        if self.ending:
            return  # It could not be sealed, and that was refused.
        self._closing = True
        if self._seal is not None and (goodbye := goodbye_of(self._seal, code, self._after_ms)) and not self._blocked:
            self._socket.write(goodbye)
        self._writable.set()
        self._queue.clear()
        if self.principal is not None:
            self._session.detach(self, self.principal.user_id)
        self._transport.send_close(code, reason.encode()[:120])
        self._socket.resume_reading()
        asyncio.get_running_loop().call_later(CLOSE_S, self._abort)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Forget the connection. Commands in flight go on: their answers are for the next connection to ask for."""
        self._closing = True
        self._writable.set()
        self._queue.clear()
        self._session.connections.discard(self)
        if self.principal is not None:
            self._session.detach(self, self.principal.user_id)
        del self._conversation  # The two refer to each other, and the cycle collector seldom looks.

    def look_after(self, now: float, wall: float) -> None:
        """Called every few seconds: ping the silent, end the dead and the late."""
        silent = now - self._last_heard
        if self._greeting is None:
            self._conversation.look_after(now, wall)
        elif self._greeting.late(now):
            self.close(f.CloseCode.PROTOCOL)
        if self._seal is not None and not self._closing:
            self._look_after_keys(self._seal)
        if self._pinged_at:
            if now - self._pinged_at > PONG_S:
                self._abort()
        elif silent > PING_S and not self._closing:
            self._pinged_at = now
            self._transport.send_ping()

    def _look_after_keys(self, seal: ServerSession) -> None:
        try:
            seal.tick()
        except SessionRefused as refused:
            self._worn_out(refused)
        else:
            if seal.outgoing:
                self._mark()

    def _abort(self) -> None:
        self._socket.abort()
