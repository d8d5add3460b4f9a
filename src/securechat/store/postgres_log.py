"""PostgresLog: the log of every room in PostgreSQL, for several servers on one database.

Everything that changes a room is an entry in its log, so a state in memory that knows entry s is right exactly as long as the
room's `last_seq` is s. A commit decides on what is in memory and sends one statement, which locks the rooms in the order of their
ids, compares `last_seq`, and stores the rooms that have not gone on; all or nothing where they are not apart. What is behind is
decided once more on what is there by then. Without luck, or when the commit is of a rarer kind, the rooms are locked first.

A commit whose answer was lost is decided: the rooms' rows are locked on another connection, which waits for the old one to end, and
then the entries are there or not.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, TypeVar

import asyncpg

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import EntryType, Page
from securechat.domain.ports import LogTransaction, RoomBatch
from securechat.domain.rooms import RoomKind
from securechat.errors import NameTaken, Unavailable
from securechat.store.audit import SqlAudit
from securechat.store.buckets import Elsewhere
from securechat.store.database import Duplicate, Row
from securechat.store.lanes import GoneOn, Lane
from securechat.store.log_reads import LogReads, by_user
from securechat.store.postgres import PostgresDatabase, PostgresTransaction
from securechat.store.postgres_pool import RETRY_MS, AnswerLost, TryAgain
from securechat.store.postgres_sql import GONE, LOCK, PAGE_AFTER, PAGE_BEFORE, STORE, SUMMARY_WITH_PEER, THERE
from securechat.store.postgres_work import AT_ONCE, Behind, Locked, Optimistic, Stale, gone_on, reactions_in
from securechat.store.rows import add_edit, add_reactions, permissions_of, to_entries, to_user
from securechat.store.sealing import Sealing

T = TypeVar("T")

log = logging.getLogger(__name__)

LANES: Final = 2
"""Commits under way at the same time: while PostgreSQL works on one, this process decides the other and tells what is stored."""
DECIDE_S: Final = 8.5
"""After this long, from its beginning, nobody begins another look for what became of a commit: nobody knows, says the answer."""
HOPES: Final = 2
"""How often a batch is decided without locks, each time on what is there by then, while another server is ahead: locks are held for
as long as the way to the database takes, some times over. Who has no luck at all locks."""
TRIES: Final = 4
"""With the rooms locked, only a deadlock or a name that was taken a moment ago is a reason to try again."""


class PostgresLog(LogReads):
    """The log's half of the store. See `LogStore`.

    Args:
        database: The open database.
        audit: The audit log in it.
        sealing: Seals and opens texts; without it, texts are stored as they are.
    """

    lanes = LANES
    _summary = SUMMARY_WITH_PEER
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
            sure = False
            for _ in range(HOPES):
                try:
                    return await self._optimistic(work, lane, until)
                except Behind:
                    pass
                except (Stale, TryAgain):
                    sure = True
                    break
            for left in reversed(range(TRIES)):
                try:
                    return await self._locked(work, lane, until, sure=sure)
                except (Stale, Duplicate, TryAgain):
                    sure = True
                    if not left or loop.time() > until:
                        raise Unavailable("The database does not take it now.", retry_after_ms=RETRY_MS) from None
            raise AssertionError

    async def _optimistic(self, work: Callable[[LogTransaction], Awaitable[T]], lane: Lane, until: float) -> T:
        """Decide on what is in memory, and store in one round trip what of it still holds."""
        tried = Optimistic(lane, self._postgres, self._sealing)
        try:
            try:
                result = await work(tried)
            except (Unavailable, Elsewhere):
                raise
            except Exception as error:  # whatever it is, it may be so because a room has gone on
                raise Stale from error
            if tried.apart and (unsure := tried.unsure):
                self._leave(tried, lane, dict.fromkeys(unsure))  # They are looked for before it is decided again.
            ahead = await self._send(tried, lane, until)
        except BaseException:
            lane.forget(tried)
            raise
        if ahead and not tried.apart:
            lane.forget(tried)
            lane.learn(ahead, tried.looked)
            raise Behind
        if ahead:
            self._leave(tried, lane, ahead)
        lane.remember(tried)
        return result

    @staticmethod
    def _leave(tried: Optimistic, lane: Lane, behind: GoneOn) -> None:
        lane.forget(tried, behind)
        lane.learn(behind, tried.looked)
        tried.leave(behind)

    async def _send(self, tried: Optimistic, lane: Lane, until: float) -> GoneOn:
        """Store what was decided; return where another server was ahead."""
        if (
            tried.recorded
            or any(entry.type not in AT_ONCE for entry in tried.appended)
            or tried.unsure
            or not tried.touched <= tried.used
            # Does not exist, or not here: only a look at the buckets tells.
            or (self._is_shard and not tried.used <= lane.rooms.keys())
        ):
            raise Stale
        values = await tried.to_commit(tried.used)
        if values is None:
            raise Stale
        try:
            return gone_on(await self._postgres.call(STORE, *values)) if values else {}
        except AnswerLost:
            stored = await self._stored(tried, lane, until)
            if tried.apart and stored:
                return dict.fromkeys(tried.used - stored)
            if not tried.appended or not tried.touched <= stored:
                raise Stale from None
            return {}
        except asyncpg.UniqueViolationError:
            raise Stale from None  # A repetition of what is stored already, most likely.
        except asyncpg.PostgresError as error:
            raise tried.refusal(error, tried.used) from None

    async def _locked(self, work: Callable[[LogTransaction], Awaitable[T]], lane: Lane, until: float, *, sure: bool) -> T:
        """Lock the rooms, decide on them as they are, store it; `sure` looks for every cmid beforehand."""
        tried: Locked | None = None
        try:
            async with self._postgres.attempt() as transaction:
                transaction.names_elsewhere = self._is_shard
                tried = Locked(lane.rooms, transaction, self._sealing, None if sure else lane.cmids)
                result = await work(tried)
                await tried.write()
                await self._finish(transaction, tried)
        except AnswerLost as error:
            if tried is None or (tried.recorded and not tried.appended):
                raise Unavailable("The database does not answer.", retry_after_ms=RETRY_MS) from error
            if not tried.appended or not tried.touched <= await self._stored(tried, lane, until):
                lane.forget(tried)
                await self._ended(tried, stored=False)
                raise Stale from error
        except BaseException as error:
            if tried is not None:
                lane.forget(tried)
                await self._ended(tried, stored=False)
            # Below the first line are values, a client's cmid for example.
            if isinstance(error, Duplicate) and "names_" in str(error).partition("\n")[0]:
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

    async def _stored(self, tried: Optimistic | Locked, lane: Lane, until: float) -> set[str]:
        """Decide what became of a commit whose answer was lost, until this time of the loop, but once in any case.

        Returns:
            The rooms whose entries are stored. Where only markers are moved nobody knows: they may be moved twice.

        Raises:
            Unavailable: The database does not come back in time: nobody knows.
        """
        if not tried.appended:
            return set()
        log.warning("an answer was lost, looking what is stored", extra={"entries": len(tried.appended)})
        try:
            return await self._find_out(tried, until)
        except BaseException:  # Nobody knows, so nothing stays in memory.
            for room_id in tried.touched:
                lane.rooms.pop(room_id, None)
            tried.touched.clear()
            raise

    async def _find_out(self, tried: Optimistic | Locked, until: float) -> set[str]:
        """Look as long as the database does not answer."""
        loop = asyncio.get_running_loop()
        pause = 0.02
        while True:
            try:
                return await self._look_for(tried.rows)
            except Unavailable:
                if loop.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _look_for(self, sent: Sequence[Row]) -> set[str]:
        """Return the rooms in which these rows stand, each as it was sent: another server may have an entry of its own there."""
        rooms = {row[0] for row in sent}
        async with self._postgres.transaction() as transaction:
            if await transaction.fetch(GONE, sorted(rooms)):
                raise Unavailable("This room was moved.", retry_after_ms=RETRY_MS)  # Its repetition is answered as the first.
            made = sorted(row[0] for row in sent if row[2] == EntryType.ROOM_CREATED)
            for room_id in made:
                # There is no row to lock. This waits for whoever inserts one, and is undone.
                await transaction.fetch(
                    "INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES ($1, '', '', '', '', 0)"
                    " ON CONFLICT DO NOTHING",
                    room_id,
                )
            await transaction.fetch(LOCK, sorted(rooms))
            rows = await transaction.fetch(THERE, [row[0] for row in sent], [row[1] for row in sent])
            if made:
                await transaction.fetch("DELETE FROM rooms WHERE id = ANY ($1::text[]) AND kind = ''", made)
        there = set(rows)
        return rooms - {row[0] for row in sent if row not in there}

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """See `LogStore.page`. One statement: everything is of one moment."""
        if after is not None:
            rows = await self._postgres.fetch(PAGE_AFTER, room_id, after, limit)
        else:
            rows = await self._postgres.fetch(PAGE_BEFORE, room_id, before or 2**62, limit)
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
        add_reactions(entries, (each for row in rows for each in reactions_in(row[0], row[24], row[25])))
        return Page(room=room_id, entries=entries, last_seq=last_seq)

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """See `LogStore.newest`. One statement, however many they are."""
        return dict(
            await self._postgres.fetch(
                "SELECT found.* FROM unnest($1::text[]) AS asked (id),"
                " LATERAL (SELECT id, last_seq FROM rooms r WHERE r.id = asked.id OFFSET 0) AS found",
                list(room_ids),
            )
        )

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
