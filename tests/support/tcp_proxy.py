"""A TCP proxy that can make a client vanish: no byte passes any more, and nobody is told."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class _Way:
    """Who spoke last on a connection."""

    up = False


class TcpProxy:
    """Between clients and a server on loopback.

    Args:
        target: Port of the server.
        source: Address from which it connects, so that a balancer sees somebody else.

    Attributes:
        port: Where clients connect.
        ended_by_server: Connections that the server ended.
        turns: How often a client spoke after the server, or first: each is a round trip.
        swallow: Let no answer pass, and cut the connection when there is one; what clients say passes.
    """

    def __init__(self, target: int, source: str = "127.0.0.1") -> None:
        self._target = target
        self._source = source
        self._passes = asyncio.Event()
        self._passes.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.ended_by_server = 0
        self.turns = 0
        self.swallow = False

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._open):
            writer.transport.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def vanish(self) -> None:
        """Let nothing pass, and tell nobody."""
        self._passes.clear()

    def come_back(self) -> None:
        """Cut what stood still, and let new connections pass."""
        for writer in list(self._open):
            writer.transport.abort()
        self._passes.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target, local_addr=(self._source, 0))
        both = (writer, server_writer)
        self._open.update(both)
        way = _Way()
        up = asyncio.ensure_future(self._pass(reader, server_writer, way, up=True))
        down = asyncio.ensure_future(self._pass(server_reader, writer, way, up=False))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if down.done():
                self.ended_by_server += 1
            await self._passes.wait()  # A vanished client is not told that the server gave up.
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for end in both:
                end.transport.abort()
                self._open.discard(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way, *, up: bool) -> None:
        while True:
            try:
                data = await reader.read(65_536)
            except OSError:
                return
            if not data:
                return
            if up and not way.up:
                self.turns += 1
            way.up = up
            if self.swallow and not up:
                self.swallow = False
                return
            if self._passes.is_set():
                writer.write(data)
                await writer.drain()
