"""Frames ↔ bytes, in JSON (text messages) and MessagePack (binary messages).

A WebSocket message is an array of frames. What goes to many is encoded once: a `Block` is a finished WebSocket message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

import msgspec

from securechat.domain.entries import Entry
from securechat.domain.secret import encode_hook

_json: Final = msgspec.json.Encoder(enc_hook=encode_hook)
_msgpack: Final = msgspec.msgpack.Encoder(enc_hook=encode_hook)

_FIN_TEXT: Final = 0x81
_FIN_BINARY: Final = 0x82


class Encoding(Enum):
    """How a connection writes its frames."""

    JSON = "json"
    MSGPACK = "msgpack"

    __hash__ = object.__hash__


encode_json: Final[Callable[[Any], bytes]] = _json.encode
encode_msgpack: Final[Callable[[Any], bytes]] = _msgpack.encode


def websocket_header(opcode: int, size: int) -> bytes:
    """Return the header of an unfragmented, unmasked WebSocket message (RFC 6455 5.2): what a server sends."""
    if size < 126:
        return bytes((opcode, size))
    if size < 65_536:
        return bytes((opcode, 126, size >> 8, size & 255))
    return bytes((opcode, 127)) + size.to_bytes(8, "big")


def _msgpack_array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 65_536:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _payload(frames: Sequence[Any], encoding: Encoding) -> bytes:
    return _json.encode(frames) if encoding is Encoding.JSON else _msgpack.encode(frames)


def _payload_of_encoded(frames: Sequence[bytes], encoding: Encoding) -> bytes:
    if encoding is Encoding.JSON:
        return b"[" + b",".join(frames) + b"]"
    return _msgpack_array_header(len(frames)) + b"".join(frames)


def _finished(payload: bytes, encoding: Encoding) -> bytes:
    return websocket_header(_FIN_TEXT if encoding is Encoding.JSON else _FIN_BINARY, len(payload)) + payload


def _packed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def message(frames: Sequence[Any], encoding: Encoding, *, packed: bool = False) -> bytes:
    """Return a finished WebSocket message that holds these frames; `packed`, as it goes into a sealed record."""
    payload = _payload(frames, encoding)
    return _packed(payload) if packed else _finished(payload, encoding)


def message_of_encoded(frames: Sequence[bytes], encoding: Encoding, *, packed: bool = False) -> bytes:
    """Return the same of frames that are encoded already."""
    payload = _payload_of_encoded(frames, encoding)
    return _packed(payload) if packed else _finished(payload, encoding)


def binary_message(payload: bytes) -> bytes:
    """Return a finished binary WebSocket message."""
    return websocket_header(_FIN_BINARY, len(payload)) + payload


class Block:
    """Frames for one audience, encoded at most once per encoding, shared by reference."""

    __slots__ = ("_json", "_msgpack", "_packed_json", "_packed_msgpack", "frames")

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = frames
        self._json: bytes | None = None
        self._msgpack: bytes | None = None
        self._packed_json: bytes | None = None
        self._packed_msgpack: bytes | None = None

    def encoded(self, encoding: Encoding) -> bytes:
        """Return the finished WebSocket message."""
        if encoding is Encoding.JSON:
            if self._json is None:
                self._json = message(self.frames, encoding)
            return self._json
        if self._msgpack is None:
            self._msgpack = message(self.frames, encoding)
        return self._msgpack

    def packed(self, encoding: Encoding) -> bytes:
        """Return the message as it goes into a sealed record."""
        if encoding is Encoding.JSON:
            if self._packed_json is None:
                self._packed_json = message(self.frames, encoding, packed=True)
            return self._packed_json
        if self._packed_msgpack is None:
            self._packed_msgpack = message(self.frames, encoding, packed=True)
        return self._packed_msgpack


def entries_block(entries: Sequence[Entry]) -> Block:
    """Return the block of a stretch of one room's log."""
    return Block(entries)
