"""Move a bucket of rooms from one database to another while it is in use.

    copy      everything, room by room, as long as much has changed meanwhile; compared as it is copied
    fence     nobody writes to the bucket: a row that ends by itself, so that a mover that dies holds nobody up
    finish    what changed since; compared again
    let go    one row of the source says that the bucket is away: from then on it is the target's, whatever happens
    arrive    the target takes it; any server does that, too, that finds it on the way
    clean     the source deletes what it had

Every change of a room is an entry of its log, so a room whose `last_seq` is the one that was copied is the same; storage jobs,
which change texts in silence, rest meanwhile. Begun again, a move goes on: what the target has is compared, and only the rest is
copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
import msgspec

from securechat.errors import Conflict, Shutdown
from securechat.store.buckets import ABSENT, AWAY, MOVING
from securechat.store.postgres import COPY_OPTIONS
from securechat.store.session_locks import require_known

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
"""Rooms that may be left to finish behind the fence."""
ROWS: Final = 5_000
OWNER: Final = 0x5EC_C4A8
"""First key of the advisory lock of who moves a bucket; the second one is the bucket."""

_ROOMS: Final = "SELECT id, last_seq FROM rooms WHERE securechat_bucket(id) = $1 AND kind <> '' ORDER BY id"
_TOUCHED: Final = "SELECT DISTINCT target FROM entries WHERE room_id = $1 AND seq > $2 AND target IS NOT NULL"
_ERASED: Final = "SELECT EXISTS (SELECT 1 FROM entries WHERE room_id = $1 AND seq > $2 AND type = 'room.erased')"
_SMALL: Final = ("members", "room_keys", "storage_jobs")
_PART: Final = {
    "entries": "room_id = $1 AND (seq > $2 OR seq = ANY ($3::bigint[]) OR target = ANY ($3::bigint[]))",
    "reactions": "room_id = $1 AND (seq > $2 OR seq = ANY ($3::bigint[]))",
}
"""What may be different since `seq` $2, where $3 are the messages that something happened to."""
_READS: Final = "SELECT room_id, user_id, read_seq FROM reads WHERE room_id = ANY ($1::text[])"
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
_ARRIVE: Final = "DELETE FROM buckets WHERE bucket = $1 AND state = 'absent'"
_NOT_HERE: Final = "SELECT 1 FROM buckets WHERE bucket = $1 AND state IN ('away', 'absent') FOR SHARE"
_TABLES: Final = ("entries", "reactions", "members", "room_keys", "reads", "storage_jobs")


class BucketMoved(msgspec.Struct, omit_defaults=True):
    """What a move did.

    Attributes:
        pause_ms: How long nobody could write to the bucket.
    """

    bucket: int
    source: str
    target: str
    rooms: int = 0
    entries: int = 0
    pause_ms: int = 0


class _Lapsed(Exception):
    """The mark or the fence ended before what it guards was done: it is done again."""


class BucketMove:
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
        self._same: dict[str, int] = {}
        """Room → `last_seq` up to which both have the same."""
        self._pause_s = 0.0
        self._known_columns: dict[str, list[str]] = {}

    async def run(self) -> BucketMoved:
        """Do all of it.

        Raises:
            Conflict: The two never are the same; the bucket stays where it is.
        """
        await _index(self._source)
        try:
            await self._hand_over()
        except BaseException:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._source.execute(_UNMARK, self._bucket)
            raise
        await clean(self._source, self._bucket)
        return BucketMoved(self._bucket, *self._names, len(self._same), sum(self._same.values()), round(self._pause_s * 1_000))

    async def _hand_over(self) -> None:
        for _ in range(FENCES):
            try:
                await self._mark()
                await self._copy()
                await self._fence()
                await self._finish()
            except _Lapsed:
                continue
            return
        raise Conflict(f"Bucket {self._bucket} changes faster than it is copied: move it at a quieter hour.")

    # ── the bucket's row ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _mark(self) -> None:
        """Have storage jobs rest, on both sides. What they did before is found by comparing everything anew."""
        self._same.clear()
        async with _alone(self._source):
            await self._source.execute(_MARK, self._bucket, self._names[1], MARK_S)
        async with _alone(self._target):
            await self._target.execute(_EXPECT, self._bucket, MARK_S)
        await _require_no_job([self._source, self._target])  # From here on none does a step.

    async def _go_on(self) -> None:
        for connection, state in ((self._source, MOVING), (self._target, ABSENT)):
            if not await connection.fetchval(_EXTEND, self._bucket, state, MARK_S):
                raise _Lapsed

    async def _fence(self) -> None:
        async with _alone(self._source):
            if not await self._source.fetchval(_FENCE, self._bucket, FENCE_S):
                raise _Lapsed

    async def _finish(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(FENCE_S):
                for room_id, last_seq in await self._rooms():
                    if self._same.get(room_id) != last_seq:
                        await self._take(room_id)
                await self._take_reads()
                await self._require_same_rooms()
        except TimeoutError:
            raise _Lapsed from None
        if not await self._target.fetchval(_EXTEND, self._bucket, ABSENT, MARK_S):
            raise _Lapsed
        async with _alone(self._source):
            if not await self._source.fetchval(_LET_GO, self._bucket):
                raise _Lapsed
        await self._target.execute(_ARRIVE, self._bucket)
        self._pause_s = asyncio.get_running_loop().time() - began

    # ── rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _rooms(self) -> list[tuple[str, int]]:
        return [(row[0], row[1]) for row in await self._source.fetch(_ROOMS, self._bucket)]

    async def _copy(self) -> None:
        """Copy until little is left, or it does not get less."""
        before = None
        while True:
            await self._go_on()
            rooms = await self._rooms()
            changed = [room_id for room_id, last_seq in rooms if self._same.get(room_id) != last_seq]
            if not rooms or (before is not None and (len(changed) <= FEW or len(changed) >= before)):
                return
            for room_id in changed:
                await self._go_on()
                await self._take(room_id)
            await self._take_reads()
            before = len(changed)

    async def _take(self, room_id: str) -> None:
        """Have a room at the target as it is at one moment at the source."""
        async with self._source.transaction(isolation="repeatable_read", readonly=True):
            last_seq = await self._source.fetchval("SELECT last_seq FROM rooms WHERE id = $1", room_id)
            known = self._same.get(room_id)
            since = known if known is not None else await self._target.fetchval("SELECT last_seq FROM rooms WHERE id = $1", room_id)
            for after in (since or 0, 0):
                if after and await self._source.fetchval(_ERASED, room_id, after):
                    continue
                if await self._try(room_id, after, known if after else None):
                    self._same[room_id] = last_seq
                    return
        raise Conflict(f"{room_id} is not the same after copying it: it stays where it is.")

    async def _try(self, room_id: str, after: int, known: int | None) -> bool:
        """Copy what is newer, and what of the rest was touched; return whether both are the same then.

        Args:
            room_id: The room.
            after: The target has what is not newer than this.
            known: Up to where that was compared already; None if everything has to be.
        """
        touched = [row[0] for row in await self._source.fetch(_TOUCHED, room_id, after)] if after else []
        part = (room_id, after, touched)
        whole = (room_id, 0 if known is None else after, [] if known is None else touched)
        transaction = self._target.transaction()
        await transaction.start()
        try:
            for table, where in _PART.items():
                await self._replace(table, where, part)
            for table in _SMALL:
                await self._replace(table, "room_id = $1", (room_id,))
            await self._replace("rooms", "id = $1", (room_id,))
            same = True
            for table, where in _PART.items():
                same = same and await self._digests_agree(table, where, whole)
            for table, where in [*((table, "room_id = $1") for table in _SMALL), ("rooms", "id = $1")]:
                same = same and await self._digests_agree(table, where, (room_id,))
        except BaseException:
            await transaction.rollback()
            raise
        if same:
            await transaction.commit()
        else:
            await transaction.rollback()
        return same

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
        columns = ", ".join(await self._columns(table))
        sql = f"SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0) FROM {table} WHERE {where}"  # nosec B608 - ours
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

    async def _take_reads(self) -> None:
        """Have the read markers at the target: they move without an entry."""
        rooms = [room_id for room_id, _ in await self._rooms()]
        here = {tuple(row) for row in await self._source.fetch(_READS, rooms)}
        there = {tuple(row) for row in await self._target.fetch(_READS, rooms)}
        async with self._target.transaction():
            await self._target.executemany(
                "DELETE FROM reads WHERE room_id = $1 AND user_id = $2", [row[:2] for row in there - here]
            )  # fmt: skip
            await self._target.executemany(
                "INSERT INTO reads (room_id, user_id, read_seq) VALUES ($1, $2, $3)", sorted(here - there)
            )  # fmt: skip

    async def _require_same_rooms(self) -> None:
        here, there = await self._source.fetch(_ROOMS, self._bucket), await self._target.fetch(_ROOMS, self._bucket)
        if here != there:
            raise Conflict(f"Bucket {self._bucket} has other rooms after copying: it stays where it is.")


@asynccontextmanager
async def _alone(connection: Any) -> AsyncIterator[None]:
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


async def clean(connection: Any, bucket: int) -> None:
    """Delete what a bucket left behind in a database that it is not in. May be done again."""
    for room_id, _ in await connection.fetch(_ROOMS, bucket):
        async with connection.transaction():
            if not await connection.fetchval(_NOT_HERE, bucket):
                raise Conflict(f"Bucket {bucket} is here: nothing of it is deleted.")
            for table in _TABLES:
                await connection.execute(f"DELETE FROM {table} WHERE room_id = $1", room_id)  # nosec B608 - our own names
            await connection.execute("DELETE FROM rooms WHERE id = $1", room_id)
    await connection.execute(
        "UPDATE buckets SET state = 'absent', shard = '', until = NULL WHERE bucket = $1 AND state = 'away'", bucket
    )


async def move(urls: Mapping[str, str], bucket: int, to: str) -> BucketMoved:
    """Move a bucket, or go on with that; clean up if it is there already.

    Args:
        urls: Name → address of every database; home is the first.
        bucket: Which one.
        to: Where it shall be.

    Raises:
        Conflict: Somebody else moves it, a server does not know of all databases, a job is under way, or it cannot be copied.
        Shutdown: A database does not answer.
    """
    connections: dict[str, Any] = {}
    try:
        for name, url in urls.items():
            connections[name] = await asyncpg.connect(url, **COPY_OPTIONS)
        home = next(iter(connections.values()))
        if not await home.fetchval("SELECT pg_try_advisory_lock($1::int, $2::int)", OWNER, bucket):  # Let go with the connection.
            raise Conflict(f"Somebody else moves bucket {bucket}.")
        await require_known(home, len(urls) - 1)
        await _require_no_job(connections.values())
        here = await _owner(connections, bucket)
        for name, connection in connections.items():
            if name not in {here, to}:
                await clean(connection, bucket)
        if here != to:
            await connections[to].execute(
                "UPDATE buckets SET state = 'absent', shard = '' WHERE bucket = $1 AND state = 'away'", bucket
            )  # fmt: skip
            return await BucketMove(connections[here], connections[to], bucket, (here, to)).run()
        for name, connection in connections.items():
            if name != to:
                await clean(connection, bucket)
        return BucketMoved(bucket, here, to)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Shutdown(f"The move of bucket {bucket} was interrupted, begin it again: {error}") from error
    finally:
        for connection in connections.values():
            await connection.close(timeout=5)


async def _require_no_job(connections: Iterable[Any]) -> None:
    """Refuse to move what a job is changing: at the target it may be past the rooms that come."""
    for connection in connections:
        if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM storage_jobs WHERE finished_at IS NULL AND kind <> 'erase')"):
            raise Conflict("A storage job is under way. Wait until it is finished: securechat storage status")


async def _owner(connections: Mapping[str, Any], bucket: int) -> str:
    """Return where a bucket is; one that was let go of arrives now."""
    said = {
        name: await each.fetchrow("SELECT state, shard FROM buckets WHERE bucket = $1", bucket)
        for name, each in connections.items()
    }
    here = [name for name, row in said.items() if row is None or row["state"] not in {AWAY, ABSENT}]
    if not here:
        here = [
            row["shard"]
            for row in said.values()
            if row is not None and row["state"] == AWAY and row["shard"] in said and said[row["shard"]]["state"] == ABSENT
        ]
        if here:
            await connections[here[0]].execute(_ARRIVE, bucket)
    if len(here) != 1:
        raise Conflict(f"Bucket {bucket} is in {len(here)} databases: {', '.join(here) or 'none'}.")
    return str(here[0])


async def _index(connection: Any) -> None:
    """Have the rooms of a bucket found without reading all rooms; made beside whoever writes."""
    for row in await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'rooms'::regclass"):
        name = f"{row[0]}_bucket"
        await connection.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {row[0]} (securechat_bucket(id))")
