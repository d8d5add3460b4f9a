"""What travels between servers: items in an envelope with a sender, a number and a mark that only holders of the bus key can make.

    message   mark (32) | sender (8) | number (8) | at (8) | items in MessagePack
    mark      HMAC-SHA256 with the bus key, of the channel, a zero byte, and everything behind the mark

The number counts the messages of a sender on a channel, so a receiver knows what it did not get, and takes nothing twice. `at` is
the sender's clock in milliseconds: a message of a sender nobody heard of is taken only while it is young.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from securechat.domain.accounts import User
from securechat.domain.commands import ReadState, RoomSummary
from securechat.domain.entries import Entry
from securechat.domain.ports import RoomBatch, Signal, Typing

MARK_BYTES: Final = 32
_HEAD: Final = struct.Struct(">8sQQ")
_PAYLOADS: Final[dict[str, Any]] = {"typing": Typing, "read": ReadState, "user": User, "room": RoomSummary}
_NAMES: Final = {kind: name for name, kind in _PAYLOADS.items()}


class Forged(Exception):
    """The message was not made with our key, or is not for this channel, or is no message at all."""


class Unknown(Exception):
    """An item holds what this version does not know."""


class Batch(msgspec.Struct, array_like=True, frozen=True, tag="b"):
    """What one commit added to one room.

    Attributes:
        room: Room id.
        joined: Who joined in it: with it a receiver knows whether to open the rest.
        entries, opened: MessagePack of `RoomBatch.entries` and `RoomBatch.opened`.
    """

    room: str
    joined: list[str]
    entries: msgspec.Raw
    opened: msgspec.Raw

    def open(self) -> RoomBatch:
        """Return what it holds.

        Raises:
            Unknown: See there.
        """
        try:
            return RoomBatch(self.room, _entries.decode(self.entries), _opened.decode(self.opened))
        except msgspec.DecodeError as error:
            raise Unknown from error


class Sign(msgspec.Struct, array_like=True, frozen=True, tag="s"):
    """A `Signal`."""

    kind: str
    payload: msgspec.Raw
    room: str
    user: str
    except_user: str
    ephemeral: bool

    def open(self) -> Signal:
        """Return what it holds.

        Raises:
            Unknown: See there.
        """
        try:
            payload = msgspec.msgpack.decode(self.payload, type=_PAYLOADS[self.kind])
        except (KeyError, msgspec.DecodeError) as error:
            raise Unknown from error
        return Signal(payload, self.room, self.user, self.ephemeral, self.except_user)


class Disconnect(msgspec.Struct, array_like=True, frozen=True, tag="d"):
    """Connections of a user that are to be closed: of these devices, or all."""

    user: str
    devices: list[str] | None
    code: int


class Present(msgspec.Struct, array_like=True, frozen=True, tag="p"):
    """Who is online at the sender: by room, user → whether they are.

    Attributes:
        rooms: Some, or all.
        first: Nothing said before counts.
        more: The next one belongs to it: it is taken over when all of it is there.
    """

    rooms: dict[str, dict[str, bool]]
    first: bool
    more: bool = False


class Stale(msgspec.Struct, array_like=True, frozen=True, tag="i"):
    """Something that servers keep in memory has changed: what it is, and of whom."""

    what: str
    key: str


class Ask(msgspec.Struct, array_like=True, frozen=True, tag="a"):
    """The sender wants to know who is online at the others."""


class Bye(msgspec.Struct, array_like=True, frozen=True, tag="q"):
    """The sender ends."""


Item = Batch | Sign | Disconnect | Present | Stale | Ask | Bye

_encode: Final = msgspec.msgpack.Encoder().encode
_items: Final = msgspec.msgpack.Decoder(list[Item])
_entries: Final = msgspec.msgpack.Decoder(list[Entry])
_opened: Final = msgspec.msgpack.Decoder(dict[str, RoomSummary])
_NOTHING: Final = msgspec.Raw(_encode({}))


def of_batch(batch: RoomBatch, joined: Sequence[str]) -> Batch:
    """Pack a batch, once for all servers."""
    opened = msgspec.Raw(_encode(batch.opened)) if batch.opened else _NOTHING
    return Batch(batch.room, list(joined), msgspec.Raw(_encode(batch.entries)), opened)


def of_signal(signal: Signal) -> Sign:
    """Pack a signal."""
    payload = msgspec.Raw(_encode(signal.payload))
    return Sign(_NAMES[type(signal.payload)], payload, signal.room, signal.user, signal.except_user, signal.ephemeral)


class Envelope(msgspec.Struct, frozen=True):
    """An opened message."""

    sender: bytes
    number: int
    at: int
    items: list[Item]


def seal(key: bytes, channel: bytes, sender: bytes, number: int, at: int, items: Sequence[Item]) -> bytes:
    """Make a message."""
    rest = _HEAD.pack(sender, number, at) + _encode(items)
    return hmac.digest(key, channel + b"\0" + rest, "sha256") + rest


def sender_of(message: bytes) -> bytes:
    """Return who says that they sent it: quick, and proves nothing."""
    return message[MARK_BYTES : MARK_BYTES + 8]


def open_sealed(key: bytes, channel: bytes, message: bytes) -> Envelope:
    """Open a message.

    Raises:
        Forged: See there.
    """
    mark, rest = message[:MARK_BYTES], message[MARK_BYTES:]
    if len(rest) <= _HEAD.size or not hmac.compare_digest(mark, hmac.digest(key, channel + b"\0" + rest, "sha256")):
        raise Forged
    try:
        sender, number, at = _HEAD.unpack_from(rest)
        return Envelope(sender, number, at, _items.decode(memoryview(rest)[_HEAD.size :]))
    except msgspec.DecodeError as error:  # Of a newer version, perhaps.
        raise Forged from error
