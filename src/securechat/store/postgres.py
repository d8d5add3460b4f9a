"""PostgresDatabase: statements and transactions; what the driver raises becomes what the store knows.

How a statement is written is translated once: `?` becomes `$1`, `$2`, and the connection prepares it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import asyncpg

from securechat.errors import Conflict, Shutdown
from securechat.store.database import Dialect, Duplicate, Row, UserRows
from securechat.store.migrate import HEAD, SERVES, require_known, statements
from securechat.store.postgres_pool import CONNECT_S, GONE, NOT_NOW, OPTIONS, AnswerLost, PostgresPool, TryAgain, unavailable
from securechat.store.user_rows import UsersHere

log = logging.getLogger(__name__)

BESIDE_S: Final = 300.0
"""What `read_beside` may take: it counts whole tables."""
MIGRATING: Final = 0x5EC_C4A7
"""Key of the advisory lock under which a schema is changed."""
MIGRATE_LOCK_MS: Final = 2_000
"""What people may wait behind a migration that waits for a table."""
MIGRATE_TRIES: Final = 30
MIGRATE_PAUSE_S: Final = 1.0

_TELLS_ROWS: Final = {"SELECT", "WITH P", "WITH L"}
_VALUE: Final = re.compile(r"'[^']*'|\?")


@lru_cache(maxsize=1_000)
def translated(sql: str) -> str:
    """Return a statement with `$1`, `$2` for its values."""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] != "?":
            return found[0]
        count += 1
        return f"${count}"

    return _VALUE.sub(number, sql)


class PostgresTransaction:
    """See `Transaction`.

    Args:
        connection: With a transaction begun.

    Attributes:
        names_elsewhere: Whether names of rooms are claimed in another database, by who uses this transaction.
        away: See `Transaction.away`.
    """

    __slots__ = ("_connection", "away", "changed", "names_elsewhere")

    dialect = Dialect.POSTGRESQL

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.changed = 0
        self.names_elsewhere = False
        self.away = False

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Transaction.execute`."""
        return await self.fetch(translated(sql), *values)

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Execute a statement in PostgreSQL's own words."""
        word = sql[:6].upper()
        try:
            if word in _TELLS_ROWS or "RETURNING" in sql:
                rows = [tuple(row) for row in await self._connection.fetch(sql, *values)]
                self.changed += 0 if word in _TELLS_ROWS else len(rows)
                return rows
            status: str = await self._connection.execute(sql, *values)
        except asyncpg.UniqueViolationError as error:
            raise Duplicate(str(error)) from error
        count = status.rpartition(" ")[2]
        self.changed += int(count) if count.isdecimal() else 0
        return []

    async def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Transaction.execute_many`."""
        if not rows:
            return
        try:
            await self._connection.executemany(translated(sql), rows)
        except asyncpg.UniqueViolationError as error:
            raise Duplicate(str(error)) from error
        self.changed += len(rows)


class PostgresDatabase:
    """See `Database`. Made by `open_postgres`.

    Args:
        pool: The connections.

    Attributes:
        pool: The same.
        users: See `Database.users`.
    """

    dialect = Dialect.POSTGRESQL

    def __init__(self, pool: PostgresPool) -> None:
        self.pool = pool
        self.users: UserRows = UsersHere(self)

    @property
    def parts(self) -> Sequence[PostgresDatabase]:
        """See `Database.parts`."""
        return (self,)

    def for_room(self, _room_id: str, /) -> PostgresDatabase:
        """See `Database.for_room`."""
        return self

    async def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Database.read`. Asked once more when the connection turns out to be dead."""
        return await self.fetch(translated(sql), *values)

    async def read_beside(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Database.read_beside`."""
        try:
            async with self.pool.connection() as connection, connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {int(BESIDE_S * 1_000)}")
                return [tuple(row) for row in await connection.fetch(translated(sql), *values, timeout=BESIDE_S + 2)]
        except (AnswerLost, TryAgain) as error:
            raise unavailable(error) from error

    async def fetch(self, sql: str, *values: object) -> list[Row]:
        """Return the rows of a query in PostgreSQL's own words."""
        for last in (False, True):
            try:
                async with self.pool.connection() as connection:
                    return [tuple(row) for row in await connection.fetch(sql, *values)]
            except (AnswerLost, TryAgain) as error:
                if last:
                    raise unavailable(error) from error
        raise AssertionError

    async def call(self, sql: str, *values: object) -> object:
        """Execute one statement that is a transaction by itself, in one round trip, and return its value.

        Raises:
            AnswerLost: It is not known whether it is stored.
            TryAgain: Nothing is stored.
            Unavailable: Nothing is stored.
            asyncpg.PostgresError: The server refused it; nothing is stored.
        """
        async with self.pool.connection() as connection:
            return await connection.fetchval(sql, *values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """See `Database.transaction`."""
        try:
            async with self.attempt() as transaction:
                yield transaction
        except (AnswerLost, TryAgain) as error:
            raise unavailable(error) from error

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[PostgresTransaction]:
        """Give a transaction, for those who want to know how it failed.

        Raises:
            AnswerLost: The connection was lost at the commit: it is not known whether it is stored.
            TryAgain: Nothing is stored, and it may be at once.
            Unavailable: Nothing is stored.
        """
        committing = False
        try:
            async with self.pool.connection() as connection:
                await connection.execute("BEGIN")
                try:
                    yield PostgresTransaction(connection)
                except GONE:
                    raise
                except Exception:
                    await connection.execute("ROLLBACK")
                    raise
                committing = True
                await connection.execute("COMMIT")
        except AnswerLost as error:
            if committing:
                raise
            raise TryAgain from error

    def erase_soon(self) -> None:
        """See `Database.erase_soon`. The files are PostgreSQL's: it writes over them when it vacuums."""

    async def erase(self) -> None:
        """See `Database.erase`."""

    async def backup(self, _target: Path, /) -> None:
        """See `Database.backup`."""
        raise Conflict(
            "The data is in PostgreSQL: copy it with pg_dump or pg_basebackup, and the folders keys/, tls/ and audit/ of the data"
            " folder with it. See docs/howto/postgresql.md."
        )

    async def close(self) -> None:
        """See `Database.close`. Waits for what is under way, but not for long."""
        await self.pool.close()


async def open_postgres(url: str, *, connections: int = 10) -> PostgresDatabase:
    """Connect, and bring the schema to this version.

    Args:
        url: `postgresql://user:password@host:port/database`.
        connections: How many there may be; at least 5, since a commit may read while it has one, and two may be under way.

    Raises:
        Shutdown: It does not answer, refuses us, loses commits in a power cut, or was made by a newer SecureChat.
    """
    return PostgresDatabase(await open_pool(url, connections=connections))


async def open_pool(url: str, *, connections: int) -> PostgresPool:
    """Give a pool of connections to a database whose schema is that of this version.

    Args:
        url: Where it is.
        connections: How many there may be; at least 5.

    Raises:
        Shutdown: It does not answer, refuses us, loses commits in a power cut, or was made by a newer SecureChat.
    """
    try:
        await migrate_postgres(url)
        return PostgresPool(url, max(5, connections))
    except (*NOT_NOW, asyncpg.PostgresError, ValueError) as error:
        raise Shutdown(f"The database does not take us: {_reason(error)}") from error


async def current_postgres(url: str) -> str | None:
    """Return the revision of a database, or None for an empty one.

    Raises:
        Shutdown: It does not answer, or refuses us.
    """
    try:
        connection = await asyncpg.connect(url, **OPTIONS)
        try:
            return await _revision(connection)
        finally:
            await connection.close(timeout=1)
    except (*NOT_NOW, asyncpg.PostgresError, ValueError) as error:
        raise Shutdown(f"The database does not take us: {_reason(error)}") from error


async def read_all(url: str, sql: str) -> list[Row]:
    """Return the rows of a query, for a program that is no server.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        connection = await asyncpg.connect(url, **OPTIONS)
        try:
            return [tuple(row) for row in await connection.fetch(sql, timeout=BESIDE_S)]
        finally:
            await connection.close(timeout=1)
    except (*NOT_NOW, asyncpg.PostgresError) as error:
        raise ValueError(f"The database cannot be read: {_reason(error)}") from error


async def _require_durable(connection: Any) -> None:
    """Refuse a database that answers before it has written: what SecureChat acknowledges is on the disk."""
    lost = [name for name in _DURABLE if await connection.fetchval("SELECT current_setting($1)", name) == "off"]
    if lost:
        raise Shutdown(f"PostgreSQL would lose messages in a power cut: {', '.join(lost)} is off. Switch it on in postgresql.conf.")


async def migrate_postgres(url: str) -> str | None:
    """Bring the schema to this version, one server at a time; return the revision that was there before.

    Servers of the release before may be at work. What waits for a lock on a table has everybody else wait behind it, so it gives up
    soon, lets them through, and tries again.

    Raises:
        Shutdown: It loses commits in a power cut, is of a version that this one does not know, or others never let it have the
            tables.
    """
    connection = await asyncpg.connect(url, **OPTIONS)
    try:
        await _require_durable(connection)
        have = await _revision(connection)
        if have == HEAD or await _serves(connection, have):
            return have
        for left in reversed(range(MIGRATE_TRIES)):
            try:
                return await _migrate(connection)
            except asyncpg.LockNotAvailableError as error:
                if not left:
                    raise Shutdown("The tables are in use all the time: migrate at a quieter hour.") from error
                log.info("the tables are in use, trying again")
                await asyncio.sleep(MIGRATE_PAUSE_S)
        raise AssertionError
    finally:
        await connection.close(timeout=1)


async def _migrate(connection: Any) -> str | None:
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(f"SELECT pg_advisory_xact_lock({MIGRATING})", timeout=600)
        have = await _revision(connection)
        require_known(have, "The database")
        if have != HEAD:
            text = await asyncio.get_running_loop().run_in_executor(None, statements, have)
            await connection.execute(f"SET LOCAL lock_timeout = {MIGRATE_LOCK_MS}")
            await connection.execute(text, timeout=3_600)
        return have


async def _serves(connection: Any, have: str | None) -> bool:
    """Return whether a newer schema still serves this version: it says which is the oldest one that it serves."""
    if have is None or have <= HEAD:
        return False
    oldest = await connection.fetchval("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")
    return oldest is not None and str(oldest).removeprefix(SERVES) <= HEAD


async def _revision(connection: Any) -> str | None:
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    found = await connection.fetchval("SELECT version_num FROM alembic_version")
    return None if found is None else str(found)


def _reason(error: BaseException) -> str:
    return f"{error}" or type(error).__name__


_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
COPY_OPTIONS: Final[dict[str, Any]] = {"timeout": CONNECT_S, "server_settings": {"application_name": "securechat-copy"}}
"""Of the connection that copies a whole database: it takes as long as it takes."""
