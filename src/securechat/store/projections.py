"""Projections: what follows from an entry that is more than a message, in its own transaction.

`entries` is the truth; `rooms`, `members`, `reactions` and the marks in `entries` itself are made of it here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from securechat.domain.entries import Entry, EntryType
from securechat.domain.rooms import RoomState
from securechat.store.database import Transaction
from securechat.store.names import claim_name
from securechat.store.rows import name_key, permissions_text

ERASES: Final = frozenset({EntryType.MESSAGE_DELETED, EntryType.ROOM_ERASED})
"""Entries after which a text has to leave the files."""

_MARK: Final = (
    "INSERT INTO reads (user_id, room_id, read_seq) VALUES (?, ?, ?) ON CONFLICT (user_id, room_id)"
    " DO UPDATE SET read_seq = excluded.read_seq WHERE ? OR reads.read_seq < excluded.read_seq"
)


async def mark_reads(transaction: Transaction, reads: Iterable[tuple[str, str, int, bool]]) -> None:
    """Move read markers: (user id, room id, seq, whether also back)."""
    for each in reads:
        await transaction.execute(_MARK, each)


def roles_after(entries: Iterable[Entry]) -> dict[tuple[str, str | None], str | None]:
    """Return who is a member after all of these entries: (room id, user id) → role, or None for who is not any more."""
    roles: dict[tuple[str, str | None], str | None] = {}
    for entry in entries:
        match entry.type:
            case EntryType.MEMBER_JOINED | EntryType.MEMBER_CHANGED:
                roles[entry.room, entry.member] = entry.role
            case EntryType.MEMBER_LEFT | EntryType.MEMBER_REMOVED:
                roles[entry.room, entry.member] = None
    return roles


async def project_members(transaction: Transaction, entries: Iterable[Entry]) -> None:
    """Write who is a member after all of these entries. Two statements at most, whatever their number is."""
    roles = roles_after(entries)
    gone = [whom for whom, role in roles.items() if role is None]
    there = [(*whom, role) for whom, role in roles.items() if role is not None]
    if gone:
        await transaction.execute_many("DELETE FROM members WHERE room_id = ? AND user_id = ?", gone)
    if there:
        await transaction.execute_many(
            "INSERT INTO members (room_id, user_id, role) VALUES (?, ?, ?)"
            " ON CONFLICT (room_id, user_id) DO UPDATE SET role = excluded.role",
            there,
        )


async def project(transaction: Transaction, entry: Entry, state: RoomState) -> None:
    """Write what follows from an entry, except for members (see `project_members`).

    Args:
        transaction: The one that stores the entry.
        entry: It is stored already.
        state: Its room as the whole commit leaves it.
    """
    execute = transaction.execute
    room = (entry.room, entry.target)
    match entry.type:
        case EntryType.MESSAGE_EDITED:
            await execute("UPDATE entries SET edit_seq = ? WHERE room_id = ? AND seq = ?", (entry.seq, *room))
        case EntryType.MESSAGE_DELETED:
            gone = (entry.seq, *room)
            await execute("UPDATE entries SET body = NULL, sealed = NULL, deleted_seq = ? WHERE room_id = ? AND seq = ?", gone)
            await execute(
                "UPDATE entries SET body = NULL, sealed = NULL, deleted_seq = ? WHERE room_id = ? AND target = ?"
                " AND type = 'message.edited'",
                gone,
            )
            await execute("DELETE FROM reactions WHERE room_id = ? AND seq = ?", room)
        case EntryType.REACTION_ADDED:
            await execute(
                "INSERT INTO reactions (room_id, seq, emoji, user_id, added_seq) VALUES (?, ?, ?, ?, ?)",
                (*room, entry.emoji, entry.user, entry.seq),
            )
        case EntryType.REACTION_REMOVED:
            await execute(
                "DELETE FROM reactions WHERE room_id = ? AND seq = ? AND emoji = ? AND user_id = ?",
                (*room, entry.emoji, entry.user),
            )
        case EntryType.ROOM_CREATED:
            name = entry.name or ""
            await claim_name(transaction, state)
            await execute(
                "INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                (entry.room, entry.kind, name, name_key(name), entry.topic or "", entry.at),
            )
        case EntryType.ROOM_UPDATED:
            await claim_name(transaction, state)
            await execute(
                "UPDATE rooms SET name = ?, name_key = ?, topic = ?, permissions = ? WHERE id = ?",
                (state.name, name_key(state.name), state.topic, permissions_text(state), entry.room),
            )
        case EntryType.ROOM_ERASED:
            await execute(
                "UPDATE room_keys SET wrapped = NULL, destroyed_at = ?, erased_seq = ?"
                " WHERE room_id = ? AND first_seq < ? AND wrapped IS NOT NULL",
                (entry.at, entry.seq, entry.room, entry.seq),
            )
            await execute(
                "INSERT INTO storage_jobs (kind, room_id, cursor_room, cursor_seq, until_seq, done, damaged, started_at)"
                " VALUES ('erase', ?, ?, 0, ?, 0, 0, ?)",
                (entry.room, entry.room, entry.seq, entry.at),
            )
