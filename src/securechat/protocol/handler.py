"""ProtocolHandler: the bytes of one connection to frames and back, without I/O.

The sealed sub-protocol takes its place here: it opens a record before `receive` decodes, and seals what one flush writes as one
record after `codec` encoded it.
"""

from __future__ import annotations

import re
from typing import Any, Final, Generic, TypeVar

import msgspec

from securechat.domain.choices import in_words
from securechat.domain.limits import LIMITS
from securechat.domain.secret import decode_hook
from securechat.errors import InvalidInput, ProtocolViolation, TooDeep
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import CLIENT_FRAMES, COMMANDS, SERVER_FRAMES

F = TypeVar("F")


DEPTH_MAX: Final = 32
"""Levels of arrays and objects."""
_DEEP: Final = f"too_deep: at most {DEPTH_MAX} levels."
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?+', re.DOTALL)
_CURLY_AS_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class BadFrame:
    """A frame that could not be understood: its `id`, if it had one, and why."""

    __slots__ = ("error", "id")

    def __init__(self, frame_id: str, error: InvalidInput) -> None:
        self.id = frame_id
        self.error = error


class _JustId(msgspec.Struct):
    id: str = ""


class _JustOp(msgspec.Struct):
    op: str = ""


class ProtocolHandler(Generic[F]):
    """Decode what one side sends.

    Args:
        json: Decoder of a whole text message.
        msgpack: Decoder of a whole binary message.
        one_json: Decoder of one frame, for finding the bad one among good ones.
        one_msgpack: The same.

    Attributes:
        encoding: What this side answers in: that of the first message received.
    """

    __slots__ = ("_json", "_msgpack", "_one_json", "_one_msgpack", "encoding")

    def __init__(
        self,
        json: msgspec.json.Decoder[list[F]],
        msgpack: msgspec.msgpack.Decoder[list[F]],
        one_json: msgspec.json.Decoder[F],
        one_msgpack: msgspec.msgpack.Decoder[F],
    ) -> None:
        self._json = json
        self._msgpack = msgpack
        self._one_json = one_json
        self._one_msgpack = one_msgpack
        self.encoding: Encoding | None = None

    def receive(self, payload: bytes | memoryview, *, text: bool) -> list[F] | list[F | BadFrame]:
        """Return the frames of one WebSocket message, in order.

        Raises:
            ProtocolViolation: Not an array in the encoding of this connection, too many frames, or mixed encodings.
        """
        encoding = Encoding.JSON if text else Encoding.MSGPACK
        if self.encoding is not encoding:
            if self.encoding is not None:
                raise ProtocolViolation("JSON and MessagePack do not mix in one connection.")
            self.encoding = encoding
        try:
            frames = self._json.decode(payload) if text else self._msgpack.decode(payload)
        except msgspec.ValidationError:
            return self._one_by_one(payload, text=text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation("Not an array of frames.") from error
        if len(frames) > LIMITS.frames_per_message:
            raise ProtocolViolation("Too many frames in one message.")
        return frames

    def _one_by_one(self, payload: bytes | memoryview, *, text: bool) -> list[F | BadFrame]:
        raws: list[msgspec.Raw]
        try:
            raws = (_RAWS_JSON if text else _RAWS_MSGPACK).decode(payload)
        except RecursionError as error:
            raise ProtocolViolation(_DEEP) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolViolation("Not an array of frames.") from error
        if len(raws) > LIMITS.frames_per_message:
            raise ProtocolViolation("Too many frames in one message.")
        found: list[F | BadFrame] = []
        for raw in raws:
            try:
                found.append(self._one_json.decode(raw) if text else self._one_msgpack.decode(raw))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                deep = isinstance(error, RecursionError) or (text and too_deep(bytes(raw)))
                found.append(
                    BadFrame(_id_of(raw, text=text), TooDeep(_DEEP) if deep else invalid_input(error, _kind_of(raw, text=text)))
                )
        return found


_RAWS_JSON: Final = msgspec.json.Decoder(list[msgspec.Raw])
_RAWS_MSGPACK: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_ID_JSON: Final = msgspec.json.Decoder(_JustId)
_ID_MSGPACK: Final = msgspec.msgpack.Decoder(_JustId)
_OP_JSON: Final = msgspec.json.Decoder(_JustOp)
_OP_MSGPACK: Final = msgspec.msgpack.Decoder(_JustOp)
_KINDS: Final[dict[str, type]] = {str(kind.__struct_config__.tag): kind for kind in COMMANDS}


def _id_of(raw: msgspec.Raw, *, text: bool) -> str:
    try:
        frame_id: str = (_ID_JSON.decode(raw) if text else _ID_MSGPACK.decode(raw)).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return frame_id[:64]


def _kind_of(raw: msgspec.Raw, *, text: bool) -> type | None:
    try:
        return _KINDS.get((_OP_JSON if text else _OP_MSGPACK).decode(raw).op)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def invalid_input(error: Exception, kind: type | None = None) -> InvalidInput:
    """Turn a decoder's complaint into an answer; its text names the field, and the words that it takes if `kind` is known."""
    what, where = in_words(str(error), kind)
    return InvalidInput(f"{where or 'This'} {what}." if what else "Not understood.", field=where or None)


def too_deep(text: bytes) -> bool:
    """Return whether JSON is nested deeper than `DEPTH_MAX`: without parsing it, in time that grows with its size only."""
    brackets = _STRING.sub(b"", text).translate(_CURLY_AS_SQUARE, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return bool(brackets) and (b"[]" in brackets or brackets.count(b"[") > DEPTH_MAX)


def _handler_parts(frames: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    union: Any = frames[0]
    for frame in frames[1:]:
        union = union | frame
    return (
        msgspec.json.Decoder(list[union], dec_hook=decode_hook),
        msgspec.msgpack.Decoder(list[union], dec_hook=decode_hook),
        msgspec.json.Decoder(union, dec_hook=decode_hook),
        msgspec.msgpack.Decoder(union, dec_hook=decode_hook),
    )


_CLIENT_PARTS: Final = _handler_parts(CLIENT_FRAMES)
_SERVER_PARTS: Final = _handler_parts(SERVER_FRAMES)


def server_side() -> ProtocolHandler[Any]:
    """Return the handler for what clients send."""
    return ProtocolHandler(*_CLIENT_PARTS)


def client_side() -> ProtocolHandler[Any]:
    """Return the handler for what the server sends."""
    return ProtocolHandler(*_SERVER_PARTS)
