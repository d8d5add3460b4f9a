"""MessageQueue: what waits for one connection. It has a limit, and a rule for "full".

Full: first what is ephemeral is dropped; if that is not enough, the connection is closed with 4008 and the log has the rest.
"""

from __future__ import annotations

from typing import Final

from securechat.domain.limits import LIMITS
from securechat.protocol.codec import Form, message_of_encoded

_BYTES_MAX: Final = LIMITS.queue_bytes
_BLOCKS_MAX: Final = LIMITS.queue_blocks


class MessageQueue:
    """Messages by reference, finished or packed for a record, and encoded frames that become one message when they leave."""

    __slots__ = ("_ephemeral", "_frames", "_messages", "_size")

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._frames: list[bytes] = []
        self._ephemeral: list[bytes] = []
        self._size = 0

    def put(self, message: bytes) -> bool:
        """Add a finished message; return False when it does not fit: the consumer is too slow."""
        messages = self._messages
        messages.append(message)
        size = self._size = self._size + len(message)
        return (size <= _BYTES_MAX and len(messages) <= _BLOCKS_MAX) or self._fits()

    def put_frame(self, frame: bytes) -> bool:
        """Add an encoded frame (an answer); return False when it does not fit."""
        self._frames.append(frame)
        self._size += len(frame)
        return self._fits()

    def put_ephemeral(self, message: bytes) -> None:
        """Add a message that may be lost; it is, when there is no room."""
        if self._size + len(message) <= _BYTES_MAX // 2 and len(self._ephemeral) < _BLOCKS_MAX // 2:
            self._ephemeral.append(message)
            self._size += len(message)

    def take(self, form: Form) -> list[bytes]:
        """Return the messages that wait: answers, then events in their order, then ephemerals."""
        messages = self._messages
        if self._frames:
            messages.insert(0, message_of_encoded(self._frames, form))
            self._frames = []
        if self._ephemeral:
            messages += self._ephemeral
            self._ephemeral = []
        self._messages = []
        self._size = 0
        return messages

    def drop_ephemeral(self) -> None:
        """Forget what may be lost."""
        self._size -= sum(map(len, self._ephemeral))
        self._ephemeral = []

    def clear(self) -> None:
        """Forget everything: the connection ends."""
        self._messages = []
        self._frames = []
        self._ephemeral = []
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def _fits(self) -> bool:
        if self._size <= _BYTES_MAX and len(self._messages) <= _BLOCKS_MAX:
            return True
        self.drop_ephemeral()
        return self._size <= _BYTES_MAX and len(self._messages) <= _BLOCKS_MAX
