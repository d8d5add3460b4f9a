"""EncryptionManager: the records of one direction of one epoch (spec/session-layer.md 5).

A record is sealed with AES-256-GCM and, over header and ciphertext, with HMAC-SHA256 under a key of its own: encrypt, then MAC.
Counter and key live in one object, so that no nonce is used twice whatever happens around it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.crypto.integrity import HMACValidator
from securechat.crypto.key_manager import DirectionKeys
from securechat.crypto.wire import PROTOCOL
from securechat.errors import SessionRefused

HEADER: Final = struct.Struct(">BBHIQQI")
"""10 ‖ version 01 ‖ flags 0 ‖ epoch ‖ seq ‖ timestamp_ms ‖ length of the ciphertext with its tag."""
HEADER_BYTES: Final = 28
MAC_BYTES: Final = 32
TAG_BYTES: Final = 16
OVERHEAD: Final = HEADER_BYTES + 1 + TAG_BYTES + MAC_BYTES
RECORDS_MAX: Final = 2**20
BYTES_MAX: Final = 2**34
RESERVED: Final = 16
"""The last sequence numbers are for rekey and close."""
_RECORD: Final = 0x10
_VERSION: Final = 1
_BOUND: Final = struct.Struct(f">22s{HEADER.format.removeprefix('>')}")
"""What a record is bound to: "SCSL1" ‖ direction ‖ session id, then its header."""
_BIND_BYTES: Final = _BOUND.size - HEADER_BYTES


class Direction(IntEnum):
    """Who seals."""

    CLIENT = 1
    SERVER = 2


class Content(IntEnum):
    """What is inside a record."""

    APPLICATION = 1
    CONTROL = 2
    CLOSE = 3


_APPLICATION: Final = Content.APPLICATION
_PADDED: Final = (64, *(max(64, 1 << (size - 1).bit_length()) for size in range(1, 1_025)))
_ENDS: Final = tuple(bytes((kind,)) + bytes(1_024) for kind in range(max(Content) + 1))
"""By content type: its byte, and more zeros than padding ever takes."""


def padded(size: int) -> int:
    """Return the size of an inner plaintext after padding: 64, 128, … 1,024, then multiples of 1,024."""
    return _PADDED[size] if size <= 1_024 else -(-size // 1_024) * 1_024


class Exhausted(Exception):
    """No record may be sealed under these keys any more."""


class Opened:
    """An authentic record."""

    __slots__ = ("content", "kind", "seq", "timestamp_ms")

    def __init__(self, kind: int, content: bytes, seq: int, timestamp_ms: int) -> None:
        self.kind = kind
        self.content = content
        self.seq = seq
        self.timestamp_ms = timestamp_ms


class EncryptionManager:
    """Seal or open; one object for one direction of one epoch.

    Args:
        direction: Who seals.
        session_id: 16 bytes.
        epoch: Which keys these are.
        keys: Of this direction.
        records_max: Sequence numbers end here.

    Attributes:
        seq: Next sequence number.
        sealed_bytes: Bytes so far.
    """

    __slots__ = ("_bind", "_cipher", "_iv", "_mac", "_records_max", "epoch", "sealed_bytes", "seq")

    def __init__(
        self, direction: Direction, session_id: bytes, epoch: int, keys: DirectionKeys, records_max: int = RECORDS_MAX
    ) -> None:
        self._bind = b"SCSL1" + bytes((direction,)) + session_id
        self._cipher = AESGCM(keys.key)
        self._iv = int.from_bytes(keys.iv, "big")
        self._mac = HMACValidator(keys.mac)
        self._records_max = records_max
        self.epoch = epoch
        self.seq = 0
        self.sealed_bytes = 0

    def seal(self, kind: Content, content: bytes, timestamp_ms: int) -> bytes:
        """Return the next record.

        Raises:
            Exhausted: The limit of these keys is reached.
        """
        return b"".join(self.seal_pieces(kind, content, timestamp_ms))

    def seal_pieces(self, kind: Content, content: bytes, timestamp_ms: int) -> tuple[bytes, bytes, bytes]:
        """Return the next record as header, ciphertext and tag, for a writer that joins them with what goes before.

        Raises:
            Exhausted: The limit of these keys is reached.
        """
        seq = self.seq
        last = self._records_max - RESERVED if kind is _APPLICATION else self._records_max
        size = len(content) + 1
        full = padded(size)
        if seq >= last or self.sealed_bytes + full > BYTES_MAX:
            raise Exhausted
        self.seq = seq + 1
        self.sealed_bytes += full
        bound = _BOUND.pack(self._bind, _RECORD, _VERSION, 0, self.epoch, seq, timestamp_ms, full + TAG_BYTES)
        inner = content + _ENDS[kind][: full - size + 1]
        ciphertext = self._cipher.encrypt((self._iv ^ seq).to_bytes(12, "big"), inner, bound)
        return bound[_BIND_BYTES:], ciphertext, self._mac.tag(bound, ciphertext)

    def authentic(self, record: bytes, size_max: int) -> tuple[int, int, int]:
        """Check lengths, fixed fields and the HMAC of a record; return its epoch, sequence number and timestamp.

        Raises:
            SessionRefused: It is not one that the peer sealed with these keys.
        """
        if not HEADER_BYTES + TAG_BYTES + 1 + MAC_BYTES <= len(record) <= size_max + HEADER_BYTES + TAG_BYTES + MAC_BYTES:
            raise SessionRefused(PROTOCOL, "record size")
        kind, version, flags, epoch, seq, timestamp_ms, length = HEADER.unpack_from(record)
        if kind != _RECORD or version != _VERSION or flags or length != len(record) - HEADER_BYTES - MAC_BYTES:
            raise SessionRefused(PROTOCOL, "record header")
        if not self._mac.holds(record[-MAC_BYTES:], self._bind, record[:-MAC_BYTES]):
            raise SessionRefused(PROTOCOL, "record mac")
        return epoch, seq, timestamp_ms

    def decrypt(self, record: bytes, timestamp_ms: int) -> Opened:
        """Open the record with the next sequence number, after `authentic` and `ReplayDetector.admit`.

        Raises:
            SessionRefused: The cipher's own tag does not fit, or nothing is inside.
        """
        seq = self.seq
        self.sealed_bytes += len(record) - HEADER_BYTES - MAC_BYTES - TAG_BYTES
        if seq >= self._records_max or self.sealed_bytes > BYTES_MAX:
            raise SessionRefused(PROTOCOL, "keys used up")
        bound = self._bind + record[:HEADER_BYTES]
        try:
            inner = self._cipher.decrypt((self._iv ^ seq).to_bytes(12, "big"), record[HEADER_BYTES:-MAC_BYTES], bound)
        except InvalidTag:
            raise SessionRefused(PROTOCOL, "record tag") from None
        self.seq = seq + 1
        inner = inner.rstrip(b"\x00")
        if not inner:
            raise SessionRefused(PROTOCOL, "record without content type")
        return Opened(inner[-1], inner[:-1], seq, timestamp_ms)
