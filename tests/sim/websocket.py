"""WebSocket frames as a client writes and reads them (RFC 6455 5.2)."""

from __future__ import annotations


def frame_of(opcode: int, payload: bytes) -> bytes:
    """Return a frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def next_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take the next whole WebSocket frame of a server."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1], 2
    if size == 126:
        start = 4
        size = int.from_bytes(buffer[2:4], "big")
    elif size == 127:
        start = 10
        size = int.from_bytes(buffer[2:10], "big")
    if len(buffer) < start or len(buffer) < start + size:
        return None
    assert buffer[0] & 0x80, "a server of ours does not split messages"
    opcode, payload = buffer[0] & 15, bytes(buffer[start : start + size])
    del buffer[: start + size]
    return opcode, payload
