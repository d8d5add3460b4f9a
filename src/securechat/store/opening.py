"""Open the database that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from securechat.domain.ports import LogStore
from securechat.errors import Shutdown
from securechat.program import program
from securechat.store.audit import SqlAudit
from securechat.store.database import Database
from securechat.store.log import SqliteLog
from securechat.store.migrate import migrate
from securechat.store.sealing import Sealing
from securechat.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from securechat.store.postgres_pool import PostgresPool

HOME_DEPENDENCY: Final = "database"
"""What the first database is called where dependencies are listed."""
MARK: Final = "database-elsewhere"
"""File in the data folder that says so: nobody shall begin anew in SQLite because a setting was forgotten."""


async def open_database(
    url: str, path: Path, *, connections: int = 10, shards: Mapping[str, str] = MappingProxyType({})
) -> Database:
    """Open a database with the schema of this version.

    Args:
        url: `postgresql://…`; empty for SQLite.
        path: SQLite's file.
        connections: To PostgreSQL, at most, each.
        shards: Name → address of each further database that rooms may live in.

    Raises:
        Shutdown: It cannot be opened.
    """
    _require_one(url, path)
    if not url:
        migrate(path)
        return SqliteDatabase(path)
    # The driver takes memory, and few servers need it.
    from securechat.store.postgres import open_postgres  # noqa: PLC0415
    from securechat.store.shards import open_sharded  # noqa: PLC0415

    database = await open_sharded(await open_postgres(url, connections=connections), shards, connections=connections)
    path.with_name(MARK).write_text("The data of this server is in PostgreSQL: setting database_url.\n")
    return database


def _require_one(url: str, path: Path) -> None:
    """Refuse to guess where the data is."""
    mark = path.with_name(MARK)
    if not url and mark.exists():
        raise Shutdown(f"{mark} says that the data is in PostgreSQL: give database_url, or SECURECHAT_DATABASE_URL.")
    if url and path.exists() and not mark.exists():
        raise Shutdown(f"database_url is set, and {path} is there too. Copy it ({program()} db copy), then move it away.")


def pools_of(database: Database) -> dict[str, PostgresPool]:
    """Return the connections to each PostgreSQL, by what an operator calls it: home is `database`."""
    if isinstance(database, SqliteDatabase):
        return {}
    from securechat.store.postgres import PostgresDatabase  # noqa: PLC0415
    from securechat.store.shards import ShardedDatabase  # noqa: PLC0415

    if isinstance(database, ShardedDatabase):
        names = [HOME_DEPENDENCY, *(f"database {name}" for name in database.names[1:])]
        return {name: part.pool for name, part in zip(names, database.parts, strict=True)}
    if not isinstance(database, PostgresDatabase):
        raise TypeError(database)
    return {HOME_DEPENDENCY: database.pool}


def open_log(database: Database, audit: SqlAudit, sealing: Sealing) -> LogStore:
    """Return the log of a database, in the way that suits it."""
    if isinstance(database, SqliteDatabase):
        return SqliteLog(database, audit, sealing)
    from securechat.store.postgres import PostgresDatabase  # noqa: PLC0415
    from securechat.store.postgres_log import PostgresLog  # noqa: PLC0415
    from securechat.store.sharded_log import ShardedLog  # noqa: PLC0415
    from securechat.store.shards import ShardedDatabase  # noqa: PLC0415

    if isinstance(database, ShardedDatabase):
        return ShardedLog(database, audit, sealing)
    if not isinstance(database, PostgresDatabase):
        raise TypeError(database)
    return PostgresLog(database, audit, sealing)
