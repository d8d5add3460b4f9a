"""Hand a bucket over from one database to another while it is in use: what rooms and users have in common.

    copy      everything, as long as much has changed meanwhile; compared as it is copied
    fence     nobody writes to the bucket: a row that ends by itself, so that a mover that dies holds nobody up
    finish    what changed since; compared again
    let go    one row of the source says that the bucket is away: from then on it is the target's, whatever happens
    arrive    the target takes it; any server does that, too, that finds it on the way
    clean     the source deletes what it had

Begun again, a move goes on: what the target has is compared, and only the rest is copied.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
import msgspec

from securechat.errors import Conflict
from securechat.store.buckets import ABSENT, MOVING

MARK_S: Final = 60.0
"""How long storage jobs rest for a move that does not say any more that it goes on."""
FENCE_S: Final = 5.0
"""The longest that nobody writes: past it, the fence is down, and the move tries again."""
LOCK_MS: Final = 500
LOCK_TRIES: Final = 40
LOCK_PAUSE_S: Final = 0.25
FENCES: Final = 10
"""How often a move tries to finish behind a fence."""
FEW: Final = 20
"""Rooms, or slices of users, that may be left to finish behind the fence."""
ROWS: Final = 5_000

_MARK: Final = (
    "INSERT INTO buckets (bucket, state, shard, until) VALUES ($1, 'moving', $2, clock_timestamp() + $3 * interval '1 s')"
    " ON CONFLICT (bucket) DO UPDATE SET state = excluded.state, shard = excluded.shard, until = excluded.until"
    " WHERE buckets.state IN ('moving', 'fenced')"
)
_UNMARK: Final = "DELETE FROM buckets WHERE bucket = $1 AND state IN ('moving', 'fenced')"
_EXPECT: Final = "UPDATE buckets SET until = clock_timestamp() + $2 * interval '1 s' WHERE bucket = $1 AND state = 'absent'"
_EXTEND: Final = (
    "UPDATE buckets SET until = clock_timestamp() + $3 * interval '1 s'"
    " WHERE bucket = $1 AND state = $2 AND until > clock_timestamp() RETURNING 1"
)
_FENCE: Final = (
    "UPDATE buckets SET state = 'fenced', until = clock_timestamp() + $2 * interval '1 s'"
    " WHERE bucket = $1 AND state = 'moving' AND until > clock_timestamp() RETURNING 1"
)
_LET_GO: Final = (
    "UPDATE buckets SET state = 'away', until = NULL"
    " WHERE bucket = $1 AND state = 'fenced' AND until > clock_timestamp() RETURNING 1"
)
ARRIVE: Final = "DELETE FROM buckets WHERE bucket = $1 AND state = 'absent'"
NOT_HERE: Final = "SELECT 1 FROM buckets WHERE bucket = $1 AND state IN ('away', 'absent') FOR SHARE"
"""Held until the transaction ends."""


class BucketMoved(msgspec.Struct, omit_defaults=True):
    """What a move did.

    Attributes:
        bucket: Its number, 0–255.
        of: What of it: `rooms` or `users`.
        rooms: How many rooms moved.
        entries: How many entries of their logs did.
        rows: How many rows of users moved: devices and the like.
        pause_ms: How long nobody could write to the bucket.
    """

    bucket: int
    source: str
    target: str
    of: str
    rooms: int = 0
    entries: int = 0
    rows: int = 0
    pause_ms: int = 0


class Lapsed(Exception):
    """The mark or the fence ended before what it guards was done: it is done again."""


class HandOver(ABC):
    """One move of one bucket.

    Args:
        source: Connection to where it is.
        target: Connection to where it shall be.
        bucket: Its number.
        names: (source, target).
    """

    def __init__(self, source: Any, target: Any, bucket: int, names: tuple[str, str]) -> None:
        self._source = source
        self._target = target
        self._bucket = bucket
        self._names = names
        self._pause_s = 0.0
        self._known_columns: dict[str, list[str]] = {}

    async def run(self) -> BucketMoved:
        """Do all of it.

        Raises:
            Conflict: The two never are the same; the bucket stays where it is.
        """
        await self._prepare()
        try:
            await self._hand_over()
        except BaseException:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._source.execute(_UNMARK, self._bucket)
            raise
        await self._clean()
        return self._moved()

    @abstractmethod
    async def _prepare(self) -> None:
        """Do what is to be done once, before."""

    @abstractmethod
    async def _copy(self) -> None:
        """Copy until little is left, or it does not get less."""

    @abstractmethod
    async def _copy_rest(self) -> None:
        """Copy what is left, with nobody writing; raise `Conflict` if the two are not the same then."""

    @abstractmethod
    async def _clean(self) -> None:
        """Delete what is left behind."""

    @abstractmethod
    def _moved(self) -> BucketMoved:
        """Tell what was done."""

    async def _hand_over(self) -> None:
        for _ in range(FENCES):
            try:
                await self._mark()
                await self._copy()
                await self._fence()
                await self._finish()
            except Lapsed:
                continue
            return
        raise Conflict(f"Bucket {self._bucket} changes faster than it is copied: move it at a quieter hour.")

    async def _mark(self) -> None:
        """Say that the bucket is being moved, on both sides."""
        async with alone(self._source):
            await self._source.execute(_MARK, self._bucket, self._names[1], MARK_S)
        async with alone(self._target):
            await self._target.execute(_EXPECT, self._bucket, MARK_S)

    async def _go_on(self) -> None:
        for connection, state in ((self._source, MOVING), (self._target, ABSENT)):
            if not await connection.fetchval(_EXTEND, self._bucket, state, MARK_S):
                raise Lapsed

    async def _fence(self) -> None:
        async with alone(self._source):
            if not await self._source.fetchval(_FENCE, self._bucket, FENCE_S):
                raise Lapsed

    async def _finish(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(FENCE_S):
                await self._copy_rest()
        except TimeoutError:
            raise Lapsed from None
        if not await self._target.fetchval(_EXTEND, self._bucket, ABSENT, MARK_S):
            raise Lapsed
        async with alone(self._source):
            if not await self._source.fetchval(_LET_GO, self._bucket):
                raise Lapsed
        await self._target.execute(ARRIVE, self._bucket)
        self._pause_s = asyncio.get_running_loop().time() - began

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _replace(self, table: str, where: str, values: Sequence[object]) -> None:
        columns = await self._columns(table)
        await self._target.execute(f"DELETE FROM {table} WHERE {where}", *values)  # nosec B608 - our own names
        rows: list[tuple[object, ...]] = []
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {where}"  # nosec B608 - our own names
        async for row in self._source.cursor(sql, *values, prefetch=ROWS):
            rows.append(tuple(row))
            if len(rows) == ROWS:
                await self._target.copy_records_to_table(table, records=rows, columns=columns)
                rows.clear()
        if rows:
            await self._target.copy_records_to_table(table, records=rows, columns=columns)

    async def _digests_agree(self, table: str, where: str, values: Sequence[object]) -> bool:
        sql = f"SELECT {digest(await self._columns(table))} FROM {table} WHERE {where}"  # nosec B608 - ours
        here, there = await self._source.fetchrow(sql, *values), await self._target.fetchrow(sql, *values)
        return bool(here == there)

    async def _columns(self, table: str) -> list[str]:
        """Return the columns that go along, in one order; the number of a job is its database's own."""
        if table not in self._known_columns:
            sql = (
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            )
            rows = await self._source.fetch(sql, table)
            self._known_columns[table] = [row[0] for row in rows if (table, row[0]) != ("storage_jobs", "id")]
        return self._known_columns[table]


def digest(columns: Sequence[str]) -> str:
    """Return the columns (count, digest) of rows, in whatever order they come."""
    return f"count(*), coalesce(bit_xor(hashtextextended(ROW({', '.join(columns)})::text, 0)), 0)"


@asynccontextmanager
async def alone(connection: Any) -> AsyncIterator[None]:
    """Hold the buckets of a database alone: every transaction that read them has ended."""
    for left in reversed(range(LOCK_TRIES)):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
                await connection.execute("LOCK TABLE buckets IN ACCESS EXCLUSIVE MODE")
                yield
        except asyncpg.LockNotAvailableError:
            if not left:
                raise Conflict("There is always somebody who writes for long: move it at a quieter hour.") from None
            await asyncio.sleep(LOCK_PAUSE_S)
        else:
            return


async def index(connection: Any, table: str, function: str, column: str) -> None:
    """Have the rows of a bucket found without reading all of a table; made beside whoever writes.

    Args:
        connection: To the database.
        table: A partitioned one.
        function: Of the column, as it stands in queries.
        column: What the table is spread by.
    """
    name = function.removeprefix("securechat_")
    sql = (
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = $1::regclass AND to_regclass(inhrelid::regclass::text || $2) IS NULL"
    )
    for row in await connection.fetch(sql, table, f"_{name}"):
        await connection.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {row[0]}_{name} ON {row[0]} ({function}({column}))"
        )  # fmt: skip
