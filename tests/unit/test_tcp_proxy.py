"""The faulty proxy: each fault does what it says, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.tcp_proxy import TcpProxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def through(proxy: TcpProxy) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def round_trip(ends: Ends, data: bytes = b"hello") -> float:
    began = time.monotonic()
    ends[1].write(data)
    assert await asyncio.wait_for(ends[0].readexactly(len(data)), 20) == data
    return time.monotonic() - began


async def silent(ends: Ends) -> bool:
    try:
        async with asyncio.timeout(0.2):
            return not await ends[0].read(1)
    except TimeoutError:
        return True


async def test_without_faults_everything_passes_in_order(echo: int) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        await round_trip(ends, bytes(range(256)) * 4_000)
        assert proxy.open == proxy.accepted == 1


async def test_latency_is_added_each_way_and_order_stays(echo: int) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        proxy.set(latency_s=0.1, jitter_s=0.05)
        assert 0.1 <= await round_trip(ends) < 1
        await round_trip(ends, bytes(range(256)) * 400)
        proxy.set()
        assert await round_trip(ends) < 0.1


async def test_little_bandwidth_takes_time(echo: int) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        proxy.set(bytes_per_s=100_000)
        assert await round_trip(ends, bytes(30_000)) > 0.5  # Up and down: they overlap a little.


async def test_slices_come_one_by_one(echo: int) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        proxy.set(slice_bytes=1, slice_pause_s=0.01)
        ends[1].write(b"abcdef")
        pieces = [await ends[0].read(100) for _ in range(3)]
        assert all(len(piece) < 6 for piece in pieces), pieces


@pytest.mark.parametrize("way", ["hold_up", "hold_down"])
async def test_what_is_held_comes_when_it_is_let_go(echo: int, way: str) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        await round_trip(ends)
        proxy.set(**{way: True})
        ends[1].write(b"waits")
        assert await silent(ends)
        proxy.set()
        assert await asyncio.wait_for(ends[0].readexactly(5), 5) == b"waits"


async def test_held_connections_are_accepted_and_told_nothing(echo: int) -> None:
    async with TcpProxy(echo) as proxy:
        proxy.set(hold_up=True, hold_down=True)
        async with through(proxy) as ends:
            ends[1].write(b"hello")
            assert await silent(ends)


async def test_resets_come_in_the_middle(echo: int) -> None:
    async with TcpProxy(echo) as proxy, through(proxy) as ends:
        proxy.set(reset_after=1_000)
        for _ in range(3):
            await round_trip(ends, bytes(300))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await round_trip(ends, bytes(300_000))
        assert proxy.open == 0


async def test_who_refuses_is_nobody_until_it_listens_again_at_the_same_port(echo: int) -> None:
    async with TcpProxy(echo) as proxy:
        async with through(proxy) as ends:
            await round_trip(ends)
            proxy.refuse()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(ends[0].read(1), 5)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.listen()
        async with through(proxy) as ends:
            await round_trip(ends)


async def test_the_next_server_is_asked_when_one_takes_no_connection(echo: int) -> None:
    async with TcpProxy([1, echo]) as proxy:
        for _ in range(4):
            async with through(proxy) as ends:
                await round_trip(ends)
