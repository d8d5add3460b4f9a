"""Everybody comes back at once: what that costs the database, and that those who are there notice little of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.postgres import running
from support.raw_socket import RawSocket
from support.running import RunningServer
from support.tcp_proxy import TcpProxy

PEOPLE = 60
QUERIES = 3


async def leave(socket: RawSocket) -> None:
    socket.end()
    await socket.gone()


@pytest.mark.alone
async def test_a_client_that_comes_back_costs_the_database_three_queries_however_many_come(tmp_path: Path) -> None:
    """What is counted are round trips on the way to PostgreSQL, all that the server does besides included."""
    with running() as postgres:
        async with TcpProxy(postgres.port) as proxy:
            url = postgres.url(await asyncio.to_thread(postgres.new_database), proxy.port)
            server = await asyncio.to_thread(
                RunningServer(tmp_path / "data", settings={"database_url": url, "max_pending_address": 500}).start
            )
            try:
                rooms = [await asyncio.to_thread(server.room, f"room {number}") for number in range(5)]
                tokens = [await asyncio.to_thread(server.bot, f"bot{number}", *rooms) for number in range(PEOPLE)]
                there = await RawSocket.open(server.http_port)
                await there.authenticate(tokens[0])
                for _ in range(2):  # The first time every connection of the pool learns the statements.
                    turns, began = proxy.turns, time.monotonic()
                    everybody = await asyncio.gather(*(RawSocket.open(server.http_port) for _ in tokens))
                    await asyncio.gather(*(each.authenticate(token) for each, token in zip(everybody, tokens, strict=True)))
                    took, spent = time.monotonic() - began, proxy.turns - turns
                    await asyncio.gather(*(leave(each) for each in everybody))
                print(f"{spent} round trips for {PEOPLE} clients in {took:.2f} s")
                assert spent < (QUERIES + 0.5) * PEOPLE  # It looks besides whether the database answers, and for ended sessions.
                await leave(there)
            finally:
                await asyncio.to_thread(server.stop)
