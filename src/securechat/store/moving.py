"""Move a bucket of rooms, or of what hangs off users, from one database to another while it is in use: see `handing_over`.

Every change of a room is an entry of its log, so a room whose `last_seq` is the one that was copied is the same; storage jobs,
which change texts in silence, rest meanwhile. Users: see `moving_users`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg

from securechat.errors import Conflict, Shutdown
from securechat.store.buckets import ABSENT, AWAY, USERS
from securechat.store.handing_over import ARRIVE, FEW, NOT_HERE, BucketMoved, HandOver, index
from securechat.store.moving_users import UserMove, clean_users
from securechat.store.postgres import COPY_OPTIONS
from securechat.store.session_locks import require_known

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
_TABLES: Final = ("entries", "reactions", "members", "room_keys", "reads", "storage_jobs")


class BucketMove(HandOver):
    """One move of one bucket of rooms."""

    def __init__(self, source: Any, target: Any, bucket: int, names: tuple[str, str]) -> None:
        super().__init__(source, target, bucket, names)
        self._same: dict[str, int] = {}
        """Room → `last_seq` up to which both have the same."""

    async def _prepare(self) -> None:
        await index(self._source, "rooms", "securechat_bucket", "id")

    async def _mark(self) -> None:
        """Have storage jobs rest, on both sides. What they did before is found by comparing everything anew."""
        self._same.clear()
        await super()._mark()
        await _require_no_job([self._source, self._target])  # From here on none does a step.

    async def _copy_rest(self) -> None:
        for room_id, last_seq in await self._rooms():
            if self._same.get(room_id) != last_seq:
                await self._take(room_id)
        await self._take_reads()
        await self._require_same_rooms()

    async def _clean(self) -> None:
        await clean(self._source, self._bucket)

    def _moved(self) -> BucketMoved:
        rooms, entries = len(self._same), sum(self._same.values())
        pause_ms = round(self._pause_s * 1_000)
        return BucketMoved(self._bucket, *self._names, "rooms", rooms=rooms, entries=entries, pause_ms=pause_ms)

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


async def clean(connection: Any, bucket: int) -> None:
    """Delete what a bucket left behind in a database that it is not in. May be done again."""
    if bucket >= USERS:
        await clean_users(connection, bucket)
        return
    for room_id, _ in await connection.fetch(_ROOMS, bucket):
        async with connection.transaction():
            if not await connection.fetchval(NOT_HERE, bucket):
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
        bucket: Which one: 0–255 of rooms, 256–511 of users.
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
        await require_known(home, len(urls) - 1, users=bucket >= USERS)
        if bucket >= USERS:
            await home.execute("COMMENT ON TABLE alembic_version IS 'serves 0011'")  # Older ones would look for users at home.
            await require_known(home, len(urls) - 1, users=True)  # Who looked at the schema before that is there by now.
        else:
            await _require_no_job(connections.values())
        here = await _owner(connections, bucket)
        for name, connection in connections.items():
            if name not in {here, to}:
                await clean(connection, bucket)
        if here != to:
            await connections[to].execute(
                "UPDATE buckets SET state = 'absent', shard = '' WHERE bucket = $1 AND state = 'away'", bucket
            )  # fmt: skip
            kind = UserMove if bucket >= USERS else BucketMove
            return await kind(connections[here], connections[to], bucket, (here, to)).run()
        for name, connection in connections.items():
            if name != to:
                await clean(connection, bucket)
        return BucketMoved(bucket % USERS, here, to, "users" if bucket >= USERS else "rooms")
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
            await connections[here[0]].execute(ARRIVE, bucket)
    if len(here) != 1:
        raise Conflict(f"Bucket {bucket} is in {len(here)} databases: {', '.join(here) or 'none'}.")
    return str(here[0])
