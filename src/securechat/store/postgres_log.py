"""PostgresLog: the log of every room in PostgreSQL, for several servers on one database.

Everything that changes a room is an entry in its log, so a state in memory that knows entry s is right exactly as long as the
room's `last_seq` is s. A commit decides on what is in memory and sends one statement, which locks the rooms in the order of their
ids, compares `last_seq`, and stores everything, or nothing if one has gone on. Then, or when the commit is of a rarer kind, it is
done again with the rooms locked first.

A commit whose answer was lost is decided: the rooms' rows are locked on another connection, which waits for the old one to end, and
then the entries are there or not.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry, EntryType, Page
from securechat.domain.limits import LIMITS
from securechat.domain.ports import CmidKey, LogTransaction, RoomBatch, TargetKey
from securechat.domain.rooms import RoomKind, RoomState
from securechat.errors import NameTaken, Unavailable
from securechat.store.audit import SqlAudit
from securechat.store.buckets import ELSEWHERE, Elsewhere
from securechat.store.database import Duplicate, Row
from securechat.store.lanes import SIMPLE, Lane, keys_of
from securechat.store.log_reads import UNREAD_WINDOW, LogReads, by_user
from securechat.store.log_work import LogWork
from securechat.store.postgres import PostgresDatabase, PostgresTransaction
from securechat.store.postgres_pool import RETRY_MS, AnswerLost, TryAgain
from securechat.store.projections import mark_reads, project
from securechat.store.rows import (
    INSERTED,
    add_edit,
    add_reactions,
    permissions_of,
    to_entries,
    to_entry,
    to_row,
    to_rows,
    to_state,
    to_user,
)
from securechat.store.sealing import COLUMNS, Sealing

T = TypeVar("T")

log = logging.getLogger(__name__)

LANES: Final = 2
"""Commits under way at the same time: while PostgreSQL works on one, this process decides the other and tells what is stored."""
DECIDE_S: Final = 8.0
"""How long a lost answer is looked for: longer than a transaction may stand idle with its locks."""
TRIES: Final = 4
"""With the rooms locked, only a deadlock or a name that was taken a moment ago is a reason to try again."""

_APPEND: Final = (
    "SELECT securechat_append($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::text[],"
    " $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::text[], $15::bytea[], $16::text[],"
    " $17::text[], $18::text[], $19::bigint[], $20::boolean[])"
)
_INSERT: Final = f"INSERT INTO entries ({INSERTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STATE: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, r.permissions, r.last_seq,"
    " (SELECT array_agg(m.user_id) FROM members m WHERE m.room_id = r.id),"
    " (SELECT array_agg(m.role) FROM members m WHERE m.room_id = r.id) FROM rooms r WHERE r.id = ANY ($1::text[])"
)
_LOCK: Final = "SELECT id, last_seq FROM rooms WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE"
_LOCK_HERE: Final = (
    f"WITH locked AS ({_LOCK}) SELECT '', 0 WHERE securechat_elsewhere($1::text[]) UNION ALL SELECT id, last_seq FROM locked"
)
"""In this order: whoever moves a bucket never waits for somebody who holds a room and waits for the bucket."""
_GONE: Final = (
    "SELECT 1 FROM buckets WHERE state IN ('away', 'absent')"
    " AND bucket IN (SELECT securechat_bucket(id) FROM unnest($1::text[]) AS w (id)) LIMIT 1"
)
_E: Final = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
_X: Final = ", ".join(f"x.{name}" for name in COLUMNS.split(", "))
_REACTIONS: Final = (
    "LEFT JOIN LATERAL (SELECT array_agg(a.emoji ORDER BY a.added_seq) AS emojis,"
    " array_agg(a.user_id ORDER BY a.added_seq) AS users"
    " FROM reactions a WHERE a.room_id = e.room_id AND a.seq = e.seq) AS q ON true"
)
_ERASED: Final = (
    "(SELECT max(j.until_seq) FROM storage_jobs j WHERE j.room_id = {0} AND j.kind = 'erase' AND j.finished_at IS NULL)"
)
_WANTED: Final = (
    f"SELECT {_E}, {', '.join(['NULL'] * 14)}, {_ERASED.format('e.room_id')}, e.room_id, true"
    " FROM unnest($1::text[], $2::text[], $3::text[]) AS w (room_id, device_id, cmid)"
    " JOIN entries e ON e.room_id = w.room_id AND e.device_id = w.device_id AND e.cmid = w.cmid"
    f" UNION ALL SELECT {_E}, {_X}, q.emojis, q.users, {_ERASED.format('e.room_id')}, e.room_id, false"
    " FROM unnest($4::text[], $5::bigint[]) AS w (room_id, seq) JOIN entries e ON e.room_id = w.room_id AND e.seq = w.seq"
    f" LEFT JOIN entries x ON x.room_id = e.room_id AND x.seq = e.edit_seq {_REACTIONS}"
)
_PAGE: Final = (
    "WITH page AS (SELECT * FROM entries WHERE room_id = $1 AND {0} LIMIT $3)"
    f" SELECT {_E}, {_X}, q.emojis, q.users, r.last_seq, {_ERASED.format('r.id')},"
    " (SELECT b.state FROM buckets b WHERE b.bucket = securechat_bucket($1) AND b.state IN ('away', 'absent'))"
    " FROM (VALUES (1)) AS one LEFT JOIN rooms r ON r.id = $1 LEFT JOIN page e ON true"
    " LEFT JOIN entries x ON x.room_id = e.room_id AND x.seq = e.edit_seq"
    f" {_REACTIONS} ORDER BY e.seq"
)
_PAGE_AFTER: Final = _PAGE.format("seq > $2 ORDER BY seq")
_PAGE_BEFORE: Final = _PAGE.format("seq < $2 ORDER BY seq DESC")
SUMMARY: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, r.last_seq, (SELECT count(*) FROM members c WHERE c.room_id = r.id) AS members, m.role,"
    " coalesce(d.read_seq, 0) AS read_seq, r.permissions,"
    " CASE WHEN m.role IS NULL OR coalesce(d.read_seq, 0) >= r.last_seq THEN 0 ELSE (SELECT count(*) FROM (SELECT 1 FROM entries e"
    f" WHERE e.room_id = r.id AND e.seq > greatest(coalesce(d.read_seq, 0), r.last_seq - {UNREAD_WINDOW})"
    f" AND e.type = 'message.sent' AND e.user_id <> m.user_id AND e.deleted_seq IS NULL LIMIT {LIMITS.unread}) AS counted) END"
    " AS unread"
)
"""Columns of a summary, of `rooms r`, `members m` and `reads d`."""
_SUMMARY: Final = (
    f"{SUMMARY},"
    " CASE WHEN r.kind = 'direct' THEN (SELECT ARRAY[u.id, u.username, u.display_name, u.role, u.disabled_at::text] FROM members p"
    " JOIN users u ON u.id = p.user_id WHERE p.room_id = r.id AND p.user_id <> coalesce(m.user_id, '') LIMIT 1) END FROM rooms r"
)
_NEWER: Final = (
    f"SELECT {_E}, e.room_id FROM unnest($1::text[], $2::bigint[]) AS w (room_id, seq)"
    " JOIN entries e ON e.room_id = w.room_id AND e.seq > w.seq AND e.type <> ALL ($3::text[]) ORDER BY e.room_id, e.seq"
)
_THERE: Final = (
    "SELECT e.room_id, e.seq, e.type, e.at, e.user_id, e.device_id, e.cmid, e.target"
    " FROM unnest($1::text[], $2::bigint[]) AS w (room_id, seq) JOIN entries e ON e.room_id = w.room_id AND e.seq = w.seq"
)


class _Stale(Exception):
    """What was decided on does not hold any more; nothing is stored."""


class PostgresLog(LogReads):
    """The log's half of the store. See `LogStore`.

    Args:
        database: The open database.
        audit: The audit log in it.
        sealing: Seals and opens texts; without it, texts are stored as they are.
    """

    lanes = LANES
    _summary = _SUMMARY
    _is_shard = False

    def __init__(self, database: PostgresDatabase, audit: SqlAudit | None = None, sealing: Sealing | None = None) -> None:
        super().__init__(database)
        self.database = self._postgres = database
        self._audit = audit or SqlAudit(database)
        self._sealing = sealing
        self._lanes = [Lane() for _ in range(self.lanes)]

    # ── commits ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def lane(self, room_id: str, /) -> int:
        """See `LogStore.lane`. Always the same for a room."""
        return zlib.crc32(room_id.encode()) % self.lanes

    @property
    def whole(self) -> bool:  # type: ignore[override]  # that of the other kind of database never changes
        """See `LogStore.whole`."""
        return self._postgres.pool.breaker.closed

    def refusal(self, _lane: int = 0, /) -> Unavailable | None:
        """See `LogStore.refusal`."""
        return self._postgres.pool.refusal()

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], lane: int = 0, /) -> T:
        """See `LogStore.commit`."""
        try:
            return await self.store(work, lane)
        except Elsewhere as error:
            log.error("a room is in another database, and this server knows of none: database_shards")  # noqa: TRY400 - tells nothing
            raise Unavailable("This room is being moved.", retry_after_ms=RETRY_MS) from error

    def hear(self, batches: Sequence[RoomBatch], /) -> None:
        """See `LogStore.hear`."""
        for batch in batches:
            self._lanes[self.lane(batch.room)].hear(batch)

    async def store(self, work: Callable[[LogTransaction], Awaitable[T]], number: int = 0) -> T:
        """Do what `commit` does.

        Raises:
            Elsewhere: A room lives elsewhere, or is being moved.
        """
        lane = self._lanes[number]
        async with lane.turn:
            lane.catch_up()
            loop = asyncio.get_running_loop()
            until = loop.time() + DECIDE_S
            try:
                return await self._optimistic(work, lane)
            except (_Stale, TryAgain):
                pass
            for left in reversed(range(TRIES)):
                try:
                    return await self._locked(work, lane)
                except (_Stale, Duplicate, TryAgain):
                    if not left or loop.time() > until:
                        raise Unavailable("The database does not take it now.", retry_after_ms=RETRY_MS) from None
            raise AssertionError

    async def _optimistic(self, work: Callable[[LogTransaction], Awaitable[T]], lane: Lane) -> T:
        """Decide on what is in memory, and store it in one round trip if it still holds."""
        tried = _Optimistic(lane.rooms, self._postgres, self._sealing, lane.cmids)
        try:
            try:
                result = await work(tried)
            except (Unavailable, Elsewhere):
                raise
            except Exception as error:  # whatever it is, it may be so because a room has gone on
                raise _Stale from error
            await self._send(tried, lane)
        except BaseException:
            lane.forget(tried)
            raise
        lane.remember(tried)
        return result

    async def _send(self, tried: _Optimistic, lane: Lane) -> None:
        appended = tried.appended
        if (
            tried.recorded
            or any(entry.type not in SIMPLE for entry in appended)
            or tried.asked - tried.looked_up - keys_of(appended)
            or not tried.touched <= tried.used
            # Does not exist, or not here: only a look at the buckets tells.
            or (self._is_shard and not tried.used <= lane.rooms.keys())
        ):
            raise _Stale
        before = {room_id: lane.rooms[room_id].last_seq for room_id in tried.used if room_id in lane.rooms}
        for entry in appended:
            before[entry.room] -= 1
        if not before and not tried.reads:
            return
        sealing, keys = self._sealing, {}
        sealer = None
        if sealing is not None and sealing.on:
            found = await sealing.known_keys(appended)
            if found is None:
                raise _Stale
            keys, sealer = found, sealing.sealer(None)
            sealer.use(keys)
        rows = [to_row(entry, sealer) for entry in appended]
        columns = list(zip(*rows, strict=True)) if rows else [()] * 11
        marks = list(zip(*tried.reads, strict=True)) if tried.reads else [()] * 4
        order = sorted(before)
        try:
            await self._postgres.call(
                _APPEND, order, [before[room_id] for room_id in order], list(keys), [key.version for key in keys.values()],
                *columns, [entry.emoji for entry in appended], *marks,
            )  # fmt: skip
        except AnswerLost:
            if not await self._is_stored(tried, lane):
                raise _Stale from None
        except asyncpg.UniqueViolationError:
            raise _Stale from None  # A repetition of what is stored already, most likely.
        except asyncpg.PostgresError as error:
            if error.sqlstate == "SC002" and sealing is not None:
                for room_id in keys:
                    sealing.keys.forget(room_id)
            if error.sqlstate == ELSEWHERE:
                raise Elsewhere([*order, *(room_id for _, room_id, _, _ in tried.reads)]) from None
            if error.sqlstate not in {"SC001", "SC002"}:
                raise
            raise _Stale from None

    async def _locked(self, work: Callable[[LogTransaction], Awaitable[T]], lane: Lane) -> T:
        """Lock the rooms, decide on them as they are, store it."""
        tried: Locked | None = None
        try:
            async with self._postgres.attempt() as transaction:
                transaction.names_elsewhere = self._is_shard
                tried = Locked(lane.rooms, transaction, self._sealing)
                result = await work(tried)
                await tried.write()
                await self._finish(transaction, tried)
        except AnswerLost as error:
            if tried is None or (tried.recorded and not tried.appended):
                raise Unavailable("The database does not answer.", retry_after_ms=RETRY_MS) from error
            if not await self._is_stored(tried, lane):
                lane.forget(tried)
                await self._ended(tried, stored=False)
                raise _Stale from error
        except BaseException as error:
            if tried is not None:
                lane.forget(tried)
                await self._ended(tried, stored=False)
            if isinstance(error, Duplicate) and "names_" in str(error):
                raise NameTaken("A public room has this name.", field="name") from error
            raise
        if self._sealing is not None:
            self._sealing.committed(tried.appended, tried.sealer)
        lane.remember(tried)
        await self._ended(tried, stored=True)
        return result

    async def _finish(self, transaction: PostgresTransaction, tried: Locked) -> None:
        """Do what has to be the last thing of a transaction."""
        if tried.recorded:
            await self._audit.append(transaction, tried.recorded)

    async def _ended(self, tried: Locked, *, stored: bool) -> None:
        """Do what has to be done after a transaction in which `_finish` was begun."""

    async def _is_stored(self, tried: LogWork, lane: Lane) -> bool:
        """Decide what became of a commit whose answer was lost.

        Raises:
            Unavailable: The database does not come back in time: nobody knows.
        """
        if not tried.appended:
            return False  # Markers may be moved twice.
        log.warning("an answer was lost, looking what is stored", extra={"entries": len(tried.appended)})
        loop = asyncio.get_running_loop()
        until = loop.time() + DECIDE_S
        pause = 0.02
        while True:
            try:
                return await self._look_for(tried.appended)
            except Unavailable:
                if loop.time() + pause > until:
                    for room_id in tried.touched:
                        lane.rooms.pop(room_id, None)
                    tried.touched.clear()
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _look_for(self, entries: Sequence[Entry]) -> bool:
        async with self._postgres.transaction() as transaction:
            if await transaction.fetch(_GONE, sorted({entry.room for entry in entries})):
                raise Unavailable("This room was moved.", retry_after_ms=RETRY_MS)  # Its repetition is answered as the first.
            made = [entry for entry in entries if entry.type is EntryType.ROOM_CREATED]
            for entry in sorted(made, key=lambda each: each.room):
                # There is no row to lock. This waits for whoever inserts one, and is undone.
                await transaction.fetch(
                    "INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES ($1, '', '', '', '', 0)"
                    " ON CONFLICT DO NOTHING",
                    entry.room,
                )
            await transaction.fetch(_LOCK, sorted({entry.room for entry in entries}))
            rows = await transaction.fetch(_THERE, [entry.room for entry in entries], [entry.seq for entry in entries])
            if made:
                await transaction.fetch("DELETE FROM rooms WHERE id = ANY ($1::text[]) AND kind = ''", [each.room for each in made])
        there = set(rows)
        return all(to_row(entry, None)[:8] in there for entry in entries)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """See `LogStore.page`. One statement: everything is of one moment."""
        if after is not None:
            rows = await self._postgres.fetch(_PAGE_AFTER, room_id, after, limit)
        else:
            rows = await self._postgres.fetch(_PAGE_BEFORE, room_id, before or 2**62, limit)
        last_seq, erased, gone = rows[0][26:29]
        if gone is not None:
            raise Elsewhere([room_id])
        if last_seq is None:
            return Page(room=room_id, entries=[], last_seq=0)
        rows = [row for row in rows if row[0] is not None]
        entries = await to_entries(room_id, [row[:12] for row in rows], self._sealing, erased)
        edited = [
            (entry, row[12:24]) for entry, row in zip(entries, rows, strict=True) if row[12] is not None and entry.deleted is None
        ]
        edits = await to_entries(room_id, [row for _, row in edited], self._sealing, erased)
        for (entry, _), edit in zip(edited, edits, strict=True):
            add_edit(entry, edit)
        add_reactions(entries, (each for row in rows for each in _reactions(row[0], row[24], row[25])))
        return Page(room=room_id, entries=entries, last_seq=last_seq)

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """See `LogStore.newest`. One statement, however many they are."""
        return dict(await self._postgres.fetch("SELECT id, last_seq FROM rooms WHERE id = ANY ($1::text[])", list(room_ids)))

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """See `LogStore.rooms_of`."""
        return by_user(
            await self._postgres.fetch("SELECT user_id, room_id FROM members WHERE user_id = ANY ($1::text[])", list(user_ids))
        )

    async def _summaries(self, sql: str, values: Sequence[object], _user_id: str, /) -> list[RoomSummary]:
        found = []
        for room_id, kind, name, topic, last_seq, count, role, read_seq, permissions, unread, peer in await self._db.read(
            sql, values
        ):
            summary = RoomSummary(
                id=room_id, kind=kind, name=name, topic=topic, last_seq=last_seq, members=count, role=role, read_seq=read_seq,
                unread=unread,
            )  # fmt: skip
            if permissions != "{}":
                summary.permissions = dict(permissions_of(permissions))
            if kind == RoomKind.DIRECT and peer is not None:
                summary.peer = to_user(peer)
            found.append(summary)
        return found


def _reactions(seq: int, emojis: Sequence[str] | None, users: Sequence[str] | None) -> list[Row]:
    return [(seq, emoji, user) for emoji, user in zip(emojis or (), users or (), strict=True)]


def _states(rows: Sequence[Row]) -> dict[str, RoomState]:
    return {row[0]: to_state(row[0], row[1:6], zip(row[6] or (), row[7] or (), strict=True)) for row in rows}


class _Work(LogWork):
    """What both ways of committing share: how entries are loaded."""

    __slots__ = ("_sealing",)

    def __init__(self, rooms: dict[str, RoomState], sealing: Sealing | None) -> None:
        super().__init__(rooms)
        self._sealing = sealing

    async def _take_entries(
        self, fetch: Callable[..., Awaitable[list[Row]]], sent: Collection[CmidKey], targets: Collection[TargetKey]
    ) -> None:
        keys = list(zip(*sent, strict=True)) if sent else [(), (), ()]
        places = list(zip(*targets, strict=True)) if targets else [(), ()]
        for row in await fetch(_WANTED, *keys, *places):
            emojis, users, erased, room_id, is_sent = row[24:]
            (entry,) = await to_entries(room_id, [row[:12]], self._sealing, erased)
            if is_sent:
                self.known_sent[entry.room, entry.device or "", entry.cmid or ""] = entry
            else:
                if row[12] is not None and entry.deleted is None:
                    (edit,) = await to_entries(room_id, [row[12:24]], self._sealing, erased)
                    add_edit(entry, edit)
                add_reactions([entry], _reactions(entry.seq, emojis, users))
                self.known_targets[entry.room, entry.seq] = entry


class _Optimistic(_Work):
    """Decides on what is in memory; loads only what is not there."""

    __slots__ = ("_cmids", "_postgres", "looked_up", "used")

    def __init__(
        self, rooms: dict[str, RoomState], postgres: PostgresDatabase, sealing: Sealing | None, cmids: dict[CmidKey, None]
    ) -> None:
        super().__init__(rooms, sealing)
        self._postgres = postgres
        self._cmids = cmids
        self.used: set[str] = set()
        self.looked_up: set[CmidKey] = set()

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """See `LogTransaction.load`. Nothing is locked: the append finds out whether it holds."""
        missing = [room_id for room_id in rooms if room_id not in self.rooms]
        if missing:
            self.rooms.update(_states(await self._postgres.fetch(_STATE, missing)))
        self.used.update(rooms)
        if targets or any(key in self._cmids for key in sent):
            self.looked_up.update(sent)
            await self._take_entries(self._postgres.fetch, sent, targets)


class Locked(_Work):
    """Locks the rooms in the order of their ids, and decides on them as they are.

    Attributes:
        held: Rooms that are locked, as far as they exist.
        claimed: (folded name or nothing, room id): names that are claimed elsewhere.
    """

    __slots__ = ("_transaction", "claimed", "held", "sealer")

    def __init__(self, rooms: dict[str, RoomState], transaction: PostgresTransaction, sealing: Sealing | None) -> None:
        super().__init__(rooms, sealing)
        self._transaction = transaction
        self.sealer: Any = None
        self.held: set[str] = set()
        self.claimed: list[tuple[str, str]] = []

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """See `LogTransaction.load`."""
        newest: dict[str, int] = {row[0]: row[1] for row in await self._transaction.fetch(_LOCK_HERE, sorted(rooms))}
        if "" in newest:
            raise Elsewhere(rooms)
        self.held.update(newest)
        states = [self.rooms[room_id] for room_id in rooms if room_id in self.rooms]
        stale = [state for state in states if state.last_seq != newest.get(state.id, 0)]
        if stale:
            await self._catch_up(stale, newest)
        missing = [room_id for room_id in newest if room_id not in self.rooms]
        if missing:
            self.rooms.update(_states(await self._transaction.fetch(_STATE, missing)))
        if sent or targets:
            await self._take_entries(self._transaction.fetch, sent, targets)

    async def _catch_up(self, stale: Sequence[RoomState], newest: Mapping[str, int]) -> None:
        """Apply what others appended to states in memory; take out what is of another time altogether."""
        behind = {}
        for state in stale:
            if newest.get(state.id, 0) < state.last_seq:
                del self.rooms[state.id]
            else:
                behind[state.id] = state
        if not behind:
            return
        places = [state.last_seq for state in behind.values()]
        for row in await self._transaction.fetch(_NEWER, list(behind), places, [kind.value for kind in SIMPLE]):
            state = behind[row[-1]]
            entry = to_entry(state.id, row)
            state.last_seq = entry.seq - 1
            state.apply(entry)
            if entry.type is EntryType.ROOM_ERASED and self._sealing is not None:
                self._sealing.keys.forget(state.id)
        for room_id, state in behind.items():
            state.last_seq = newest[room_id]

    async def write(self) -> None:
        """Write everything that was appended."""
        transaction, sealing = self._transaction, self._sealing
        if sealing is not None and sealing.on and self.appended:
            self.sealer = sealing.sealer(transaction)
        await transaction.execute_many(_INSERT, await to_rows(self.appended, self.sealer))
        for entry in self.appended:
            if entry.type is not EntryType.MESSAGE_SENT:
                await project(transaction, entry, self.rooms[entry.room])
        newest = {entry.room: entry.seq for entry in self.appended}
        await transaction.execute_many(
            "UPDATE rooms SET last_seq = ? WHERE id = ?", [(seq, room_id) for room_id, seq in sorted(newest.items())]
        )
        await mark_reads(transaction, self.reads)
