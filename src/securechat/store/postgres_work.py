"""What a commit does between two answers of PostgreSQL: what it loads, decides on, and stores.

Most batches are decided on what is in memory, and stored by one statement that finds out whether that still holds. If it does not,
or the batch is of a rarer kind, the rooms are locked first. Then a few round trips do it: the locks, a look if there is need for
one, the append, the commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from typing import Final

import asyncpg
import msgspec

from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import CmidKey, TargetKey
from securechat.domain.rooms import RoomState
from securechat.store.buckets import ELSEWHERE, Elsewhere
from securechat.store.database import Row, Transaction
from securechat.store.keys import RoomKey
from securechat.store.lanes import SIMPLE, GoneOn, Lane, keys_of
from securechat.store.log_work import LogWork
from securechat.store.postgres import PostgresDatabase, PostgresTransaction
from securechat.store.postgres_sql import LOCK_HERE, LOOK, REPLACED, STATE, STORE
from securechat.store.projections import project, roles_after
from securechat.store.rows import add_edit, add_reactions, to_entries, to_entry, to_rows, to_state
from securechat.store.sealing import Sealer, Sealing

AT_ONCE: Final = SIMPLE | {
    EntryType.MEMBER_JOINED, EntryType.MEMBER_LEFT, EntryType.MEMBER_REMOVED, EntryType.MEMBER_CHANGED
}  # fmt: skip
"""Entries that `securechat_store` knows all the consequences of."""


class Stale(Exception):
    """What was decided on does not hold any more; nothing is stored."""


class Behind(Stale):
    """Another server was ahead. What is in memory says by now where it is."""


_GONE_ON: Final = msgspec.json.Decoder(dict[str, tuple[int, bool] | None])


def gone_on(said: object) -> GoneOn:
    """Return what `securechat_store` says of rooms that have gone on."""
    return _GONE_ON.decode(str(said))


def reactions_in(seq: int, emojis: Sequence[str] | None, users: Sequence[str] | None) -> list[Row]:
    """Return the rows of reactions that were read as two arrays."""
    return [(seq, emoji, user) for emoji, user in zip(emojis or (), users or (), strict=True)]


def _states(rows: Sequence[Row]) -> dict[str, RoomState]:
    return {row[0]: to_state(row[0], row[1:6], zip(row[6] or (), row[7] or (), strict=True)) for row in rows}


class _Work(LogWork):
    """What both ways of committing share: how entries are loaded, and stored.

    A cmid is mostly new. So it is only looked for if it is one of the last commits', and else the unique key tells.

    Args:
        cmids: Of the last commits; None to look for each.

    Attributes:
        counts: How many entries were appended to each room.
        rows: What is stored of the entries, as it was sent.
        sealer: What seals the texts, once that is known.
        looked_up: Cmids that were looked for in the database.
        looked: What the database said of what others are about.
    """

    __slots__ = ("_cmids", "_keys", "_sealing", "counts", "looked", "looked_up", "rows", "sealer")

    def __init__(
        self,
        rooms: dict[str, RoomState],
        sealing: Sealing | None,
        cmids: Container[CmidKey] | None,
    ) -> None:
        super().__init__(rooms)
        self._cmids = cmids
        self.counts: Counter[str] = Counter()
        self.looked_up: set[CmidKey] = set()
        self.looked: dict[TargetKey, Row] = {}
        self.rows: list[Row] = []
        self._sealing = sealing
        self.sealer: Sealer | None = None
        self._keys: dict[str, RoomKey] = {}

    def append(self, entry: Entry) -> None:
        """See `LogTransaction.append`. A room that changes is kept as it was: most batches of a rarer kind are decided twice."""
        state = self.rooms.get(entry.room)
        if state is not None and entry.type not in SIMPLE and entry.room not in self.before:
            last_seq = state.last_seq - self.counts[entry.room]
            if last_seq:  # Else it is made here, and without this there is none.
                self.before[entry.room] = replace(
                    state, last_seq=last_seq, members=dict(state.members), permissions=dict(state.permissions)
                )
        super().append(entry)
        self.counts[entry.room] += 1

    @property
    def unsure(self) -> set[str]:
        """Rooms in which something was refused that may be a repetition of what was not."""
        return {room_id for room_id, _, _ in self.asked - self.looked_up - keys_of(self.appended)}

    async def to_commit(self, rooms: Collection[str], transaction: Transaction | None = None) -> tuple[object, ...] | None:
        """Return the values of `STORE`: none if there is nothing to store.

        Args:
            rooms: Those whose `last_seq` is compared.
            transaction: Where keys are made that there are not. Without it the answer is None then.
        """
        before = {room_id: self.rooms[room_id].last_seq for room_id in rooms if room_id in self.rooms}
        for entry in self.appended:
            before[entry.room] -= 1
        if not before and not self.reads:
            return ()
        if self._sealing is not None and self._sealing.on:
            await self._choose_keys(self._sealing, transaction)
            if self.sealer is None:
                return None
        self.rows = await to_rows(self.appended, self.sealer)
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * 11
        marks = list(zip(*self.reads, strict=True)) if self.reads else [()] * 4
        members = [(*whom, role) for whom, role in roles_after(self.appended).items()]
        order = sorted(before)
        return (
            order, [before[room_id] for room_id in order], list(self._keys), [key.version for key in self._keys.values()],
            *columns, [entry.emoji for entry in self.appended], *marks,
            *(zip(*members, strict=True) if members else [()] * 3), self.apart,
        )  # fmt: skip

    async def _choose_keys(self, sealing: Sealing, transaction: Transaction | None) -> None:
        """Seal with the keys that are known, which are compared; or with what is made in the transaction."""
        keys = None if self.of(EntryType.ROOM_ERASED) else await sealing.known_keys(self.appended)
        if keys is not None:
            self._keys, self.sealer = keys, sealing.sealer(None)
            self.sealer.use(keys)
        elif transaction is not None:
            self.sealer = sealing.sealer(transaction)

    def refusal(self, error: asyncpg.PostgresError, rooms: Collection[str]) -> Exception:
        """Return what it means that `securechat_store` refused to store something in these rooms."""
        if error.sqlstate == REPLACED and self._sealing is not None:
            for room_id in self._keys:
                self._sealing.keys.forget(room_id)
        if error.sqlstate == ELSEWHERE:
            return Elsewhere({*rooms, *(room_id for _, room_id, _, _ in self.reads)})
        return Stale() if error.sqlstate == REPLACED else error

    async def _look(
        self,
        fetch: Callable[..., Awaitable[list[Row]]],
        sent: Collection[CmidKey],
        targets: Collection[TargetKey],
        since: Mapping[str, int],
    ) -> None:
        """Load entries, and catch up with what others appended, unless there is no need.

        Args:
            fetch: In the transaction, or outside of any.
            sent: See `LogTransaction.load`.
            targets: The same.
            since: Rooms in memory that have gone on, or may have, and where they are there.
        """
        rows = [self.looked[key] for key in targets if key in self.looked]
        wanted = [key for key in targets if key not in self.looked]
        if wanted or since or any(self._cmids is None or key in self._cmids for key in sent):
            self.looked_up.update(sent)
            keys = list(zip(*sent, strict=True)) if sent else [(), (), ()]
            places = list(zip(*wanted, strict=True)) if wanted else [(), ()]
            rows += await fetch(LOOK, *keys, *places, list(since), list(since.values()), [kind.value for kind in SIMPLE])
        newer: list[tuple[str, Row]] = []
        newest: dict[str, int] = {}
        for row in rows:
            emojis, users, erased, room_id, what = row[24:]
            if what == "newest":
                newest[room_id] = row[0]
                continue
            if what == "newer":
                newer.append((room_id, row))
                continue
            (entry,) = await to_entries(room_id, [row[:12]], self._sealing, erased)
            if what == "sent":
                self.known_sent[entry.room, entry.device or "", entry.cmid or ""] = entry
            else:
                if row[12] is not None and entry.deleted is None:
                    (edit,) = await to_entries(room_id, [row[12:24]], self._sealing, erased)
                    add_edit(entry, edit)
                add_reactions([entry], reactions_in(entry.seq, emojis, users))
                self.known_targets[entry.room, entry.seq] = entry
                self.looked[entry.room, entry.seq] = row
        self._catch_up(since, newest, sorted(newer, key=lambda each: each[1][0]))

    def _catch_up(self, since: Mapping[str, int], newest: Mapping[str, int], newer: Sequence[tuple[str, Row]]) -> None:
        """Apply what others appended to states in memory; take out what is of another time altogether."""
        for room_id, known in since.items():
            if newest.get(room_id, 0) < known:
                del self.rooms[room_id]
        for room_id, row in newer:
            state, entry = self.rooms[room_id], to_entry(room_id, row)
            state.last_seq = entry.seq - 1
            state.apply(entry)
            if entry.type is EntryType.ROOM_ERASED and self._sealing is not None:
                self._sealing.keys.forget(room_id)
        for room_id in since.keys() & self.rooms.keys():
            self.rooms[room_id].last_seq = newest[room_id]


class Optimistic(_Work):
    """Decides on what is in memory; loads only what is not there.

    Args:
        lane: What is in memory.
        postgres: The database.
        sealing: Seals and opens texts.

    Attributes:
        used: Rooms that it was decided on.
    """

    __slots__ = ("_late", "_postgres", "used")

    def __init__(self, lane: Lane, postgres: PostgresDatabase, sealing: Sealing | None) -> None:
        super().__init__(lane.rooms, sealing, lane.cmids)
        self._postgres = postgres
        self._late = lane.late
        self.looked, lane.looked = lane.looked, {}  # Whatever comes of this, it may be of another time after it.
        self.used: set[str] = set()

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """See `LogTransaction.load`. Nothing is locked: the append finds out whether it holds.

        What is looked at is never older than the state of its room, which is compared: a message that was deleted in between would
        be edited.

        Raises:
            Stale: A room is not what it was, or not there any more.
        """
        late = self._late.intersection(rooms)
        since = {room_id: self.rooms[room_id].last_seq for room_id in late if room_id in self.rooms}
        missing = [room_id for room_id in rooms if room_id not in self.rooms]
        # What is kept of these may be older than their states.
        self.looked = {key: row for key, row in self.looked.items() if key[0] in self.rooms and key[0] not in late}
        if missing:
            self.rooms.update(_states(await self._postgres.fetch(STATE, missing)))
        await self._look(self._postgres.fetch, sent, targets, since)
        self._late.difference_update(late)
        if not since.keys() <= self.rooms.keys():
            raise Stale
        self.used.update(rooms)

    def leave(self, rooms: Collection[str]) -> None:
        """See `LogWork.leave`."""
        super().leave(rooms)
        self.used.difference_update(rooms)
        self.asked = {key for key in self.asked if key[0] not in rooms}


class Locked(_Work):
    """Locks the rooms in the order of their ids, and decides on them as they are.

    Attributes:
        held: Rooms that are locked, as far as they exist.
        claimed: (folded name or nothing, room id): names that are claimed elsewhere.
    """

    __slots__ = ("_transaction", "claimed", "held")

    def __init__(
        self,
        rooms: dict[str, RoomState],
        transaction: PostgresTransaction,
        sealing: Sealing | None,
        cmids: Container[CmidKey] | None,
    ) -> None:
        super().__init__(rooms, sealing, cmids)
        self._transaction = transaction
        self.held: set[str] = set()
        self.claimed: list[tuple[str, str]] = []

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """See `LogTransaction.load`."""
        newest: dict[str, int] = {row[0]: row[1] for row in await self._transaction.fetch(LOCK_HERE, sorted(rooms))}
        if "" in newest:
            raise Elsewhere(rooms)
        self.held.update(newest)
        known = {room_id: self.rooms[room_id].last_seq for room_id in rooms if room_id in self.rooms}
        gone_on = {room_id: last_seq for room_id, last_seq in known.items() if last_seq != newest.get(room_id, 0)}
        await self._look(self._transaction.fetch, sent, targets, gone_on)
        missing = [room_id for room_id in newest if room_id not in self.rooms]
        if missing:
            self.rooms.update(_states(await self._transaction.fetch(STATE, missing)))

    async def write(self) -> None:
        """Write everything that was appended: one round trip, and some for each entry of a rarer kind.

        Raises:
            Stale: It has to be decided again, with every cmid looked for.
        """
        if self.unsure:
            raise Stale
        for entry in self.of(EntryType.ROOM_CREATED):
            await project(self._transaction, entry, self.rooms[entry.room])
        values = await self.to_commit(self.touched, self._transaction)
        try:
            if values and gone_on((await self._transaction.fetch(STORE, *values))[0][0]):
                raise Stale
        except asyncpg.PostgresError as error:
            raise self.refusal(error, self.touched) from None
        for entry in self.appended:
            if entry.type not in AT_ONCE and entry.type is not EntryType.ROOM_CREATED:
                await project(self._transaction, entry, self.rooms[entry.room])
