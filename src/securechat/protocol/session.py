"""The sealed session (SCSL/1, spec/session-layer.md): records in both directions, rekey, close. Without I/O.

Bytes that came go in, bytes to be written come out; the time is asked of a `SessionClock`. `protocol.handshake` makes sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from securechat.crypto.encryption import BYTES_MAX, Content, Direction, EncryptionManager, Exhausted, Opened
from securechat.crypto.identity import REKEY, IdentityKey, verify
from securechat.crypto.key_exchange import EphemeralKey, Suite
from securechat.crypto.key_manager import EpochKeys, KeyManager
from securechat.crypto.wire import PROTOCOL, Reader, framed, u16, u32, vec16
from securechat.errors import SessionRefused
from securechat.protocol.replay_detector import REKEY_REQUIRED, ReplayDetector

MESSAGES_MAX: Final = 256
"""Messages in one record."""
INNER_MAX_CLIENT: Final = 65_536
"""What a client's record may hold, padding included."""
INNER_MAX_SERVER: Final = 16 * 1024 * 1024
"""What a server's record may hold: a page of history is one message."""
INNER_MAX_STRANGER: Final = 8 * 1024
"""What a client's record may hold before `auth`."""
REKEY_S: Final = 30.0
"""A rekey that takes longer ends the session."""
AFTER_MS_MAX: Final = 300_000
TOO_MANY: Final = 4429
_BYTES_HALF: Final = BYTES_MAX // 2
_APPLICATION: Final = Content.APPLICATION
_REQUESTS: Final = 2
_REQUEST_S: Final = 60.0


class Control(IntEnum):
    """First byte of a control record."""

    REQUEST = 0x20
    INIT = 0x21
    REPLY = 0x22
    DONE = 0x23
    CONFIRM = 0x24


class SessionClock(Protocol):
    """Time that no wall clock can jump."""

    def monotonic(self) -> float:
        """Return seconds."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970; asked once per handshake."""


@dataclass(frozen=True, slots=True)
class EpochLimits:
    """How long keys are used.

    Attributes:
        age_ms: Hard limit of their age, 60,000–1,800,000.
        records: Hard limit of records in each direction, 2^10–2^20.
    """

    age_ms: int = 1_800_000
    records: int = 2**20


@dataclass(frozen=True, slots=True)
class CloseNotice:
    """How the peer said goodbye, in a sealed record.

    Attributes:
        code: Close code.
        after_ms: When to come back, at most 300,000.
    """

    code: int
    after_ms: int


@dataclass(slots=True, repr=False)
class Established:
    """What a handshake hands to its session."""

    session_id: bytes
    suite: Suite
    keys: EpochKeys
    manager: KeyManager
    limits: EpochLimits
    clock: SessionClock
    offset_ms: float
    ephemeral: Callable[[Suite], EphemeralKey] = EphemeralKey
    random: Callable[[int], bytes] = field(kw_only=True)


def pack(messages: Sequence[bytes]) -> bytes:
    """Return the payload of an application record: each message with its length before it."""
    return b"".join([part for message in messages for part in (len(message).to_bytes(4, "big"), message)])


def unpack(payload: bytes) -> list[bytes]:
    """Return the messages of an application record.

    Raises:
        SessionRefused: None, too many, an empty one, or lengths that do not add up.
    """
    found: list[bytes] = []
    at, end = 0, len(payload)
    while at < end:
        size = int.from_bytes(payload[at : at + 4], "big")
        at += 4
        if not size or at + size > end or len(found) == MESSAGES_MAX:
            raise SessionRefused(PROTOCOL, "messages of a record")
        found.append(payload[at : at + size])
        at += size
    if not found:
        raise SessionRefused(PROTOCOL, "an empty record")
    return found


class SealedSession:
    """One side of an established session.

    Args:
        established: From the handshake.
        sends: The direction in which this side seals.

    Attributes:
        authenticated: Set by the owner after `auth`: before, records are small and there is no rekey.
        outgoing: Records of the session's own, to be written before anything else.
        peer_close: How the peer said goodbye.
        epoch: Number of the newest keys that both sides use for sending from here.
    """

    def __init__(self, established: Established, sends: Direction) -> None:
        self._made = established
        self._sends = sends
        self._receives = Direction.CLIENT if sends is Direction.SERVER else Direction.SERVER
        self._monotonic = established.clock.monotonic
        self._offset_ms = established.offset_ms
        self._keys = established.keys
        self._next: EpochKeys | None = None
        self._seal_with = self._cipher(sends, 0, established.keys)
        self._open_with = self._cipher(self._receives, 0, established.keys)
        self._detector = self._new_detector(0)
        self._since = self._monotonic()
        self._age_s = established.limits.age_ms / 1_000
        self._seal_until = self._since + self._age_s
        self._open_since = self._since
        self._closed = False
        self.authenticated = False
        self.outgoing: list[bytes] = []
        self.peer_close: CloseNotice | None = None

    @property
    def session_id(self) -> bytes:
        """16 bytes, chosen by the server."""
        return self._made.session_id

    @property
    def exporter(self) -> bytes:
        """32 bytes that only the two sides of this epoch know."""
        return self._keys.exporter

    @property
    def epoch(self) -> int:
        """Number of the keys that this side seals with."""
        return self._seal_with.epoch

    def _cipher(self, direction: Direction, epoch: int, keys: EpochKeys) -> EncryptionManager:
        own = keys.client if direction is Direction.CLIENT else keys.server
        return EncryptionManager(direction, self._made.session_id, epoch, own, self._made.limits.records)

    def _new_detector(self, epoch: int) -> ReplayDetector:
        return ReplayDetector(epoch, future=self._sends is Direction.SERVER)

    def _now_ms(self) -> int:
        """Return the session's time: the server's, anchored at the handshake and driven by the monotonic clock."""
        return int(self._monotonic() * 1_000 + self._offset_ms)

    # ── sealing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def seal(self, payload: bytes) -> bytes:
        """Return the record of packed messages, one after the other.

        Raises:
            SessionRefused: With 4403: these keys are used up. Nothing was sealed.
        """
        return b"".join(self._seal(_APPLICATION, payload))

    def seal_pieces(self, payload: bytes) -> tuple[bytes, bytes, bytes]:
        """Do the same, and return header, ciphertext and tag of the record.

        Raises:
            SessionRefused: As `seal`.
        """
        return self._seal(_APPLICATION, payload)

    def _seal(self, kind: Content, content: bytes) -> tuple[bytes, bytes, bytes]:
        if self._closed:
            raise SessionRefused(REKEY_REQUIRED, "the session is closed")
        now = self._monotonic()
        if now >= self._seal_until and kind is not Content.CLOSE:
            raise SessionRefused(REKEY_REQUIRED, "keys too old")
        try:
            return self._seal_with.seal_pieces(kind, content, int(now * 1_000 + self._offset_ms))
        except Exhausted:
            raise SessionRefused(REKEY_REQUIRED, "keys used up") from None

    def _control(self, content: bytes) -> None:
        self.outgoing.append(b"".join(self._seal(Content.CONTROL, content)))

    def close(self, code: int, after_ms: int = 0) -> bytes:
        """Return the last record of this side; empty when it was sealed before, or cannot be any more."""
        if self._closed:
            return b""
        try:
            record = b"".join(self._seal(Content.CLOSE, u16(code) + u32(min(after_ms, AFTER_MS_MAX))))
        except SessionRefused:
            record = b""
        self._closed = True
        return record

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, record: bytes) -> list[bytes]:
        """Return the messages of a record; empty for one that is the session's own.

        Raises:
            SessionRefused: It is not the record that comes next. The owner answers with `close(error.code)` and ends.
        """
        if self.peer_close is not None:
            raise SessionRefused(PROTOCOL, "a record after the close")
        epoch, seq, timestamp_ms = self._open_with.authentic(record, self._inner_max())
        self._detector.admit(epoch, seq)
        opened = self._open_with.decrypt(record, timestamp_ms)
        now = self._monotonic()
        self._take_time(timestamp_ms, now)
        self._detector.fresh(timestamp_ms, self._now_ms())
        if opened.kind == Content.CLOSE:
            self._take_close(opened)
            return []
        if (now - self._open_since) * 1_000 > self._made.limits.age_ms:
            raise SessionRefused(REKEY_REQUIRED, "keys too old")
        if opened.kind == Content.CONTROL:
            self._take_control(opened)
            return []
        if opened.kind != Content.APPLICATION or self._must_be_control():
            raise SessionRefused(PROTOCOL, "content type")
        return unpack(opened.content)

    def _inner_max(self) -> int:
        raise NotImplementedError

    def _take_time(self, timestamp_ms: int, now: float) -> None:
        raise NotImplementedError

    def _must_be_control(self) -> bool:
        raise NotImplementedError

    def _take_control(self, opened: Opened) -> None:
        raise NotImplementedError

    def _take_close(self, opened: Opened) -> None:
        reader = Reader(opened.content)
        self.peer_close = CloseNotice(reader.number(2), min(reader.number(4), AFTER_MS_MAX))
        reader.end()

    # ── the next epoch ───────────────────────────────────────────────────────────────────────────────────────────────

    def _derive(self, secret: bytes, init: bytes, reply: bytes) -> EpochKeys:
        said = hashlib.sha256(b"scsl1 rekey" + self._keys.transcript + framed(init) + framed(reply)).digest()
        self._next = self._made.manager.advance(secret, said)
        return self._next

    def _switch_sealing(self, keys: EpochKeys) -> None:
        self._seal_with = self._cipher(self._sends, self._seal_with.epoch + 1, keys)
        self._seal_until = self._monotonic() + self._age_s

    def _switch_opening(self, keys: EpochKeys) -> None:
        self._open_with = self._cipher(self._receives, self._open_with.epoch + 1, keys)
        self._open_since = self._monotonic()
        self._detector = self._new_detector(self._open_with.epoch)

    def _read_offer(self, content: bytes) -> tuple[Reader, bytes]:
        """Read what INIT and REPLY have in common; return the reader behind it and the peer's share."""
        reader = Reader(content)
        reader.take(1)
        if reader.number(4) != self._keys_epoch + 1:
            raise SessionRefused(PROTOCOL, "rekey of another epoch")
        reader.take(32)
        return reader, reader.vec16()

    def _read_proof(self, content: bytes) -> tuple[Reader, bytes]:
        """Read what CONFIRM and DONE have in common; return the reader behind it and the tag."""
        reader = Reader(content)
        reader.take(1)
        if reader.number(4) != self._keys_epoch + 1:
            raise SessionRefused(PROTOCOL, "rekey of another epoch")
        return reader, reader.take(32)

    @property
    def _keys_epoch(self) -> int:
        """Number of the epoch whose keys both sides have proved."""
        return self._made.manager.epoch - (self._next is not None)

    def _settle(self, keys: EpochKeys) -> None:
        self._keys = keys
        self._next = None
        self._since = self._monotonic()


class ServerSession(SealedSession):
    """The server's side: it begins every rekey.

    Args:
        established: From the handshake.
        identity: Signs each rekey.
    """

    def __init__(self, established: Established, identity: IdentityKey) -> None:
        super().__init__(established, Direction.SERVER)
        self._identity = identity
        self._half = established.limits.records // 2
        self._init = b""
        self._ephemeral: EphemeralKey | None = None
        self._init_at = 0.0
        self._confirmed = True
        self._tokens = float(_REQUESTS)
        self._tokens_at = self._since
        self._due_s = self._draw_due()

    def _draw_due(self) -> float:
        """Return an age between 80 and 93 % of the limit (24 to 28 minutes), so that sessions do not rekey all at once."""
        share = int.from_bytes(self._made.random(4), "big") / 2**32
        return self._made.limits.age_ms / 1_000 * (0.8 + share * (28 / 30 - 0.8))

    def tick(self) -> None:
        """Begin a rekey when it is time. To be called now and then.

        Raises:
            SessionRefused: With 4403: the client did not answer the last one in time.
        """
        now = self._monotonic()
        if self._init:
            if now - self._init_at > REKEY_S:
                raise SessionRefused(REKEY_REQUIRED, "no answer to the rekey")
            return
        if not self.authenticated or self._closed or self.peer_close is not None:
            return
        if self.worn or now - self._since >= self._due_s:
            self.begin_rekey()

    @property
    def worn(self) -> bool:
        """Whether the keys were used so much that `tick` should not wait for its time."""
        half, sealing, opening = self._half, self._seal_with, self._open_with
        if sealing.seq < half > opening.seq and sealing.sealed_bytes < _BYTES_HALF > opening.sealed_bytes:
            return False  # Asked for each record: what is nearly always so comes first.
        return self.authenticated and not self._init

    def begin_rekey(self) -> None:
        """Offer the next keys."""
        self._ephemeral = self._made.ephemeral(self._made.suite)
        offer = bytes((Control.INIT,)) + u32(self._keys_epoch + 1) + self._made.random(32) + vec16(self._ephemeral.share)
        digest = hashlib.sha256(self._keys.transcript + framed(offer)).digest()
        self._init = offer + vec16(self._identity.sign(REKEY, digest))
        self._init_at = self._monotonic()
        self._control(self._init)

    def _inner_max(self) -> int:
        return INNER_MAX_CLIENT if self.authenticated else INNER_MAX_STRANGER

    def _take_time(self, timestamp_ms: int, now: float) -> None:
        """The server's clock is the session's."""

    def _must_be_control(self) -> bool:
        return not self._confirmed

    def _take_control(self, opened: Opened) -> None:
        kind = opened.content[:1]
        if kind == bytes((Control.CONFIRM,)) and not self._confirmed:
            self._take_confirm(opened.content)
        elif not self._confirmed:
            raise SessionRefused(PROTOCOL, "an epoch that does not begin with its proof")
        elif kind == bytes((Control.REPLY,)) and self._init and self._next is None:
            self._take_reply(opened.content)
        elif opened.content == bytes((Control.REQUEST,)) and self.authenticated:
            self._take_request()
        else:
            raise SessionRefused(PROTOCOL, "control record")

    def _take_reply(self, content: bytes) -> None:
        reader, share = self._read_offer(content)
        reader.end()
        ephemeral, self._ephemeral = self._ephemeral, None
        if ephemeral is None:
            raise SessionRefused(PROTOCOL, "control record")
        keys = self._derive(ephemeral.exchange(share), self._init, content)
        self._switch_opening(keys)
        self._confirmed = False

    def _take_confirm(self, content: bytes) -> None:
        reader, tag = self._read_proof(content)
        device_signature = reader.vec16()
        reader.end()
        keys = self._next
        if keys is None or device_signature or not keys.client_fin.holds(tag, keys.transcript):
            raise SessionRefused(PROTOCOL, "proof of the client")
        epoch = self._keys_epoch + 1
        self._control(bytes((Control.DONE,)) + u32(epoch) + keys.server_fin.tag(keys.transcript))
        self._switch_sealing(keys)
        self._settle(keys)
        self._init = b""
        self._confirmed = True
        self._due_s = self._draw_due()

    def _take_request(self) -> None:
        now = self._monotonic()
        self._tokens = min(_REQUESTS, self._tokens + (now - self._tokens_at) / _REQUEST_S)
        self._tokens_at = now
        if self._tokens < 1:
            raise SessionRefused(TOO_MANY, "too many requests for a rekey")
        self._tokens -= 1
        if not self._init:
            self.begin_rekey()


class ClientSession(SealedSession):
    """The client's side: it answers a rekey.

    Args:
        established: From the handshake.
        spki: The server's identity, which signs each rekey.
    """

    def __init__(self, established: Established, spki: bytes) -> None:
        super().__init__(established, Direction.CLIENT)
        self._spki = spki
        self._replied_at: float | None = None

    def tick(self) -> None:
        """To be called now and then.

        Raises:
            SessionRefused: With 4403: the server did not end its rekey in time.
        """
        if self._replied_at is not None and self._monotonic() - self._replied_at > REKEY_S:
            raise SessionRefused(REKEY_REQUIRED, "the rekey was not ended")

    def request_rekey(self) -> None:
        """Ask the server for new keys."""
        self._control(bytes((Control.REQUEST,)))

    def _inner_max(self) -> int:
        return INNER_MAX_SERVER

    def _take_time(self, timestamp_ms: int, now: float) -> None:
        """Delay can only lower the estimate of the server's clock: the highest is the best."""
        self._offset_ms = max(self._offset_ms, timestamp_ms - now * 1_000)

    def _must_be_control(self) -> bool:
        return False

    def _take_control(self, opened: Opened) -> None:
        kind = opened.content[:1]
        if kind == bytes((Control.INIT,)) and self._next is None:
            self._take_init(opened)
        elif kind == bytes((Control.DONE,)) and self._next is not None:
            self._take_done(opened.content)
        else:
            raise SessionRefused(PROTOCOL, "control record")

    def _take_init(self, opened: Opened) -> None:
        content = opened.content
        reader, share = self._read_offer(content)
        signature = reader.vec16()
        reader.end()
        offer = content[: -2 - len(signature)]
        if not verify(self._spki, REKEY, hashlib.sha256(self._keys.transcript + framed(offer)).digest(), signature):
            raise SessionRefused(PROTOCOL, "signature of the rekey")
        ephemeral = self._made.ephemeral(self._made.suite)
        epoch = self._keys_epoch + 1
        reply = bytes((Control.REPLY,)) + u32(epoch) + self._made.random(32) + vec16(ephemeral.share)
        secret = ephemeral.exchange(share)
        self._control(reply)
        keys = self._derive(secret, content, reply)
        self._offset_ms = opened.timestamp_ms - self._monotonic() * 1_000
        self._switch_sealing(keys)
        self._control(bytes((Control.CONFIRM,)) + u32(epoch) + keys.client_fin.tag(keys.transcript) + vec16(b""))
        self._replied_at = self._monotonic()

    def _take_done(self, content: bytes) -> None:
        reader, tag = self._read_proof(content)
        reader.end()
        keys = self._next
        if keys is None or not keys.server_fin.holds(tag, keys.transcript):
            raise SessionRefused(PROTOCOL, "proof of the server")
        self._switch_opening(keys)
        self._settle(keys)
        self._replied_at = None
