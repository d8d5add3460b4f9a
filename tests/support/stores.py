"""A whole store on either database, for the contract tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from securechat.crypto.key_provider import FileKeys
from securechat.domain.ports import CmidKey, LogStore, LogTransaction, Moved, TargetKey
from securechat.store.accounts import SqlAccounts
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Row
from securechat.store.factors import SqlFactors
from securechat.store.keys import KeyStore
from securechat.store.log import SqliteLog
from securechat.store.migrate import migrate
from securechat.store.oauth import SqlOAuth
from securechat.store.postgres import PostgresDatabase, open_postgres, read_all
from securechat.store.postgres_log import PostgresLog
from securechat.store.sealing import Sealing
from securechat.store.sharded_log import ShardedLog
from securechat.store.shards import HOME, ShardedDatabase, add, open_sharded
from securechat.store.sqlite import SqliteDatabase
from securechat.store.storage_jobs import StorageJobs
from support.fakes import ManualClock
from support.postgres import Postgres

T = TypeVar("T")


class _Rooms(Exception):
    """Which rooms some work begins with."""


class _Asking:
    async def load(self, rooms: Collection[str], _sent: Collection[CmidKey], _targets: Collection[TargetKey]) -> None:
        raise _Rooms(*rooms)

    def mark_read(self, _user_id: str, room_id: str, _seq: int, *, back: bool) -> None:
        raise _Rooms(room_id)


class AnyLane(ShardedLog):
    """A log that finds out the lane of some work itself, and goes on in the new lane, as `RoomLog` does."""

    def __init__(self, log: ShardedLog) -> None:
        self.__dict__ = log.__dict__

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], _lane: int = 0, /) -> T:
        """See `LogStore.commit`."""
        try:
            await work(cast("LogTransaction", _Asking()))
        except _Rooms as rooms:
            while True:
                lanes = {self.lane(room) for room in rooms.args}
                assert len(lanes) <= 1, "rooms of two lanes in one commit"
                with suppress(Moved):
                    return await super().commit(work, lanes.pop() if lanes else 0)
        raise AssertionError("work that loads nothing")


class StoreUnderTest:
    """Everything on one database."""

    def __init__(self, database: Database, keys: Path, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.keys = KeyStore(database, FileKeys(keys), clock)
        self.sealing = Sealing(self.keys)
        self.audit = SqlAudit(database, clock.now_ms)
        self.accounts = SqlAccounts(database, self.audit)
        self.factors = SqlFactors(database, self.audit)
        self.oauth = SqlOAuth(database, self.audit)
        self.jobs = StorageJobs(database, self.sealing, clock, self.audit)
        self.log: LogStore
        if isinstance(database, ShardedDatabase):
            self.log = AnyLane(ShardedLog(database, self.audit, self.sealing))
        elif isinstance(database, PostgresDatabase):
            self.log = PostgresLog(database, self.audit, self.sealing)
        else:
            assert isinstance(database, SqliteDatabase)
            self.log = SqliteLog(database, self.audit, self.sealing)

    async def sql(self, statement: str) -> None:
        """Change the database behind the store's back; where there are several, each of them."""
        for part in self.database.parts:
            async with part.transaction() as transaction:
                await transaction.execute(statement)

    async def rows(self, sql: str) -> list[Row]:
        """Return the rows of a query, of each database."""
        return [row for part in self.database.parts for row in await part.read(sql)]

    async def value(self, sql: str) -> int:
        """Return one number, or the sum where there are several databases."""
        return sum([int((await part.read(sql))[0][0] or 0) for part in self.database.parts])


class Place:
    """Where a store is kept: it can be opened again.

    Args:
        folder: For files; `keys` is in it.
        postgres: The server; None for SQLite.
    """

    def __init__(self, folder: Path, postgres: Callable[[], Postgres] | None) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        self.path = folder / "data" / "securechat.db"
        self.clock = ManualClock()
        self.postgres = None if postgres is None else postgres()
        self.name = "" if self.postgres is None else self.postgres.emptied()
        self.shards: dict[str, str] = {}

    async def spread(self, *others: Postgres) -> Place:
        """Have rooms and users in further databases, too: every bucket is elsewhere than its neighbours."""
        assert self.postgres is not None
        home = await open_postgres(self.postgres.url(self.name))
        for number, other in enumerate(others, 1):
            name = f"shard{number}"
            self.shards[name] = other.url(await asyncio.to_thread(other.emptied))
            await add(home, name, self.shards[name])
        for number, url in enumerate([self.postgres.url(self.name), *self.shards.values()]):
            await read_all(url, "DELETE FROM buckets")
            mine = f"(each + 1) % {len(others) + 1} = {number}"
            await read_all(
                url, f"INSERT INTO buckets SELECT each, 'absent', '' FROM generate_series(0, 511) AS each WHERE NOT {mine}"
            )
        await home.close()
        return self

    def urls(self) -> dict[str, str]:
        """Return name → address of every database; home is the first."""
        assert self.postgres is not None
        return {HOME: self.postgres.url(self.name), **self.shards}

    async def open(self, keys: Path | None = None, port: int | None = None) -> StoreUnderTest:
        """Open it; `port` is that of a proxy."""
        database: Database
        if self.postgres is None:
            migrate(self.path)
            database = SqliteDatabase(self.path)
        else:
            database = await open_postgres(self.postgres.url(self.name, port))
            if self.shards:
                database = await open_sharded(database, self.shards, connections=10)
        return StoreUnderTest(database, keys or self.keys, self.clock)
