"""ShardedLog: the log of rooms that live in several databases.

A lane for each database: what is committed together is in one transaction of one of them. What would need two is ordered instead:

- *names of public rooms* are at home. They are claimed before the room's transaction ends, while it holds the room; what is claimed
  in vain is given back, or taken from a room that has another name by who wants it next.
- *the audit log* is at home, too. Its events are stored with the entry they tell of, and then taken into it, once.

Every read finds out whether the room is in the database that was asked, as it was at that moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from securechat.domain.accounts import User
from securechat.domain.commands import Rooms, RoomSummary
from securechat.domain.entries import EntryType, Page
from securechat.domain.ports import LogTransaction, Moved, RoomBatch
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Unavailable
from securechat.store.audit import SqlAudit
from securechat.store.buckets import BUCKETS, GONE, PAUSE_S, WAIT_S, Elsewhere, bucket_of
from securechat.store.database import Duplicate, Row
from securechat.store.log_reads import by_user
from securechat.store.names import claim_free
from securechat.store.postgres import PostgresDatabase, PostgresTransaction
from securechat.store.postgres_log import PostgresLog
from securechat.store.postgres_pool import RETRY_MS
from securechat.store.postgres_sql import SUMMARY
from securechat.store.postgres_work import Locked
from securechat.store.rows import name_key, permissions_of, to_user
from securechat.store.sealing import Sealing
from securechat.store.shards import ShardedDatabase

T = TypeVar("T")

log = logging.getLogger(__name__)

NAME_WAIT_MS: Final = 500
"""How long a commit waits for a room that has a name it wants. Two may want each other's, in two databases: neither sees that."""

_PEER: Final = (
    " CASE WHEN r.kind = 'direct' THEN (SELECT p.user_id FROM members p"
    " WHERE p.room_id = r.id AND p.user_id <> coalesce(m.user_id, '') LIMIT 1) END AS peer"
)
_JOINS: Final = (
    "LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1 LEFT JOIN reads d ON d.user_id = $1 AND d.room_id = r.id"
)
_SHARD_SUMMARY: Final = f"{SUMMARY},{_PEER} FROM rooms r {_JOINS}"
_HEADS: Final = f"{_SHARD_SUMMARY} WHERE m.user_id IS NOT NULL AND r.id IN (SELECT room_id FROM members WHERE user_id = $1)"
_BROWSE: Final = (
    f"{_SHARD_SUMMARY} WHERE r.kind = 'public' AND r.name_key >= $2 AND substr(r.name_key, 1, $3) = $2 AND r.name_key > $4"
    " ORDER BY r.name_key LIMIT $5"
)
_LOOKUP: Final = (
    "SELECT r.id, r.name <> $2 AS other, m.user_id IS NULL AS stranger, r.created_at FROM rooms r"
    " LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1"
    " WHERE r.name_key = $3 AND (m.user_id IS NOT NULL OR r.kind = 'public')"
)
_ROOMS_OF: Final = "SELECT room_id FROM members WHERE user_id = $1"
_NEWEST: Final = "SELECT id, 0, 0, 0, last_seq FROM rooms WHERE id = ANY ($1::text[])"
"""`last_seq` stands where it stands in a summary: of a room that two databases had, `_newest` takes the right one."""
_MEMBERS_OF: Final = "SELECT room_id, array_agg(user_id) FROM members WHERE user_id = ANY ($1::text[]) GROUP BY room_id"
_EVERYWHERE: Final = f"SELECT g.gone, q.* FROM ({GONE}) AS g LEFT JOIN (QUERY) AS q ON true"
"""The rows of a query, each after the buckets that are not in this database at that moment: at least one row of that."""
_USERS: Final = "SELECT id, username, display_name, role, disabled_at FROM users WHERE id = ANY ($1::text[])"
_NAME_OF: Final = "SELECT kind, name_key FROM rooms WHERE id = $1 FOR UPDATE"
_HOLD: Final = (
    "INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES ($1, '', '', '', '', 0) ON CONFLICT DO NOTHING"
)


class ShardLog(PostgresLog):
    """The log of the rooms of one database.

    Args:
        shards: All databases.
        number: Which of them.
        audit: The audit log, at home.
        sealing: Seals and opens texts.
    """

    lanes = 1
    _is_shard = True

    def __init__(self, shards: ShardedDatabase, number: int, audit: SqlAudit, sealing: Sealing) -> None:
        super().__init__(shards.parts[number], audit, sealing)
        self._shards = shards
        self._at_home = number == 0

    async def _finish(self, transaction: PostgresTransaction, tried: Locked) -> None:
        """See `PostgresLog._finish`. The names come last: whoever sees one claimed finds its room locked until this is decided."""
        if tried.recorded:
            transaction.away = not self._at_home
            await self._audit.remember(transaction, tried.recorded)
        named = {each.room for each in tried.of(EntryType.ROOM_CREATED, EntryType.ROOM_UPDATED)}
        for room_id in sorted(named):
            state = tried.rooms[room_id]
            key = state.name.casefold() if state.kind is RoomKind.PUBLIC else ""
            if key:
                await self._claim(key, room_id, tried.held)
            tried.claimed.append((key, room_id))

    async def _ended(self, tried: Locked, *, stored: bool) -> None:  # noqa: ARG002 - the room itself says what it is called
        """See `PostgresLog._ended`. If it fails, whoever wants a name finds out that it is not had."""
        for _key, room_id in tried.claimed:
            try:
                await self._give_back(room_id)
            except Unavailable:
                log.warning("a name is not given back yet", extra={"room": room_id})

    async def _claim(self, key: str, room_id: str, held: Collection[str]) -> None:
        """Take a name at home, also from a room that has not got it.

        Args:
            key: The folded name.
            room_id: Whose it shall be.
            held: Rooms that this transaction holds: whether they keep their names is not known before it ends. Alone, it is.

        Raises:
            Duplicate: Another room has it.
        """
        home = self._shards.home
        for _ in range(3):
            async with home.transaction() as transaction:
                if await claim_free(transaction, "room", key, room_id):
                    return
                rows = await transaction.fetch("SELECT owner FROM names WHERE kind = 'room' AND key = $1", key)
            owner = str(rows[0][0]) if rows else ""
            if owner == room_id:
                return
            if owner in held or (owner and await self._give_back(owner) in {key, None}):
                break
        raise Duplicate("names_pkey")

    async def _give_back(self, room_id: str) -> str | None:
        """Give back every name that a room has not got; return the one that it has, if any. Waits for who is about to store that.

        The room is held until they are given back: else it could be called so again meanwhile.

        Returns:
            The folded name; nothing if the room has none; None if it is being moved: then nobody knows, and nothing is given back.

        Raises:
            Unavailable: Somebody holds it for long, or a database does not answer.
        """
        part = self._shards.for_room(room_id)
        async with part.transaction() as transaction:
            if await transaction.fetch("SELECT 1 WHERE securechat_elsewhere($1::text[])", [room_id]):
                return None
            await transaction.fetch(f"SET LOCAL lock_timeout = {NAME_WAIT_MS}")
            await transaction.fetch(_HOLD, room_id)  # Where there is no row to lock. It goes again below.
            rows = await transaction.fetch(_NAME_OF, room_id)
            await transaction.fetch("DELETE FROM rooms WHERE id = $1 AND kind = ''", room_id)
            name = str(rows[0][1]) if rows and rows[0][0] == RoomKind.PUBLIC else ""
            others = "DELETE FROM names WHERE kind = 'room' AND owner = $1 AND key <> $2"
            if part is self._shards:
                await transaction.fetch(others, room_id, name)
            else:
                async with self._shards.home.transaction() as at_home:
                    await at_home.fetch(others, room_id, name)
        return name

    async def relay(self) -> None:
        """Take what waits here for the audit log into it, each once.

        Raises:
            Unavailable: One of the two databases does not answer.
        """
        if not self._at_home:
            await self._audit.take_from(self._postgres)


class ShardedLog:
    """See `LogStore`.

    Args:
        shards: The open databases.
        audit: The audit log, at home.
        sealing: Seals and opens texts.
    """

    def __init__(self, shards: ShardedDatabase, audit: SqlAudit, sealing: Sealing) -> None:
        self._shards = shards
        self._logs = [ShardLog(shards, number, audit, sealing) for number in range(len(shards.parts))]
        self._audit = audit
        self._relayed = False

    # ── commits ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def lanes(self) -> int:
        """See `LogStore.lanes`."""
        return len(self._logs)

    def lane(self, room_id: str, /) -> int:
        """See `LogStore.lane`."""
        return self._shards.place(room_id)

    @property
    def whole(self) -> bool:
        """See `LogStore.whole`."""
        return all(part.whole for part in self._logs)

    def refusal(self, lane: int, /) -> Unavailable | None:
        """See `LogStore.refusal`."""
        return self._logs[lane].refusal()

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], lane: int = 0, /) -> T:
        """See `LogStore.commit`. Waits while a bucket is being handed over."""
        part = self._logs[lane]
        recorded = False

        async def noticing(transaction: LogTransaction) -> T:
            nonlocal recorded
            result = await work(transaction)
            recorded = bool(transaction.recorded)
            return result

        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_S
        while True:
            try:
                result = await part.store(noticing)
                break
            except Elsewhere as error:
                await self._shards.refresh()
                if any(self.lane(room_id) != lane for room_id in error.rooms):
                    raise Moved from error
                if loop.time() > until:
                    raise Unavailable("This room is being moved.", retry_after_ms=RETRY_MS) from error
                await asyncio.sleep(PAUSE_S)
        if recorded or not self._relayed:
            self._relayed = True  # Also what waits for that since before.
            await self._relay()
        return result

    async def _relay(self) -> None:
        await self._audit.settle()

    def hear(self, batches: Sequence[RoomBatch]) -> None:
        """See `LogStore.hear`."""
        for batch in batches:
            self._logs[self.lane(batch.room)].hear((batch,))

    # ── reading one room ─────────────────────────────────────────────────────────────────────────────────────────────

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """See `LogStore.page`."""
        return await self._in(room_id, lambda part: part.page(room_id, before=before, after=after, limit=limit), checks=False)

    async def head(self, user_id: str, room_id: str) -> RoomSummary | None:
        """See `LogStore.head`."""
        sql = f"{_SHARD_SUMMARY} WHERE r.id = $2"
        rows = await self._in(room_id, lambda part: part.database.fetch(sql, user_id, room_id))
        found = await self._told(rows)
        return found[0] if found else None

    async def room(self, room_id: str, *, user_id: str) -> RoomState | None:
        """See `LogStore.room`."""
        return await self._in(room_id, lambda part: part.room(room_id, user_id=user_id))

    async def read_state(self, user_id: str, room_id: str) -> tuple[int, int]:
        """See `LogStore.read_state`."""
        return await self._in(room_id, lambda part: part.read_state(user_id, room_id))

    async def members(self, room_id: str, *, after: str = "", limit: int) -> list[tuple[User, RoomRole]]:
        """See `LogStore.members`."""
        sql = "SELECT user_id, role FROM members WHERE room_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3"
        roles: dict[str, str] = dict(await self._in(room_id, lambda part: part.database.fetch(sql, room_id, after, limit)))
        users = await self._users(list(roles))
        return [(users[user_id], RoomRole(role)) for user_id, role in roles.items() if user_id in users]

    async def _in(self, room_id: str, read: Callable[[ShardLog], Awaitable[T]], *, checks: bool = True) -> T:
        """Read in the database that has the room; `checks` where the reading itself does not find out that it has not."""
        sql = "SELECT 1 FROM buckets WHERE bucket = $1 AND state IN ('away', 'absent')"
        until = asyncio.get_running_loop().time() + WAIT_S
        while True:
            part = self._logs[self._shards.place(room_id)]
            try:
                found = await read(part)
                # It left for good before it is said so: what was read before that was right when it was read.
                if not checks or not await part.database.fetch(sql, bucket_of(room_id)):
                    return found
            except Elsewhere:
                pass
            await self._again(until)

    async def _again(self, until: float) -> None:
        if asyncio.get_running_loop().time() > until:
            raise Unavailable("This room is being moved.", retry_after_ms=RETRY_MS)
        if not await self._shards.refresh():
            await asyncio.sleep(PAUSE_S)

    # ── reading rooms of all databases ───────────────────────────────────────────────────────────────────────────────

    async def heads(self, user_id: str) -> Rooms:
        """See `LogStore.heads`."""
        rows, complete = await self._everywhere(_HEADS, user_id)
        return Rooms(rooms=sorted(await self._told(rows), key=lambda each: name_key(each.name)), complete=complete)

    async def browse(self, *, user_id: str, query: str, after: str, limit: int) -> Rooms:
        """See `LogStore.browse`."""
        prefix = name_key(query)
        rows, complete = await self._everywhere(_BROWSE, user_id, prefix, len(prefix), name_key(after), limit)
        found = sorted(await self._told(rows), key=lambda each: name_key(each.name))
        return Rooms(rooms=found[:limit], complete=complete)

    async def lookup(self, user_id: str, name: str) -> list[str]:
        """See `LogStore.lookup`."""
        found, complete = await self._everywhere(_LOOKUP, user_id, name, name_key(name))
        if not found and not complete:
            raise Unavailable("A database in which the room may be does not answer.", retry_after_ms=RETRY_MS)
        rows = sorted(found, key=lambda row: (*row[1:4], row[0]))
        return [str(row[0]) for row in rows if row[1:3] == rows[0][1:3]]

    async def count_rooms(self, user_id: str) -> int:
        """See `LogStore.count_rooms`."""
        return len((await self._everywhere(_ROOMS_OF, user_id))[0])

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """See `LogStore.newest`."""
        return {row[0]: row[4] for row in (await self._everywhere(_NEWEST, list(room_ids)))[0]}

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """See `LogStore.rooms_of`."""
        rows, _ = await self._everywhere(_MEMBERS_OF, list(user_ids))
        return by_user([(user_id, room_id) for room_id, members in rows for user_id in members])

    async def _everywhere(self, sql: str, *values: object) -> tuple[list[Row], bool]:
        """Return the rows of a query, which begin with the room, from whichever database has the room; and whether these are all.

        They are not all when a database does not answer: who has rooms elsewhere has them all the same.

        The databases are not asked at the same moment. A bucket that none said to have was on its way from one that was asked
        late to one that was asked early: then all are asked again. Of one that two had, the newer is right.
        """
        until = asyncio.get_running_loop().time() + WAIT_S
        while True:
            answers = await asyncio.gather(*(self._rows(part, sql, values) for part in self._shards.parts))
            silent = {place for place, rows in enumerate(answers) if rows is None}
            found: dict[str, Row] = {}
            missing = {bucket for bucket in range(BUCKETS) if self._shards.place_of(bucket) not in silent}
            for rows in answers:
                if rows is None:
                    continue
                gone = set(rows[0][0])
                missing &= gone
                for row in rows:
                    if row[1] is not None and bucket_of(row[1]) not in gone:
                        found[row[1]] = max(found.get(row[1], row[1:]), row[1:], key=_newest)
            if not missing:
                return list(found.values()), not silent
            await self._again(until)

    @staticmethod
    async def _rows(part: PostgresDatabase, sql: str, values: Sequence[object]) -> list[Row] | None:
        try:
            return await part.fetch(_EVERYWHERE.replace("QUERY", sql), *values)
        except Unavailable:
            return None

    async def _told(self, rows: Sequence[Row]) -> list[RoomSummary]:
        peers = await self._users([row[10] for row in rows if row[10] is not None])
        found = []
        for room_id, kind, name, topic, last_seq, count, role, read_seq, permissions, unread, peer in rows:
            summary = RoomSummary(
                id=room_id, kind=kind, name=name, topic=topic, last_seq=last_seq, members=count, role=role, read_seq=read_seq,
                unread=unread, peer=peers.get(peer),
            )  # fmt: skip
            if permissions != "{}":
                summary.permissions = dict(permissions_of(permissions))
            found.append(summary)
        return found

    async def _users(self, user_ids: list[str]) -> dict[str, User]:
        if not user_ids:
            return {}
        return {row[0]: to_user(row) for row in await self._shards.home.fetch(_USERS, user_ids)}


def _newest(row: Row) -> Any:
    return row[4] if len(row) > 4 else 0
