"""A whole store on either database, for the contract tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from securechat.crypto.key_provider import FileKeys
from securechat.domain.ports import LogStore
from securechat.store.accounts import SqlAccounts
from securechat.store.audit import SqlAudit
from securechat.store.database import Database
from securechat.store.factors import SqlFactors
from securechat.store.keys import KeyStore
from securechat.store.log import SqliteLog
from securechat.store.migrate import migrate
from securechat.store.oauth import SqlOAuth
from securechat.store.postgres import PostgresDatabase, open_postgres
from securechat.store.postgres_log import PostgresLog
from securechat.store.sealing import Sealing
from securechat.store.sqlite import SqliteDatabase
from securechat.store.storage_jobs import StorageJobs
from support.fakes import ManualClock
from support.postgres import Postgres


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
        if isinstance(database, PostgresDatabase):
            self.log = PostgresLog(database, self.audit, self.sealing)
        else:
            assert isinstance(database, SqliteDatabase)
            self.log = SqliteLog(database, self.audit, self.sealing)

    async def sql(self, statement: str) -> None:
        """Change the database behind the store's back."""
        async with self.database.transaction() as transaction:
            await transaction.execute(statement)

    async def value(self, sql: str) -> int:
        """Return one number."""
        return int((await self.database.read(sql))[0][0])


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

    async def open(self, keys: Path | None = None, port: int | None = None) -> StoreUnderTest:
        """Open it; `port` is that of a proxy."""
        database: Database
        if self.postgres is None:
            migrate(self.path)
            database = SqliteDatabase(self.path)
        else:
            database = await open_postgres(self.postgres.url(self.name, port))
        return StoreUnderTest(database, keys or self.keys, self.clock)
