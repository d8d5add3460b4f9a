"""The log of every room in SQL, and the tables that follow from it.

`entries` is the truth; `rooms`, `members` and `reactions` are projections of it, written in the same transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from securechat.domain.accounts import Role, User
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import RoomSummary
from securechat.domain.entries import CHANGES_TARGET, Edited, Entry, EntryType, Page
from securechat.domain.limits import LIMITS
from securechat.domain.ports import CmidKey, LogTransaction, TargetKey
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import NameTaken, Unavailable
from securechat.store.audit import SqliteAudit
from securechat.store.keys import RoomKey
from securechat.store.sealing import COLUMNS, Sealer, Sealing
from securechat.store.sqlite import Execute, Row, SqliteDatabase

T = TypeVar("T")

ROOMS_CACHED: Final = 10_000
UNREAD_WINDOW: Final = 5_000
"""Entries looked at for an unread count: reactions and edits must not make it slow."""

_INSERT: Final = (
    "INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, sealed)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SENT: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND device_id = ? AND cmid = ?"
_ONE: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq = ?"
_PAGE_AFTER: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_PAGE_BEFORE: Final = f"SELECT {COLUMNS} FROM entries WHERE room_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
_ERASED: Final = "SELECT max(until_seq) FROM storage_jobs WHERE room_id = ? AND kind = 'erase' AND finished_at IS NULL"
"""Before which entry a room was erased, as long as the job that removes the texts is not done."""
_LAST: Final = "SELECT coalesce(max(seq), 0) FROM entries WHERE room_id = ?"
_UNREAD: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM entries WHERE room_id = ? AND seq > ? AND type = 'message.sent'"
    f" AND user_id <> ? AND deleted_seq IS NULL LIMIT {LIMITS.unread})"
)
_USER: Final = "u.id, u.username, u.display_name, u.role, u.disabled_at"
_SUMMARY: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, (SELECT coalesce(max(seq), 0) FROM entries e WHERE e.room_id = r.id),"
    " (SELECT count(*) FROM members c WHERE c.room_id = r.id), m.role, coalesce(d.read_seq, 0), r.permissions FROM rooms r"
)


class _Extra(msgspec.Struct, omit_defaults=True):
    """What few entries have, in one column."""

    reply_to: int | None = None
    emoji: str | None = None
    member: str | None = None
    role: str | None = None
    kind: str | None = None
    name: str | None = None
    topic: str | None = None
    permissions: dict[str, str] | None = None


_extra_of: Final = msgspec.json.Decoder(_Extra).decode
_decode_permissions: Final = msgspec.json.Decoder(dict[str, RoomRole]).decode
_encode: Final = msgspec.json.Encoder().encode


def to_user(row: Sequence[object]) -> User:
    """Make a `User` of the columns `id, username, display_name, role, disabled_at`."""
    return User(id=str(row[0]), username=str(row[1]), display_name=str(row[2]), role=Role(str(row[3])), disabled=row[4] is not None)


def name_key(name: str) -> str:
    """Return the form in which names are compared."""
    return name.casefold()


def _permissions_of(text: str) -> dict[str, RoomRole]:
    return {} if text == "{}" else _decode_permissions(text)


def _to_row(entry: Entry, sealer: Sealer | None) -> Sequence[object]:
    extra = None
    if entry.type is not EntryType.MESSAGE_SENT or entry.reply_to is not None:
        found = _encode(
            _Extra(entry.reply_to, entry.emoji, entry.member, entry.role, entry.kind, entry.name, entry.topic, entry.permissions)
        ).decode()
        extra = None if found == "{}" else found
    body, sealed = entry.body, None
    if sealer is not None and body is not None:
        body, sealed = None, sealer.seal(entry, extra)
    return (
        entry.room, entry.seq, entry.type.value, entry.at, entry.user, entry.device, entry.cmid, entry.target, body, extra, sealed,
    )  # fmt: skip


def to_entry(room_id: str, row: Row) -> Entry:
    """Make an entry of a row of `COLUMNS`; a sealed text stays out of it until `Sealing.open`."""
    entry = Entry(
        type=EntryType(row[1]), room=room_id, seq=row[0], at=row[2], user=row[3], device=row[4], cmid=row[5], target=row[6],
        body=row[7], deleted=row[10],
    )  # fmt: skip
    if row[8] is not None:
        extra = _extra_of(row[8])
        entry.reply_to = extra.reply_to
        entry.emoji = extra.emoji
        entry.member = extra.member
        entry.role = extra.role
        entry.kind = extra.kind
        entry.name = extra.name
        entry.topic = extra.topic
        entry.permissions = extra.permissions
    return entry


def _to_entries(read: Callable[..., list[Row]], room_id: str, rows: Sequence[Row], sealing: Sealing | None) -> list[Entry]:
    entries = [to_entry(room_id, row) for row in rows]
    if sealing is not None:
        sealing.open(entries, rows)
    elif any(row[11] is not None for row in rows):
        raise Unavailable("These texts are sealed, and there are no keys here.")
    erased = read(_ERASED, (room_id,))[0][0] if rows else None
    if erased is not None:  # Erased is erased from that commit on, also what was never sealed.
        for entry in entries:
            if entry.seq < erased and entry.body is not None:
                entry.body, entry.deleted = None, erased
    return entries


class SqliteLog:
    """The log's half of the store.

    Args:
        database: The open database.
        audit: The audit log in it.
        sealing: Seals and opens texts; without it, texts are stored as they are.
    """

    def __init__(self, database: SqliteDatabase, audit: SqliteAudit | None = None, sealing: Sealing | None = None) -> None:
        self._db = database
        self._audit = audit or SqliteAudit(database)
        self._sealing = sealing
        self._rooms: dict[str, RoomState] = {}

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]]) -> T:
        """See `LogStore.commit`."""
        transaction: _Transaction | None = None
        try:
            async with self._db.transaction() as execute:
                transaction = _Transaction(execute, self._db, self._rooms, self._sealing)
                result = await work(transaction)
                transaction.write()
                if transaction.recorded:
                    self._audit.append(execute, transaction.recorded)
        except BaseException as error:
            if transaction is not None:
                for room_id in transaction.touched:
                    self._rooms.pop(room_id, None)
            if "rooms.name_key" in str(error):
                raise NameTaken("A public room has this name.", field="name") from error
            raise
        if transaction.erased:
            self._db.erase_soon()
        if self._sealing is not None:
            for room_id in transaction.shredded:
                self._sealing.keys.forget(room_id)
            for key in transaction.keys_made:
                self._sealing.keys.adopt(key)
        while len(self._rooms) > ROOMS_CACHED:
            self._rooms.pop(next(iter(self._rooms)))
        return result

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """See `LogStore.page`."""
        read = self._db.read
        read("BEGIN")
        try:
            if after is not None:
                rows = read(_PAGE_AFTER, (room_id, after, limit))
            else:
                rows = read(_PAGE_BEFORE, (room_id, before or 2**62, limit))
                rows.reverse()
            last_seq = int(read(_LAST, (room_id,))[0][0])
            sealing = self._sealing
            entries = _to_entries(read, room_id, rows, sealing)
            if entries:
                _add_edits(read, room_id, entries, rows, sealing)
                _add_reactions(read, room_id, entries)
        finally:
            read("COMMIT")
        return Page(room=room_id, entries=entries, last_seq=last_seq)

    async def room(self, room_id: str, *, user_id: str) -> RoomState | None:
        """See `LogStore.room`."""
        rows = self._db.read(
            "SELECT r.kind, r.name, r.topic, (SELECT max(seq) FROM entries e WHERE e.room_id = r.id), m.role, r.permissions"
            " FROM rooms r"
            " LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ? WHERE r.id = ?",
            (user_id, room_id),
        )
        if not rows:
            return None
        kind, name, topic, last_seq, role, permissions = rows[0]
        members = {user_id: RoomRole(role)} if role else {}
        return RoomState(room_id, RoomKind(kind), name, topic, last_seq, members, _permissions_of(permissions))

    async def heads(self, user_id: str) -> list[RoomSummary]:
        """See `LogStore.heads`."""
        return self._summaries(
            f"{_SUMMARY} JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id ORDER BY r.name_key",
            (user_id, user_id),
            user_id,
        )

    async def head(self, user_id: str, room_id: str) -> RoomSummary | None:
        """See `LogStore.head`."""
        found = self._summaries(
            f"{_SUMMARY} LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id WHERE r.id = ?",
            (user_id, user_id, room_id),
            user_id,
        )
        return found[0] if found else None

    async def browse(self, *, user_id: str, query: str, after: str, limit: int) -> list[RoomSummary]:
        """See `LogStore.browse`."""
        prefix = name_key(query)
        return self._summaries(
            f"{_SUMMARY} LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id"
            " WHERE r.kind = 'public' AND r.name_key >= ? AND substr(r.name_key, 1, ?) = ? AND r.name_key > ?"
            " ORDER BY r.name_key LIMIT ?",
            (user_id, user_id, prefix, len(prefix), prefix, name_key(after), limit),
            user_id,
        )

    async def lookup(self, user_id: str, name: str) -> str | None:
        """See `LogStore.lookup`."""
        rows = self._db.read(
            "SELECT r.id FROM rooms r LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " WHERE r.name_key = ? AND (m.user_id IS NOT NULL OR r.kind = 'public')"
            " ORDER BY m.user_id IS NULL, r.created_at LIMIT 1",
            (user_id, name_key(name)),
        )
        return str(rows[0][0]) if rows else None

    async def read_state(self, user_id: str, room_id: str) -> tuple[int, int]:
        """See `LogStore.read_state`."""
        rows = self._db.read("SELECT read_seq FROM reads WHERE user_id = ? AND room_id = ?", (user_id, room_id))
        read_seq = int(rows[0][0]) if rows else 0
        last_seq = int(self._db.read(_LAST, (room_id,))[0][0])
        return read_seq, self._unread(user_id, room_id, read_seq, last_seq)

    async def count_rooms(self, user_id: str) -> int:
        """See `LogStore.count_rooms`."""
        return int(self._db.read("SELECT count(*) FROM members WHERE user_id = ?", (user_id,))[0][0])

    async def members(self, room_id: str) -> list[tuple[User, RoomRole]]:
        """See `LogStore.members`."""
        rows = self._db.read(
            f"SELECT {_USER}, m.role FROM members m JOIN users u ON u.id = m.user_id WHERE m.room_id = ? ORDER BY u.name_key",
            (room_id,),
        )
        return [(to_user(row), RoomRole(row[5])) for row in rows]

    def _unread(self, user_id: str, room_id: str, read_seq: int, last_seq: int) -> int:
        if read_seq >= last_seq:
            return 0
        return int(self._db.read(_UNREAD, (room_id, max(read_seq, last_seq - UNREAD_WINDOW), user_id))[0][0])

    def _summaries(self, sql: str, values: Sequence[object], user_id: str) -> list[RoomSummary]:
        found = []
        for room_id, kind, name, topic, last_seq, count, role, read_seq, permissions in self._db.read(sql, values):
            summary = RoomSummary(
                id=room_id, kind=kind, name=name, topic=topic, last_seq=last_seq, members=count, role=role, read_seq=read_seq
            )
            if permissions != "{}":
                summary.permissions = dict(_permissions_of(permissions))
            if role is not None:
                summary.unread = self._unread(user_id, room_id, read_seq, last_seq)
            if kind == RoomKind.DIRECT:
                peers = self._db.read(
                    f"SELECT {_USER} FROM members m JOIN users u ON u.id = m.user_id WHERE m.room_id = ? AND m.user_id <> ?",
                    (room_id, user_id),
                )
                summary.peer = to_user(peers[0]) if peers else None
            found.append(summary)
        return found


def _add_edits(
    read: Callable[..., list[Row]], room_id: str, entries: list[Entry], rows: list[Row], sealing: Sealing | None
) -> None:
    for entry, row in zip(entries, rows, strict=True):
        if row[9] is not None and entry.deleted is None:
            (edit,) = _to_entries(read, room_id, read(_ONE, (room_id, row[9])), sealing)
            if edit.body is None:  # Damaged: then the message is not what its author last said.
                entry.body, entry.deleted = None, edit.deleted or edit.seq
            else:
                entry.edited = Edited(seq=edit.seq, at=edit.at, body=edit.body)


def _add_reactions(read: Callable[..., list[Row]], room_id: str, entries: list[Entry]) -> None:
    by_seq = {entry.seq: entry for entry in entries}
    rows = read(
        "SELECT seq, emoji, user_id FROM reactions WHERE room_id = ? AND seq BETWEEN ? AND ? ORDER BY seq, added_seq",
        (room_id, entries[0].seq, entries[-1].seq),
    )
    for seq, emoji, user_id in rows:
        entry = by_seq[seq]
        if entry.deleted is not None:
            continue  # Its room was erased, and the job that removes the reactions is not there yet.
        if entry.reactions is None:
            entry.reactions = {}
        entry.reactions.setdefault(emoji, []).append(user_id)


class _Transaction:
    """A `LogTransaction` on SQLite, whose one writer needs no row locks."""

    __slots__ = (
        "_appended", "_db", "_execute", "_reads", "_recorded", "_rooms", "_sealing", "_sent", "_targets", "erased", "keys_made",
        "shredded", "touched",
    )  # fmt: skip

    def __init__(self, execute: Execute, db: SqliteDatabase, rooms: dict[str, RoomState], sealing: Sealing | None) -> None:
        self._execute = execute
        self._db = db
        self._rooms = rooms
        self._sealing = sealing
        self._sent: dict[CmidKey, Entry] = {}
        self._targets: dict[TargetKey, Entry] = {}
        self._appended: list[Entry] = []
        self._reads: list[Sequence[object]] = []
        self.touched: set[str] = set()
        self.erased = False
        self._recorded: list[AuditEvent] = []
        self.shredded: list[str] = []
        self.keys_made: list[RoomKey] = []

    async def load(self, rooms: Collection[str], sent: Iterable[CmidKey], targets: Iterable[TargetKey]) -> None:
        execute = self._execute
        for room_id in rooms:
            if room_id not in self._rooms:
                self._load_room(room_id)
        for key in sent:
            found = execute(_SENT, key)
            if found:
                (self._sent[key],) = _to_entries(execute, key[0], found, self._sealing)
        for target in targets:
            found = execute(_ONE, target)
            if found:
                (entry,) = _to_entries(execute, target[0], found, self._sealing)
                _add_edits(execute, target[0], [entry], found, self._sealing)
                _add_reactions(execute, target[0], [entry])
                self._targets[target] = entry

    def room(self, room_id: str) -> RoomState | None:
        return self._rooms.get(room_id)

    def sent(self, key: CmidKey) -> Entry | None:
        return self._sent.get(key)

    def target(self, key: TargetKey) -> Entry | None:
        return self._targets.get(key)

    @property
    def appended(self) -> list[Entry]:
        return self._appended

    def append(self, entry: Entry) -> None:
        state = self._rooms.get(entry.room)
        if state is None:
            state = self._rooms[entry.room] = RoomState(entry.room)
        self.touched.add(entry.room)
        state.apply(entry)
        self._appended.append(entry)
        if entry.cmid is not None and entry.device is not None:
            self._sent[entry.room, entry.device, entry.cmid] = entry
        if entry.type in CHANGES_TARGET and entry.target is not None:
            self._change_target(entry, self._targets[entry.room, entry.target])

    def mark_read(self, user_id: str, room_id: str, seq: int, *, back: bool) -> None:
        self._reads.append((user_id, room_id, seq, back))

    @property
    def recorded(self) -> list[AuditEvent]:
        return self._recorded

    def record(self, event: AuditEvent) -> None:
        self._recorded.append(event)

    def write(self) -> None:
        """Write everything that was appended."""
        sealing = self._sealing
        sealer = sealing.sealer(self._execute) if sealing is not None and sealing.on and self._appended else None
        rows = []
        for entry in self._appended:
            rows.append(_to_row(entry, sealer))
            if entry.type is EntryType.ROOM_ERASED and sealer is not None:
                sealer.renew(entry.room)
        self._db.execute_many(_INSERT, rows)
        if sealer is not None:
            self.keys_made = sealer.made
        for entry in self._appended:
            if entry.type is not EntryType.MESSAGE_SENT:
                self._project(entry)
        for user_id, room_id, seq, back in self._reads:
            self._execute(
                "INSERT INTO reads (user_id, room_id, read_seq) VALUES (?, ?, ?) ON CONFLICT (user_id, room_id)"
                " DO UPDATE SET read_seq = excluded.read_seq WHERE ? OR reads.read_seq < excluded.read_seq",
                (user_id, room_id, seq, back),
            )

    def _load_room(self, room_id: str) -> None:
        rows = self._execute("SELECT kind, name, topic, permissions FROM rooms WHERE id = ?", (room_id,))
        if not rows:
            return
        kind, name, topic, permissions = rows[0]
        last_seq = int(self._execute(_LAST, (room_id,))[0][0])
        members = self._execute("SELECT user_id, role FROM members WHERE room_id = ?", (room_id,))
        self._rooms[room_id] = RoomState(
            room_id, RoomKind(kind), name, topic, last_seq, {user_id: RoomRole(role) for user_id, role in members},
            _permissions_of(permissions),
        )  # fmt: skip

    @staticmethod
    def _change_target(entry: Entry, target: Entry) -> None:
        reactions = target.reactions = target.reactions or {}
        match entry.type:
            case EntryType.MESSAGE_EDITED:
                target.edited = Edited(seq=entry.seq, at=entry.at, body=entry.body or "")
            case EntryType.MESSAGE_DELETED:
                target.deleted, target.body, target.edited, target.reactions = entry.seq, None, None, None
            case EntryType.REACTION_ADDED if entry.emoji:
                reactions.setdefault(entry.emoji, []).append(entry.user)
            case EntryType.REACTION_REMOVED if entry.emoji:
                reactions[entry.emoji].remove(entry.user)
                if not reactions[entry.emoji]:
                    del reactions[entry.emoji]

    def _project(self, entry: Entry) -> None:
        execute = self._execute
        room = (entry.room, entry.target)
        match entry.type:
            case EntryType.MESSAGE_EDITED:
                execute("UPDATE entries SET edit_seq = ? WHERE room_id = ? AND seq = ?", (entry.seq, *room))
            case EntryType.MESSAGE_DELETED:
                gone = (entry.seq, *room)
                execute("UPDATE entries SET body = NULL, sealed = NULL, deleted_seq = ? WHERE room_id = ? AND seq = ?", gone)
                execute(
                    "UPDATE entries SET body = NULL, sealed = NULL, deleted_seq = ? WHERE room_id = ? AND target = ?"
                    " AND type = 'message.edited'",
                    gone,
                )
                execute("DELETE FROM reactions WHERE room_id = ? AND seq = ?", room)
                self.erased = True
            case EntryType.REACTION_ADDED:
                execute(
                    "INSERT INTO reactions (room_id, seq, emoji, user_id, added_seq) VALUES (?, ?, ?, ?, ?)",
                    (*room, entry.emoji, entry.user, entry.seq),
                )
            case EntryType.REACTION_REMOVED:
                execute(
                    "DELETE FROM reactions WHERE room_id = ? AND seq = ? AND emoji = ? AND user_id = ?",
                    (*room, entry.emoji, entry.user),
                )
            case EntryType.ROOM_CREATED:
                name = entry.name or ""
                execute(
                    "INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (entry.room, entry.kind, name, name_key(name), entry.topic or "", entry.at),
                )
            case EntryType.ROOM_UPDATED:
                state = self._rooms[entry.room]
                execute(
                    "UPDATE rooms SET name = ?, name_key = ?, topic = ?, permissions = ? WHERE id = ?",
                    (state.name, name_key(state.name), state.topic, _encode(state.permissions).decode(), entry.room),
                )
            case EntryType.MEMBER_JOINED:
                execute("INSERT INTO members (room_id, user_id, role) VALUES (?, ?, ?)", (entry.room, entry.member, entry.role))
            case EntryType.ROOM_ERASED:
                execute(
                    "UPDATE room_keys SET wrapped = NULL, destroyed_at = ?, erased_seq = ?"
                    " WHERE room_id = ? AND first_seq < ? AND wrapped IS NOT NULL",
                    (entry.at, entry.seq, entry.room, entry.seq),
                )
                execute(
                    "INSERT INTO storage_jobs (kind, room_id, cursor_room, cursor_seq, until_seq, done, damaged, started_at)"
                    " VALUES ('erase', ?, ?, 0, ?, 0, 0, ?)",
                    (entry.room, entry.room, entry.seq, entry.at),
                )
                self.erased = True
                self.shredded.append(entry.room)
            case EntryType.MEMBER_CHANGED:
                execute("UPDATE members SET role = ? WHERE room_id = ? AND user_id = ?", (entry.role, entry.room, entry.member))
            case EntryType.MEMBER_LEFT | EntryType.MEMBER_REMOVED:
                execute("DELETE FROM members WHERE room_id = ? AND user_id = ?", (entry.room, entry.member))
