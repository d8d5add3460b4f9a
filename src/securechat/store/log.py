"""SqliteLog: the log of every room in SQLite, whose one writer needs no row locks and whose statements never wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

import msgspec

from securechat.domain.entries import EntryType, Page
from securechat.domain.ports import CmidKey, LogTransaction, TargetKey
from securechat.domain.rooms import RoomState
from securechat.errors import NameTaken
from securechat.store.audit import SqlAudit
from securechat.store.database import Duplicate
from securechat.store.log_reads import LAST, LogReads
from securechat.store.log_work import LogWork
from securechat.store.projections import ERASES, mark_reads, project, project_members
from securechat.store.rows import INSERTED, add_edit, add_reactions, to_entries, to_rows, to_state
from securechat.store.sealing import COLUMNS, Sealer, Sealing
from securechat.store.sqlite import SqliteDatabase, SqliteTransaction

T = TypeVar("T")

ROOMS_CACHED: Final = 10_000

_INSERT: Final = f"INSERT INTO entries ({INSERTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SENT: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND device_id = ? AND cmid = ?"
_ONE: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq = ?"
_PAGE_AFTER: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_PAGE_BEFORE: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
_ERASED: Final = "SELECT max(until_seq) FROM storage_jobs WHERE room_id = ? AND kind = 'erase' AND finished_at IS NULL"
_NEWEST: Final = (
    "SELECT r.id, (SELECT max(seq) FROM entries e WHERE e.room_id = r.id) FROM json_each(?) w JOIN rooms r ON r.id = w.value"
)
"""The last key of each room, not all of its entries."""
_REACTIONS: Final = "SELECT seq, emoji, user_id FROM reactions WHERE room_id = ? AND seq BETWEEN ? AND ? ORDER BY seq, added_seq"


class SqliteLog(LogReads):
    """The log's half of the store.

    Args:
        database: The open database.
        audit: The audit log in it.
        sealing: Seals and opens texts; without it, texts are stored as they are.
    """

    def __init__(self, database: SqliteDatabase, audit: SqlAudit | None = None, sealing: Sealing | None = None) -> None:
        super().__init__(database)
        self._sqlite = database
        self._audit = audit or SqlAudit(database)
        self._sealing = sealing
        self._rooms: dict[str, RoomState] = {}

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], _lane: int = 0, /) -> T:
        """See `LogStore.commit`."""
        transaction: _Transaction | None = None
        open_transaction: SqliteTransaction | None = None
        try:
            async with self._sqlite.transaction() as open_transaction:
                transaction = _Transaction(open_transaction, self._rooms, self._sealing)
                result = await work(transaction)
                await transaction.write()
                if transaction.recorded:
                    await self._audit.append(open_transaction, transaction.recorded)
        except BaseException as error:
            if transaction is not None and open_transaction is not None and open_transaction.committed:
                self._committed(transaction)  # Cancelled after all; it is stored all the same.
            elif transaction is not None:
                for room_id in transaction.touched:
                    self._rooms.pop(room_id, None)
            if isinstance(error, Duplicate) and "rooms.name_key" in str(error):
                raise NameTaken("A public room has this name.", field="name") from error
            raise
        self._committed(transaction)
        return result

    def _committed(self, transaction: _Transaction) -> None:
        """Take in what is stored."""
        if transaction.of(*ERASES):
            self._sqlite.erase_soon()
        if self._sealing is not None:
            self._sealing.committed(transaction.appended, transaction.sealer)
        while len(self._rooms) > ROOMS_CACHED:
            self._rooms.pop(next(iter(self._rooms)))

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """See `LogStore.page`."""
        rows_of = self._sqlite.rows
        # Nothing waits in here, and `rows_of` is of this thread only: everything is of one moment.
        rows_of("BEGIN")
        try:
            if after is not None:
                rows = rows_of(_PAGE_AFTER, (room_id, after, limit))
            else:
                rows = rows_of(_PAGE_BEFORE, (room_id, before or 2**62, limit))
                rows.reverse()
            last_seq = int(rows_of(LAST, (room_id,))[0][0])
            sealing = self._sealing
            erased = rows_of(_ERASED, (room_id,))[0][0] if rows else None
            entries = await to_entries(room_id, rows, sealing, erased)
            if entries:
                for entry, row in zip(entries, rows, strict=True):
                    if row[9] is not None and entry.deleted is None:
                        (edit,) = await to_entries(room_id, rows_of(_ONE, (room_id, row[9])), sealing, erased)
                        add_edit(entry, edit)
                add_reactions(entries, rows_of(_REACTIONS, (room_id, entries[0].seq, entries[-1].seq)))
        finally:
            rows_of("COMMIT")
        return Page(room=room_id, entries=entries, last_seq=last_seq)

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """See `LogStore.newest`."""
        rows = self._sqlite.rows(_NEWEST, (msgspec.json.encode(list(room_ids)).decode(),))
        return {room_id: int(seq) for room_id, seq in rows}


class _Transaction(LogWork):
    """A `LogTransaction` on SQLite."""

    __slots__ = ("_sealing", "_transaction", "sealer")

    def __init__(self, transaction: SqliteTransaction, rooms: dict[str, RoomState], sealing: Sealing | None) -> None:
        super().__init__(rooms)
        self._transaction = transaction
        self._sealing = sealing
        self.sealer: Sealer | None = None

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        run = self._transaction.run
        for room_id in rooms:
            if room_id not in self.rooms:
                self._load_room(room_id)
        for key in sent:
            found = run(_SENT, key)
            if found:
                (self.known_sent[key],) = await to_entries(key[0], found, self._sealing, run(_ERASED, key[:1])[0][0])
        for target in targets:
            found = run(_ONE, target)
            if found:
                erased = run(_ERASED, target[:1])[0][0]
                (entry,) = await to_entries(target[0], found, self._sealing, erased)
                if found[0][9] is not None and entry.deleted is None:
                    (edit,) = await to_entries(target[0], run(_ONE, (target[0], found[0][9])), self._sealing, erased)
                    add_edit(entry, edit)
                add_reactions([entry], run(_REACTIONS, (target[0], entry.seq, entry.seq)))
                self.known_targets[target] = entry

    async def write(self) -> None:
        """Write everything that was appended."""
        sealing = self._sealing
        if sealing is not None and sealing.on and self.appended:
            self.sealer = sealing.sealer(self._transaction)
        rows = await to_rows(self.appended, self.sealer)
        self._transaction.run_many(_INSERT, rows)
        rarer = [entry for entry in self.appended if entry.type is not EntryType.MESSAGE_SENT]
        for entry in rarer:
            await project(self._transaction, entry, self.rooms[entry.room])
        if rarer:
            await project_members(self._transaction, rarer)
        await mark_reads(self._transaction, self.reads)

    def _load_room(self, room_id: str) -> None:
        run = self._transaction.run
        rows = run(f"SELECT kind, name, topic, permissions, ({LAST}) FROM rooms WHERE id = ?", (room_id, room_id))
        if rows:
            members = run("SELECT user_id, role FROM members WHERE room_id = ?", (room_id,))
            self.rooms[room_id] = to_state(room_id, rows[0], members)
