"""The byte encoding of the session layer (spec/session-layer.md 3): big-endian, length-prefixed, nothing left over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from securechat.errors import SessionRefused

PROTOCOL: Final = 4400
"""Close code for whatever is malformed, forged or replayed: one code outside, the reason is for the audit only."""


def u16(value: int) -> bytes:
    """Return two bytes."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Return four bytes."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Return eight bytes."""
    return value.to_bytes(8, "big")


def vec8(data: bytes) -> bytes:
    """Return a length of one byte, and the bytes."""
    return len(data).to_bytes(1, "big") + data


def vec16(data: bytes) -> bytes:
    """Return a length of two bytes, and the bytes."""
    return u16(len(data)) + data


def framed(message: bytes) -> bytes:
    """Return F(m), as it goes into a transcript: a length of four bytes, and the message."""
    return u32(len(message)) + message


def names(words: Iterable[str]) -> bytes:
    """Return a list of ASCII names."""
    return vec16(b"".join(vec8(word.encode("ascii")) for word in words))


class Reader:
    """Reads a message from its beginning to its end.

    Raises:
        SessionRefused: With 4400, from every method, when the message is too short or holds what it may not.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        end = self._at + size
        if end > len(self._data):
            raise SessionRefused(PROTOCOL, "truncated")
        found = self._data[self._at : end]
        self._at = end
        return found

    def number(self, size: int) -> int:
        """Return the next big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def vec8(self) -> bytes:
        """Return what has a length of one byte."""
        return self.take(self.number(1))

    def vec16(self) -> bytes:
        """Return what has a length of two bytes."""
        return self.take(self.number(2))

    def expect(self, *values: int) -> None:
        """Take these bytes and no others."""
        for value in values:
            if self.number(1) != value:
                raise SessionRefused(PROTOCOL, "unexpected byte")

    @property
    def more(self) -> bool:
        """Whether something is left."""
        return self._at < len(self._data)

    def end(self) -> None:
        """Refuse what is left over."""
        if self.more:
            raise SessionRefused(PROTOCOL, "trailing bytes")


def read_names(data: bytes) -> list[str]:
    """Read what `names` wrote, without its outer length.

    Raises:
        SessionRefused: Not ASCII, empty, or twice the same.
    """
    reader = Reader(data)
    found: list[str] = []
    while reader.more:
        try:
            found.append(reader.vec8().decode("ascii"))
        except UnicodeDecodeError:
            raise SessionRefused(PROTOCOL, "a name that is not ASCII") from None
    if not found or "" in found or len(set(found)) != len(found):
        raise SessionRefused(PROTOCOL, "names")
    return found


def write_extensions(extensions: Sequence[tuple[int, bytes]]) -> bytes:
    """Return extensions in ascending order of their types."""
    return vec16(b"".join(u16(kind) + vec16(data) for kind, data in sorted(extensions)))


def read_extensions(data: bytes) -> dict[int, bytes]:
    """Read extensions.

    Raises:
        SessionRefused: Not ascending, or one twice.
    """
    reader = Reader(data)
    found: dict[int, bytes] = {}
    last = -1
    while reader.more:
        kind = reader.number(2)
        if kind <= last:
            raise SessionRefused(PROTOCOL, "order of extensions")
        last = kind
        found[kind] = reader.vec16()
    return found
