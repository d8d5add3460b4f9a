"""The locks by which servers on one PostgreSQL know of each other."""

from __future__ import annotations

import asyncio

from securechat.store.session_locks import ServerLocks
from support.postgres import Postgres


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
