"""LogReads: the half of a `LogStore` that reads rooms, written once for every database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from securechat.domain.accounts import User
from securechat.domain.commands import Rooms, RoomSummary
from securechat.domain.limits import LIMITS
from securechat.domain.ports import RoomBatch
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Unavailable
from securechat.store.database import Database, Row
from securechat.store.rows import name_key, permissions_of, to_user

UNREAD_WINDOW: Final = 5_000
"""Entries looked at for an unread count: reactions and edits must not make it slow."""

LAST: Final = "SELECT coalesce(max(seq), 0) FROM entries WHERE room_id = ?"
_UNREAD: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM entries WHERE room_id = ? AND seq > ? AND type = 'message.sent'"
    f" AND user_id <> ? AND deleted_seq IS NULL LIMIT {LIMITS.unread}) AS counted"
)
_USER: Final = "u.id, u.username, u.display_name, u.role, u.disabled_at"
_SUMMARY: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, (SELECT coalesce(max(seq), 0) FROM entries e WHERE e.room_id = r.id),"
    " (SELECT count(*) FROM members c WHERE c.room_id = r.id), m.role, coalesce(d.read_seq, 0), r.permissions FROM rooms r"
)


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values)) or "NULL"


def by_user(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Make rows of (user id, room id) what `LogStore.rooms_of` returns."""
    found: dict[str, set[str]] = {}
    for user_id, room_id in rows:
        found.setdefault(user_id, set()).add(room_id)
    return found


class LogReads:
    """Rooms as they are committed.

    Args:
        database: The open database.
    """

    lanes = 1
    whole = True
    _summary = _SUMMARY

    def __init__(self, database: Database) -> None:
        self._db = database

    def lane(self, _room_id: str, /) -> int:
        """See `LogStore.lane`."""
        return 0

    def hear(self, _batches: Sequence[RoomBatch], /) -> None:
        """See `LogStore.hear`. One server commits everything."""

    def refusal(self, _lane: int, /) -> Unavailable | None:
        """See `LogStore.refusal`."""
        return None

    async def room(self, room_id: str, *, user_id: str) -> RoomState | None:
        """See `LogStore.room`."""
        rows = await self._db.read(
            "SELECT r.kind, r.name, r.topic, (SELECT max(seq) FROM entries e WHERE e.room_id = r.id), m.role, r.permissions"
            " FROM rooms r"
            " LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ? WHERE r.id = ?",
            (user_id, room_id),
        )
        if not rows:
            return None
        kind, name, topic, last_seq, role, permissions = rows[0]
        members = {user_id: RoomRole(role)} if role else {}
        return RoomState(room_id, RoomKind(kind), name, topic, last_seq, members, permissions_of(permissions))

    async def heads(self, user_id: str) -> Rooms:
        """See `LogStore.heads`."""
        rooms = await self._summaries(
            f"{self._summary} JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id ORDER BY r.name_key",
            (user_id, user_id),
            user_id,
        )
        return Rooms(rooms=rooms)

    async def head(self, user_id: str, room_id: str) -> RoomSummary | None:
        """See `LogStore.head`."""
        found = await self._summaries(
            f"{self._summary} LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id WHERE r.id = ?",
            (user_id, user_id, room_id),
            user_id,
        )
        return found[0] if found else None

    async def browse(self, *, user_id: str, query: str, after: str, limit: int) -> Rooms:
        """See `LogStore.browse`."""
        prefix = name_key(query)
        rooms = await self._summaries(
            f"{self._summary} LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " LEFT JOIN reads d ON d.user_id = ? AND d.room_id = r.id"
            " WHERE r.kind = 'public' AND r.name_key >= ? AND substr(r.name_key, 1, ?) = ? AND r.name_key > ?"
            " ORDER BY r.name_key LIMIT ?",
            (user_id, user_id, prefix, len(prefix), prefix, name_key(after), limit),
            user_id,
        )
        return Rooms(rooms=rooms)

    async def lookup(self, user_id: str, name: str) -> list[str]:
        """See `LogStore.lookup`."""
        rows = await self._db.read(
            "SELECT r.id, r.name <> ?, m.user_id IS NULL FROM rooms r"
            " LEFT JOIN members m ON m.room_id = r.id AND m.user_id = ?"
            " WHERE r.name_key = ? AND (m.user_id IS NOT NULL OR r.kind = 'public')"
            " ORDER BY 2, 3, r.created_at",
            (name, user_id, name_key(name)),
        )
        return [str(row[0]) for row in rows if row[1:3] == rows[0][1:3]]

    async def read_state(self, user_id: str, room_id: str) -> tuple[int, int]:
        """See `LogStore.read_state`."""
        rows = await self._db.read("SELECT read_seq FROM reads WHERE user_id = ? AND room_id = ?", (user_id, room_id))
        read_seq = int(rows[0][0]) if rows else 0
        last_seq = int((await self._db.read(LAST, (room_id,)))[0][0])
        return read_seq, await self._unread(user_id, room_id, read_seq, last_seq)

    async def count_rooms(self, user_id: str) -> int:
        """See `LogStore.count_rooms`."""
        return int((await self._db.read("SELECT count(*) FROM members WHERE user_id = ?", (user_id,)))[0][0])

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """See `LogStore.newest`."""
        rows = await self._db.read(
            f"SELECT room_id, max(seq) FROM entries WHERE room_id IN ({_marks(room_ids)}) GROUP BY room_id", tuple(room_ids)
        )
        return {room_id: int(seq) for room_id, seq in rows}

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """See `LogStore.rooms_of`."""
        rows = await self._db.read(f"SELECT user_id, room_id FROM members WHERE user_id IN ({_marks(user_ids)})", tuple(user_ids))
        return by_user(rows)

    async def members(self, room_id: str, *, after: str = "", limit: int) -> list[tuple[User, RoomRole]]:
        """See `LogStore.members`."""
        rows = await self._db.read(
            f"SELECT {_USER}, m.role FROM members m JOIN users u ON u.id = m.user_id WHERE m.room_id = ? AND m.user_id > ?"
            " ORDER BY m.user_id LIMIT ?",
            (room_id, after, limit),
        )
        return [(to_user(row), RoomRole(row[5])) for row in rows]

    async def _unread(self, user_id: str, room_id: str, read_seq: int, last_seq: int) -> int:
        if read_seq >= last_seq:
            return 0
        return int((await self._db.read(_UNREAD, (room_id, max(read_seq, last_seq - UNREAD_WINDOW), user_id)))[0][0])

    async def _summaries(self, sql: str, values: Sequence[object], user_id: str, /) -> list[RoomSummary]:
        found = []
        for room_id, kind, name, topic, last_seq, count, role, read_seq, permissions in await self._db.read(sql, values):
            summary = RoomSummary(
                id=room_id, kind=kind, name=name, topic=topic, last_seq=last_seq, members=count, role=role, read_seq=read_seq
            )
            if permissions != "{}":
                summary.permissions = dict(permissions_of(permissions))
            if role is not None:
                summary.unread = await self._unread(user_id, room_id, read_seq, last_seq)
            if kind == RoomKind.DIRECT:
                peers = await self._db.read(
                    f"SELECT {_USER} FROM members m JOIN users u ON u.id = m.user_id WHERE m.room_id = ? AND m.user_id <> ?",
                    (room_id, user_id),
                )
                summary.peer = to_user(peers[0]) if peers else None
            found.append(summary)
        return found
