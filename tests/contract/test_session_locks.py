"""The locks by which servers on one PostgreSQL know of each other."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from securechat.errors import Shutdown
from securechat.store import session_locks
from securechat.store.session_locks import SERVING, ServerLocks
from support.postgres import Postgres
from support.waiting import until


async def test_who_loses_the_lock_does_not_lead_from_that_moment_on(postgres: Postgres) -> None:
    """The next look is seconds away, and by then another one leads."""
    name = await asyncio.to_thread(postgres.new_database)
    one, two = ServerLocks(postgres.url(name), shared=True), ServerLocks(postgres.url(name), shared=True)
    await one.enter()
    await two.enter()
    try:
        assert (one.leads, one.alone, two.leads, two.alone) == (True, True, False, False)
        await asyncio.to_thread(
            postgres.sql,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
            f" AND database = (SELECT oid FROM pg_database WHERE datname = '{name}')",
        )
        async with asyncio.timeout(1):
            while one.leads:
                await asyncio.sleep(0.005)
        watching = asyncio.create_task(two.run())
        async with asyncio.timeout(10):
            while not two.leads:
                await asyncio.sleep(0.005)
        watching.cancel()
    finally:
        await one.leave()
        await two.leave()


async def test_who_comes_back_while_another_one_looks_whether_it_is_alone_goes_on(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an end of the database all come back at once, and each that starts has the lock for itself for a moment."""
    monkeypatch.setattr(session_locks, "LOOK_S", 0.05)
    name = await asyncio.to_thread(postgres.new_database)
    locks = ServerLocks(postgres.url(name), shared=True)
    await locks.enter()
    looking = await asyncpg.connect(postgres.url(name))
    await locks._end()
    await looking.execute("SELECT pg_advisory_lock($1)", SERVING)
    watching = asyncio.create_task(locks.run())
    try:
        await until(lambda: locks._connection is not None or watching.done())
        assert not (await asyncio.wait({watching}, timeout=1))[0], "it gave up"
        await looking.execute("SELECT pg_advisory_unlock($1)", SERVING)
        await until(lambda: locks.leads)
        assert locks.alone, "it was, at its start"
        assert not await looking.fetchval("SELECT pg_try_advisory_lock($1)", SERVING), "it does not hold its lock"
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await locks.leave()
        await looking.close()


@pytest.mark.parametrize("shared", [True, False])
async def test_who_comes_back_and_finds_the_database_taken_ends(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    monkeypatch.setattr(session_locks, "LOOK_S", 0.05)
    monkeypatch.setattr(session_locks, "PATIENCE_S", 0.6)
    name = await asyncio.to_thread(postgres.new_database)
    locks, other = ServerLocks(postgres.url(name), shared=shared), ServerLocks(postgres.url(name), shared=False)
    await locks.enter()
    await locks._end()
    await other.enter()
    try:
        with pytest.raises(Shutdown, match="Another server uses this database"):
            async with asyncio.timeout(5):
                await locks.run()
    finally:
        await other.leave()
