"""Frames ↔ bytes, in JSON (text messages) and MessagePack (binary messages).

A WebSocket message is an array of frames. What goes to many is encoded once: a `Block` is a finished WebSocket message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Any, Final

import msgspec

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


class Form(IntEnum):
    """How bytes leave: in which encoding, and as a finished WebSocket message or packed, as they go into a sealed record."""

    JSON = 0
    MSGPACK = 1
    PACKED_JSON = 2
    PACKED_MSGPACK = 3


def form_of(encoding: Encoding, *, packed: bool) -> Form:
    """Return the form of an encoding; `packed`, as it goes into a sealed record."""
    return Form(2 * packed + (encoding is Encoding.MSGPACK))


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


def _closed(payload: bytes, form: Form) -> bytes:
    if form >= Form.PACKED_JSON:
        return len(payload).to_bytes(4, "big") + payload
    return websocket_header(_FIN_TEXT if form is Form.JSON else _FIN_BINARY, len(payload)) + payload


def message(frames: Sequence[Any], form: Form) -> bytes:
    """Return a message that holds these frames."""
    return _closed(_json.encode(frames) if form % 2 == 0 else _msgpack.encode(frames), form)


def message_of_encoded(frames: Sequence[bytes], form: Form) -> bytes:
    """Return the same of frames that are encoded already."""
    if form % 2 == 0:
        return _closed(b"[" + b",".join(frames) + b"]", form)
    return _closed(_msgpack_array_header(len(frames)) + b"".join(frames), form)


def binary_message(payload: bytes) -> bytes:
    """Return a finished binary WebSocket message."""
    return websocket_header(_FIN_BINARY, len(payload)) + payload


def binary_header(size: int) -> bytes:
    """Return the header of a binary WebSocket message of this size."""
    return websocket_header(_FIN_BINARY, size)


class Block:
    """Frames for one audience, encoded at most once per form, shared by reference."""

    __slots__ = ("_made", "frames")

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = frames
        self._made: list[bytes | None] = [None, None, None, None]

    def message(self, form: Form) -> bytes:
        """Return the message in this form: the same object for everybody who asks."""
        made = self._made[form]
        if made is None:
            made = self._made[form] = message(self.frames, form)
        return made
