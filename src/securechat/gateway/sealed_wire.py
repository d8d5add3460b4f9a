"""The sealed sub-protocol at one connection: its handshake, then frames from records and records from messages. Without I/O."""

from __future__ import annotations

import time
from typing import Any, Final

from securechat.domain.limits import LIMITS
from securechat.errors import ProtocolViolation, SessionRefused
from securechat.protocol.codec import Encoding, binary_header, binary_message
from securechat.protocol.frames import CloseCode
from securechat.protocol.handler import ProtocolHandler
from securechat.protocol.handshake import ServerHandshake
from securechat.protocol.session import MESSAGES_MAX, ServerSession

HELLO_S: Final = 5.0
"""ClientHello has to be there within this time,"""
FINISHED_S: Final = 10.0
"""ClientFin within this."""


class Greeting:
    """The handshake of one connection: ClientHello, the answer, which is computed elsewhere and takes time, ClientFin.

    Args:
        handshake: Of this connection only.

    Attributes:
        handshake: The same: what is to be answered, and knows the encoding inside.
    """

    __slots__ = ("_answered", "_began_at", "_expects", "handshake")

    def __init__(self, handshake: ServerHandshake) -> None:
        self.handshake = handshake
        self._began_at = time.monotonic()
        self._expects = True
        self._answered = False

    def take(self, data: bytes) -> ServerSession | None:
        """Take the client's next message; return the session after ClientFin, None when ClientHello is to be answered.

        Raises:
            SessionRefused: It is not that message.
        """
        if not self._expects:
            raise SessionRefused(CloseCode.PROTOCOL, "a message while the handshake is computed")
        if self._answered:
            return self.handshake.finish(data)
        self.handshake.take_client_hello(data)
        self._expects = False
        return None

    def answered(self) -> None:
        """ClientHello has its answer: ClientFin may come."""
        self._answered = self._expects = True

    def late(self, now: float) -> bool:
        """Return whether the client's next message should have been there by now (`time.monotonic`)."""
        return now - self._began_at > (FINISHED_S if self._answered else HELLO_S)


def frames_of(record: bytes, session: ServerSession, protocol: ProtocolHandler[Any]) -> list[Any]:
    """Return the frames of a record; none for one that is the session's own.

    Raises:
        SessionRefused: It is not the record that comes next.
        ProtocolViolation: What is in it cannot be a client's, or are too many frames.
    """
    frames: list[Any] = []
    for each in session.open(record):
        frames += protocol.receive(each, text=protocol.encoding is Encoding.JSON)
    if len(frames) > LIMITS.frames_per_message:
        raise ProtocolViolation("Too many frames in one record.")
    if session.worn:
        session.tick()
    return frames


def records_of(messages: list[bytes], session: ServerSession) -> list[bytes]:
    """Return the session's own records and one for these packed messages, as pieces of WebSocket messages.

    Raises:
        SessionRefused: The keys are used up.
    """
    found: list[bytes] = []
    if session.worn:
        session.tick()
    if session.outgoing:
        found += map(binary_message, session.outgoing)
        session.outgoing.clear()
    for start in range(0, len(messages), MESSAGES_MAX):
        some = messages[start : start + MESSAGES_MAX]
        header, ciphertext, tag = session.seal_pieces(some[0] if len(some) == 1 else b"".join(some))
        found += (binary_header(len(header) + len(ciphertext) + len(tag)), header, ciphertext, tag)
    return found


def goodbye_of(session: ServerSession, code: int, after_ms: int) -> bytes:
    """Close a session; return its last records as WebSocket messages, or nothing when it could or should not say more."""
    goodbye = session.close(code, after_ms)
    # While the client catches up nothing was flushed, and records have an order: the session's own go first.
    return b"".join(map(binary_message, [*session.outgoing, goodbye])) if goodbye else b""
