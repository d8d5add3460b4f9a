"""SqliteDatabase: what a cancelled caller leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from securechat.errors import Unavailable
from securechat.store.migrate import migrate
from securechat.store.sqlite import SqliteDatabase


class _SlowDisk(SqliteDatabase):
    """A database whose first commit waits until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reached = threading.Event()
        self.released = threading.Event()

    def _commit(self) -> None:
        self.reached.set()
        assert self.released.wait(10)
        super()._commit()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[_SlowDisk]:
    migrate(tmp_path / "securechat.db")
    found = _SlowDisk(tmp_path / "securechat.db")
    yield found
    found.released.set()
    if not found._closed:
        await found.close()


async def put(database: SqliteDatabase, name: str) -> None:
    async with database.transaction() as transaction:
        await transaction.execute("INSERT INTO settings (key, value) VALUES (?, ?)", (name, "1"))


async def names(database: SqliteDatabase) -> list[str]:
    return [row[0] for row in await database.read("SELECT key FROM settings WHERE key IN ('first', 'second') ORDER BY key")]


async def test_who_is_cancelled_while_it_commits_leaves_nothing_to_the_next_transaction(database: _SlowDisk) -> None:
    first = asyncio.create_task(put(database, "first"))
    await asyncio.to_thread(database.reached.wait, 10)
    first.cancel()
    second = asyncio.create_task(put(database, "second"))
    for _ in range(5):  # Both have had their turn.
        await asyncio.sleep(0)
    assert not first.done(), "the commit is under way: nobody can say yet what became of it"
    database.released.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert await names(database) == ["first", "second"]


async def test_what_still_waits_when_the_database_is_closed_is_told_that_it_is_unavailable(database: _SlowDisk) -> None:
    first = asyncio.create_task(put(database, "first"))
    await asyncio.to_thread(database.reached.wait, 10)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    second = asyncio.create_task(put(database, "second"))
    await asyncio.sleep(0)
    database.released.set()
    await asyncio.gather(first, closing)
    with pytest.raises(Unavailable):
        await second
