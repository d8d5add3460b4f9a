"""Rows and what they stand for: entries, users and rooms as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from securechat.domain.accounts import Role, User
from securechat.domain.entries import Edited, Entry, EntryType
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Unavailable
from securechat.store.database import Row
from securechat.store.sealing import Sealer, Sealing

INSERTED: Final = "room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, sealed"
"""Of an entry's row, as `to_row` makes it."""


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
    subscribed: str | None = None
    unsubscribed: str | None = None


_extra_of: Final = msgspec.json.Decoder(_Extra).decode
_decode_permissions: Final = msgspec.json.Decoder(dict[str, RoomRole]).decode
_encode: Final = msgspec.json.Encoder().encode


def to_user(row: Sequence[object]) -> User:
    """Make a `User` of the columns `id, username, display_name, role, disabled_at`."""
    return User(id=str(row[0]), username=str(row[1]), display_name=str(row[2]), role=Role(str(row[3])), disabled=row[4] is not None)


def name_key(name: str) -> str:
    """Return the form in which names are compared."""
    return name.casefold()


def permissions_of(text: str) -> dict[str, RoomRole]:
    """Return what a room decides for itself, of its column."""
    return {} if text == "{}" else _decode_permissions(text)


def to_row(entry: Entry, sealer: Sealer | None) -> Row:
    """Make the columns `INSERTED` of an entry; its text sealed when there is what seals it."""
    extra = None
    if entry.type is not EntryType.MESSAGE_SENT or entry.reply_to is not None:
        found = _encode(
            _Extra(
                entry.reply_to,
                entry.emoji,
                entry.member,
                entry.role,
                entry.kind,
                entry.name,
                entry.topic,
                entry.permissions,
                entry.subscribed,
                entry.unsubscribed,
            )
        ).decode()
        extra = None if found == "{}" else found
    body, sealed = entry.body, None
    if sealer is not None and body is not None:
        body, sealed = None, sealer.seal(entry, extra)
    return (
        entry.room, entry.seq, entry.type.value, entry.at, entry.user, entry.device, entry.cmid, entry.target, body, extra, sealed,
    )  # fmt: skip


async def to_rows(entries: Iterable[Entry], sealer: Sealer | None) -> list[Row]:
    """Make the rows of a transaction."""
    if sealer is None:
        return [to_row(entry, None) for entry in entries]
    rows = []
    for entry in entries:
        if entry.body is not None:
            await sealer.prepare(entry)
        rows.append(to_row(entry, sealer))
        if entry.type is EntryType.ROOM_ERASED:
            sealer.renew(entry.room)
    return rows


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
        entry.subscribed = extra.subscribed
        entry.unsubscribed = extra.unsubscribed
    return entry


async def to_entries(room_id: str, rows: Sequence[Row], sealing: Sealing | None, erased: int | None) -> list[Entry]:
    """Make entries of rows of `COLUMNS`, open.

    Args:
        room_id: Their room.
        rows: As they are stored.
        sealing: Opens them.
        erased: Before which entry the room was erased, as long as the job that removes the texts is not done.

    Raises:
        Unavailable: They are sealed, and there are no keys.
    """
    entries = [to_entry(room_id, row) for row in rows]
    if sealing is not None:
        await sealing.open(entries, rows)
    elif any(row[11] is not None for row in rows):
        raise Unavailable("These texts are sealed, and there are no keys here.")
    if erased is not None:  # Erased is erased from that commit on, also what was never sealed.
        for entry in entries:
            if entry.seq < erased and entry.body is not None:
                entry.body, entry.deleted = None, erased
    return entries


def to_state(room_id: str, row: Row, members: Iterable[Sequence[str]]) -> RoomState:
    """Make a room's state of the columns `kind, name, topic, permissions, last_seq` and of (user id, role)."""
    kind, name, topic, permissions, last_seq = row
    return RoomState(
        room_id, RoomKind(kind), name, topic, last_seq, {user_id: RoomRole(role) for user_id, role in members},
        permissions_of(permissions),
    )  # fmt: skip


def permissions_text(state: RoomState) -> str:
    """Return the column of what a room decides for itself."""
    return _encode(state.permissions).decode()


def add_reactions(entries: Sequence[Entry], rows: Iterable[Row]) -> None:
    """Put reactions into the entries of one room.

    Args:
        entries: In any order.
        rows: `seq, emoji, user_id`, in the order in which they were added.
    """
    by_seq = {entry.seq: entry for entry in entries}
    for seq, emoji, user_id in rows:
        entry = by_seq[seq]
        if entry.deleted is not None:
            continue  # Its room was erased, and the job that removes the reactions is not there yet.
        if entry.reactions is None:
            entry.reactions = {}
        entry.reactions.setdefault(emoji, []).append(user_id)


def add_edit(entry: Entry, edit: Entry) -> None:
    """Put its newest edit into a message."""
    if edit.body is None:  # Damaged: then the message is not what its author last said.
        entry.body, entry.deleted = None, edit.deleted or edit.seq
    else:
        entry.edited = Edited(seq=edit.seq, at=edit.at, body=edit.body)
