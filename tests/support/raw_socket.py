"""A WebSocket connection by hand: for frames that no library would write, and for readers that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from typing import Any, Final

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_NO_MASK: Final = bytes(4)
"""The mask of all zeros: masked, as a client's frames must be, and the payload stays as it is."""


def frame(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, rsv: int = 0, masked: bool = True, claims: int | None = None
) -> bytes:
    """Return a frame of a client; `claims` is a declared length other than the true one."""
    size = len(payload) if claims is None else claims
    bit = 0x80 if masked else 0
    head = bytes((0x80 * fin | rsv << 4 | opcode,))
    if size < 126:
        head += bytes((bit | size,))
    elif size < 65_536:
        head += bytes((bit | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((bit | 127,)) + size.to_bytes(8, "big")
    return head + (_NO_MASK if masked else b"") + payload


class RawSocket:
    """One connection.

    Attributes:
        messages: Text and binary messages that came, decoded if JSON.
        close_code: That of the server's close frame, or 1006 when the network ended it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.close_code: int | None = None

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None, limit: int = 2**16) -> RawSocket:
        """Connect and upgrade."""
        plain = socket.socket()
        plain.setblocking(False)  # noqa: FBT003 - the name of the argument is nobody's to give
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=plain, limit=limit)
        writer.write(
            b"GET /gateway HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: securechat.v1.clear\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return cls(reader, writer)

    async def authenticate(self, token: str, resume: dict[str, int] | None = None) -> Any:
        """Say who one is and return `ready`."""
        await self.receive()
        self.write(frame(json.dumps([{"op": "auth", "id": "auth", "token": token, "resume": resume or {}}]).encode()))
        (ready,) = await self.receive()
        assert ready["op"] == "ready", ready
        return ready

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def flush(self, data: bytes = b"") -> bool:
        """Write bytes and wait until the socket takes more; return whether the connection still stands."""
        try:
            self.write(data)
            await self._writer.drain()
        except OSError:
            return False
        return not self._writer.is_closing()

    async def receive(self) -> Any:
        """Return the next message, decoded from JSON if it is text; None at the end, and then `close_code` says why."""
        while True:
            try:
                first, second = await self._reader.readexactly(2)
                size = second & 127
                if size >= 126:
                    size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
                payload = await self._reader.readexactly(size)
            except (OSError, asyncio.IncompleteReadError):
                self.close_code = self.close_code or 1006
                return None
            opcode = first & 15
            if opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
                return None
            if opcode == TEXT:
                return json.loads(payload)
            if opcode == BINARY:
                return payload

    async def closed(self, within_s: float = 15.0) -> int:
        """Read to the end and return the close code."""
        async with asyncio.timeout(within_s):
            while await self.receive() is not None:
                pass
        assert self.close_code is not None
        return self.close_code

    def end(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the dropped connection is closed."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def noise(rng: random.Random) -> bytes:
    """Return a frame of chance: any operation, flags, content; mostly of a lawful form."""
    payload = rng.randbytes(rng.choice((0, 1, 2, 7, 30, 125, 126, 300)))
    return frame(
        payload,
        rng.choice((TEXT, TEXT, BINARY, BINARY, CONTINUATION, PING, PONG, rng.randrange(16))),
        fin=rng.random() < 0.8,
        rsv=rng.randrange(8) if rng.random() < 0.1 else 0,
        masked=rng.random() < 0.95,
        claims=rng.getrandbits(rng.choice((8, 16, 40, 63))) if rng.random() < 0.03 else None,
    )
