"""Copy a whole SQLite database to an empty PostgreSQL one, and compare the two row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import asyncpg
import msgspec

from securechat.errors import Conflict, Shutdown
from securechat.store.database import Row
from securechat.store.migrate import HEAD, current
from securechat.store.postgres import COPY_OPTIONS, migrate_postgres

ROWS: Final = 5_000
"""Copied at a time."""
ROOMS_TOLD: Final = 5
"""Rooms that a refusal names."""
TABLES: Final = (
    "settings", "org_keys", "users", "devices", "invites", "links", "blocks", "commands", "totp", "passkeys", "externals",
    "recovery_codes", "apps", "codes", "rooms", "members", "reads", "room_keys", "entries", "reactions", "audit", "storage_jobs",
    "subscriptions", "dead_letters",
)  # fmt: skip
"""Every table but `names`, which follows from the others. A test compares it with the schema."""
BY_ROOM: Final = frozenset({"entries", "members", "reactions", "room_keys"})
_NAMES: Final = (
    "INSERT INTO names (kind, key, owner) SELECT 'username', username, id FROM users"
    " UNION ALL SELECT 'passkey', id, user_id FROM passkeys"
    " UNION ALL SELECT 'external', issuer || ' ' || subject, user_id FROM externals"
    " UNION ALL SELECT 'room', name_key, id FROM rooms WHERE kind = 'public'"
)
_LAST: Final = "UPDATE rooms r SET last_seq = (SELECT coalesce(max(seq), 0) FROM entries e WHERE e.room_id = r.id)"
_NEXT_JOB: Final = (
    "SELECT setval(pg_get_serial_sequence('storage_jobs', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM storage_jobs), false)"
)


class TableCopied(msgspec.Struct):
    """What became of one table: rows and SHA-256 over all rows in the order of the key, on each side.

    Attributes:
        rooms: Room → whether its rows are the same, for tables of rooms; only those that are not.
    """

    table: str
    rows: int
    there: int
    sha256: str
    sha256_there: str
    rooms: dict[str, str] = {}

    @property
    def same(self) -> bool:
        """Whether both sides hold the same."""
        return (self.rows, self.sha256) == (self.there, self.sha256_there)


async def copy_database(path: Path, url: str) -> list[TableCopied]:
    """Copy everything in one transaction: all of it is there afterwards, or nothing.

    Args:
        path: The SQLite file, which no server uses.
        url: Of the PostgreSQL database.

    Raises:
        Shutdown: The file is of another version, or PostgreSQL does not take it.
        Conflict: There is something in the target, or the two are not the same: then nothing is in the target.
    """
    if current(path) != HEAD:
        raise Shutdown(f"{path} has another schema than this version: start the server once with it.")
    source = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        await migrate_postgres(url)
        target = await asyncpg.connect(url, **COPY_OPTIONS)
        try:
            async with target.transaction():
                return await _copy(source, target)
        finally:
            await target.close(timeout=5)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Shutdown(f"The database does not take it: {error}") from error
    finally:
        source.close()


async def _copy(source: apsw.Connection, target: Any) -> list[TableCopied]:
    for table in TABLES:
        if await target.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):
            raise Conflict(f"The target is not empty: there is something in {table}.")
    source.execute("BEGIN")
    found = []
    for table in TABLES:
        columns = [row[1] for row in source.execute(f"PRAGMA table_info({table})")]
        wanted = ", ".join(columns)
        for rows in _batches(source.execute(f"SELECT {wanted} FROM {table}")):  # nosec B608 - our own names
            await target.copy_records_to_table(table, records=rows, columns=columns)
        found.append(await _compare(source, target, table, columns))
    await target.execute(_NAMES)
    await target.execute(_LAST)
    await target.execute(_NEXT_JOB)
    different = [_difference(each) for each in found if not each.same]
    if different:
        raise Conflict(f"Not the same after copying: {'; '.join(different)}. Nothing was kept.")
    return found


def _difference(table: TableCopied) -> str:
    rooms = list(table.rooms)
    told = f" in {', '.join(rooms[:ROOMS_TOLD])}" if rooms else ""
    more = f" and {len(rooms) - ROOMS_TOLD} rooms more" if len(rooms) > ROOMS_TOLD else ""
    return f"{table.table} ({table.rows} rows, {table.there} there){told}{more}"


async def _compare(source: apsw.Connection, target: Any, table: str, columns: list[str]) -> TableCopied:
    keys = await target.fetch(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
        " WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)",
        table,
    )
    sql = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(row[0] for row in keys)}"
    here, there = _Digest(table, columns), _Digest(table, columns)
    for row in source.execute(sql):
        here.add(row)
    async for record in target.cursor(sql, prefetch=ROWS):
        there.add(tuple(record))
    here.end()
    there.end()
    rooms = here.rooms.keys() | there.rooms.keys()
    return TableCopied(
        table, here.rows, there.rows, here.all.hexdigest(), there.all.hexdigest(),
        {room: "differs" for room in sorted(rooms) if here.rooms.get(room) != there.rooms.get(room)},
    )  # fmt: skip


class _Digest:
    """SHA-256 over the rows of a table, and over those of each room."""

    def __init__(self, table: str, columns: list[str]) -> None:
        self._room = columns.index("room_id") if table in BY_ROOM else None
        self._now = ""
        self._part = hashlib.sha256()
        self.rooms: dict[str, str] = {}
        self.rows = 0
        self.all = hashlib.sha256()

    def add(self, row: Row) -> None:
        """Take the next row, in the order of the key."""
        data = repr(row).encode()
        self.rows += 1
        self.all.update(data)
        if self._room is not None:
            if row[self._room] != self._now:
                self.end()
                self._now = row[self._room]
            self._part.update(data)

    def end(self) -> None:
        """Close the part of a room."""
        if self._now:
            self.rooms[self._now] = self._part.hexdigest()
        self._part = hashlib.sha256()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    found = []
    for row in rows:
        found.append(row)
        if len(found) == ROWS:
            yield found
            found = []
    if found:
        yield found
