"""PostgresPool: a database that is dead, silent or has no name is not asked, harms nobody else, and is found again by itself."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from securechat.domain.breaker import BreakerState
from securechat.errors import Unavailable
from securechat.store import postgres_pool
from securechat.store.postgres import PostgresDatabase
from securechat.store.postgres_pool import PostgresPool
from support.postgres import Postgres
from support.tcp_proxy import TcpProxy

DETECTED_S = 2.0
BACK_S = 5.0
LAG_S = 0.1
ROUNDS = 3


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[PostgresDatabase]:
    pool = PostgresPool(url, 10)
    watching = asyncio.create_task(pool.watch())
    try:
        yield PostgresDatabase(pool)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await pool.close()


async def until(condition: Callable[[], bool], within_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def ask(database: PostgresDatabase) -> str:
    try:
        await database.read("SELECT 1")
    except Unavailable as error:
        return error.code if error.retry_after_ms else "refused for ever"
    return "ok"


async def ask_many(database: PostgresDatabase, count: int = 100) -> set[str]:
    return set(await asyncio.gather(*(ask(database) for _ in range(count))))


@asynccontextmanager
async def lag() -> AsyncIterator[list[float]]:
    """Measure how late the loop is."""
    found = [0.0]

    async def measure() -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            found.append(time.monotonic() - due)

    task = asyncio.create_task(measure())
    try:
        yield found
    finally:
        task.cancel()


@pytest.mark.alone
async def test_a_database_that_says_nothing_is_noticed_at_once_and_nobody_waits_for_it_after_that(postgres: Postgres) -> None:
    async with TcpProxy(postgres.port) as proxy, watched(postgres.url(port=proxy.port)) as database:
        breaker, rounds = database.pool.breaker, 0
        assert await ask_many(database) == {"ok"}
        late = [math.inf]
        while max(late) >= LAG_S and rounds < ROUNDS:  # Another program of the machine can hold the core for a moment.
            rounds += 1
            proxy.vanish()
            began = time.monotonic()
            early = [asyncio.create_task(ask(database)) for _ in range(50)]
            async with lag() as late:
                noticed = await until(lambda: breaker.state is not BreakerState.CLOSED, DETECTED_S)
                asked = time.monotonic()
                assert await ask_many(database, 1_000) == {"unavailable"}
                refused = time.monotonic() - asked
                assert refused < 0.5
                assert set(await asyncio.gather(*early)) == {"unavailable"}
                assert time.monotonic() - began < postgres_pool.COMMAND_S + 1
            assert database.pool.waiting == 0
            proxy.come_back()
            back = await until(lambda: breaker.closed, BACK_S)
            assert await ask_many(database) == {"ok"}
            assert breaker.opens == rounds
            print(f"noticed in {noticed:.2f} s, 1000 refused in {refused:.3f} s, lag {max(late):.3f} s, back in {back:.2f} s")
        assert max(late) < LAG_S


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGKILL])
@pytest.mark.alone
async def test_a_database_that_was_away_is_used_again_without_anybody_doing_anything(postgres: Postgres, number: int) -> None:
    async with watched(postgres.url()) as database:
        breaker, came_back = database.pool.breaker, asyncio.Event()
        database.pool.came_back = came_back.set
        assert await ask_many(database) == {"ok"}
        await asyncio.to_thread(postgres.stop, number)
        await until(lambda: breaker.state is not BreakerState.CLOSED, DETECTED_S)
        assert await ask_many(database) == {"unavailable"}
        await asyncio.to_thread(postgres.start)
        began = time.monotonic()
        async with asyncio.timeout(BACK_S):
            await came_back.wait()
        print(f"back {time.monotonic() - began:.2f} s after it accepts")
        assert await ask_many(database) == {"ok"}


async def test_one_connection_that_is_lost_is_no_reason_to_refuse_everybody(postgres: Postgres) -> None:
    async with watched(postgres.url()) as database:
        assert await ask_many(database) == {"ok"}
        for _ in range(3):
            victim = "SELECT pid FROM pg_stat_activity WHERE application_name = 'securechat' AND pid <> pg_backend_pid() LIMIT 1"
            await asyncio.to_thread(postgres.sql, f"SELECT pg_terminate_backend(({victim}))")
            assert await ask_many(database) == {"ok"}
            await asyncio.sleep(postgres_pool.WATCH_S)
        assert database.pool.breaker.opens == 0


async def test_who_is_too_many_to_wait_is_refused_at_once(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pool, "WAITING_MAX", 20)
    async with watched(postgres.url()) as database:
        holding = [asyncio.create_task(database.read("SELECT pg_sleep(0.8)")) for _ in range(10)]
        await until(lambda: database.pool.driver.get_size() == 10 and not database.pool.waiting, 5)
        asked = [asyncio.create_task(ask(database)) for _ in range(50)]
        done, rest = await asyncio.wait(asked, timeout=0.1)
        assert {task.result() for task in done} == {"unavailable"}
        assert (len(done), len(rest)) == (30, 20)
        assert set(await asyncio.gather(*rest)) == {"ok"}
        await asyncio.gather(*holding)
        assert database.pool.breaker.closed


@pytest.mark.alone
async def test_a_name_that_is_not_found_out_holds_nobody_up(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    found_out, asking = threading.Event(), [0]
    look_up = socket.getaddrinfo

    def hanging(*where: Any, **how: Any) -> Any:
        asking[0] += 1
        found_out.wait(30)
        return look_up(*where, **how)

    async with watched(postgres.url().replace("127.0.0.1", "localhost")) as database:
        assert await ask(database) == "ok"
        mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'securechat'"
        await until(lambda: postgres.sql(mine) == "2", 5)
        monkeypatch.setattr(socket, "getaddrinfo", hanging)
        try:
            async with lag() as late:
                first = asyncio.gather(*(ask(database) for _ in range(200)))
                assert await ask(database) == "ok"  # The connection that was there goes on.
                assert "ok" in await first
            assert asking[0]
            assert max(late) < LAG_S
            assert database.pool.breaker.opens == 0
        finally:
            found_out.set()
            monkeypatch.undo()
        assert await ask_many(database) == {"ok"}


async def test_nobody_is_the_probe_where_there_is_a_watch(postgres: Postgres) -> None:
    """Else whoever asks in the moment after a pause waits for a database that says nothing."""
    pool = PostgresPool(postgres.url(postgres.new_database()), 2)
    now = asyncio.get_running_loop().time
    try:
        for watched_, answer in ((True, "unavailable"), (False, "ok")):
            pool._watched = watched_
            pool.breaker.failed(now(), "silence", surely=True)
            await asyncio.sleep(pool.breaker.wait_s(now()))
            assert await ask(PostgresDatabase(pool)) == answer
    finally:
        await pool.close()


async def test_a_database_far_away_is_used_again_after_its_connections_were_cut(postgres: Postgres) -> None:
    """A new connection takes several round trips, and here each takes 0.3 s."""
    async with TcpProxy(postgres.port) as proxy, watched(postgres.url(port=proxy.port)) as database:
        assert await ask_many(database, 5) == {"ok"}
        proxy.set(latency_s=0.15)
        proxy.cut()
        await until(lambda: not database.pool.breaker.closed, DETECTED_S)
        await until(lambda: database.pool.breaker.closed, BACK_S)
        assert await ask(database) == "ok"


async def test_who_gets_no_session_because_the_disk_is_full_is_told_to_come_back(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends the new connection with an internal error, for it can write no file of its own."""
    url = postgres.url(postgres.new_database())
    connect, full = asyncpg.connect, True

    async def connect_or_not(*where: Any, **how: Any) -> Any:
        if full:
            raise asyncpg.InternalServerError("could not write init file")
        return await connect(*where, **how)

    monkeypatch.setattr(asyncpg, "connect", connect_or_not)
    pool = PostgresPool(url, 2)
    try:
        database = PostgresDatabase(pool)
        assert await ask(database) == "unavailable"
        full = False
        await asyncio.sleep(pool.breaker.wait_s(asyncio.get_running_loop().time()))
        assert await ask(database) == "ok"
    finally:
        await pool.close()
