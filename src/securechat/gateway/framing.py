"""The rules of WebSocket frames (RFC 6455) that the library leaves to us: messages in pieces, and how a close is answered."""

from __future__ import annotations

from typing import Any

from picows import WSFrame

from securechat.domain.limits import LIMITS
from securechat.protocol.frames import CloseCode


def answer_to_close(code: Any) -> Any:
    """Return the code that answers a close frame: the same, if it may travel (RFC 6455 7.4)."""
    code = int(code or 0)
    if code in {0, 1005}:
        return 1000  # It had none.
    lawful = (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) or 3000 <= code <= 4999
    return code if lawful else int(CloseCode.FRAMING)


class Fragments:
    """A message that comes in pieces (RFC 6455 5.4).

    Args:
        first: Payload of the first frame.
        text: Whether that was a text frame.

    Attributes:
        text: The same.
    """

    __slots__ = ("_data", "text")

    def __init__(self, first: bytes, *, text: bool) -> None:
        self._data = bytearray(first)
        self.text = text

    def add(self, frame: WSFrame) -> CloseCode | None:
        """Add a continuation frame; return the close code for one that may not be there."""
        if frame.rsv1 or frame.rsv2 or frame.rsv3 or not (frame.payload_size or frame.fin):
            return CloseCode.FRAMING  # Nothing needs an empty piece; a flood of them costs.
        self._data += frame.get_payload_as_memoryview()
        return CloseCode.TOO_BIG if len(self._data) > LIMITS.websocket_message_bytes else None

    def joined(self) -> bytes:
        """Return the payload of the message, as far as it came."""
        return bytes(self._data)
