"""The log of a room: what an entry is, and how it is told.

Everything that changes a room is an `Entry` in its log (law 3). `seq` counts 1, 2, 3 … in each room without a gap (law 2).
The same struct is stored, sent live, sent again on resume and returned in pages; in a page and on resume a message also
carries what became of it (`edited`, `deleted`, `reactions`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

import msgspec


class EntryType(StrEnum):
    """What happened, in the past tense. The words are on the wire and in the database: never rename one."""

    MESSAGE_SENT = "message.sent"
    MESSAGE_EDITED = "message.edited"
    MESSAGE_DELETED = "message.deleted"
    REACTION_ADDED = "reaction.added"
    REACTION_REMOVED = "reaction.removed"
    ROOM_CREATED = "room.created"
    ROOM_UPDATED = "room.updated"
    ROOM_ERASED = "room.erased"
    MEMBER_JOINED = "member.joined"
    MEMBER_LEFT = "member.left"
    MEMBER_REMOVED = "member.removed"
    MEMBER_CHANGED = "member.changed"


CHANGES_AUDIENCE = frozenset({EntryType.MEMBER_JOINED, EntryType.MEMBER_LEFT, EntryType.MEMBER_REMOVED})
"""Entries after which somebody else may read: a block of a batch is cut at each of them."""

CHANGES_TARGET = frozenset(
    {
        EntryType.MESSAGE_EDITED,
        EntryType.MESSAGE_DELETED,
        EntryType.REACTION_ADDED,
        EntryType.REACTION_REMOVED,
    }
)
"""Entries that change the message named by their `target`."""


class Edited(msgspec.Struct, frozen=True):
    """The newest edit of a message."""

    seq: int
    at: int
    body: str


class Entry(msgspec.Struct, tag_field="op", tag="event", omit_defaults=True, kw_only=True):
    """One fact in the log of a room, in the form in which clients get it.

    Attributes:
        type: What happened.
        room: Room id.
        seq: Place in the room's log, from 1.
        at: Milliseconds since 1970, the server's clock. Never used for order.
        user: Who did it.
        device: From which device; with `cmid`, how a client knows its own.
        cmid: The client's own id for the command.
        body: Text of a message or of its new version. Absent once deleted.
        reply_to: `seq` of the message that this one answers.
        target: `seq` of the message that this entry changes.
        emoji: Of a reaction.
        member: Whom a member entry is about.
        role: The member's role in the room.
        kind: Of a room: `public`, `private` or `direct`.
        name: Of a room.
        topic: Of a room.
        permissions: Of a room: every action for which it differs from the default → the least role.
        subscribed: Of a room: a host that its entries are sent to from here on.
        unsubscribed: Of a room: a host that they are not sent to any more, as far as one subscription goes.
        edited: Newest edit of this message, when it was read from the store.
        deleted: `seq` of the entry that deleted this message, or its version.
        reactions: Emoji → users, when it was read from the store.
    """

    type: EntryType
    room: str
    seq: int
    at: int
    user: str
    device: str | None = None
    cmid: str | None = None
    body: str | None = None
    reply_to: int | None = None
    target: int | None = None
    emoji: str | None = None
    member: str | None = None
    role: str | None = None
    kind: str | None = None
    name: str | None = None
    topic: str | None = None
    permissions: dict[str, str] | None = None
    subscribed: str | None = None
    unsubscribed: str | None = None
    edited: Edited | None = None
    deleted: int | None = None
    reactions: dict[str, list[str]] | None = None


class Page(msgspec.Struct, kw_only=True):
    """A stretch of a room's log without a gap, oldest first.

    Attributes:
        room: Room id.
        entries: What was asked for; empty past either end.
        last_seq: The newest `seq` of the room when the page was read. What a message in the page says of its edits and reactions
            is true up to here.
    """

    room: str
    entries: list[Entry]
    last_seq: int


PAGE_BYTES: Final = 8 * 1024 * 1024
"""What entries that are sent together may have, encoded. A record of the session layer holds twice as much: something may wait."""
_OWN_BYTES: Final = 1_024
"""Ids, numbers and names of fields of one entry."""
_CHAR_BYTES: Final = 6
"""A control character in JSON; no character has more, in JSON or in MessagePack."""


def size_bound(entry: Entry) -> int:
    """Return a number of bytes that the encoded entry does not reach: quick, and often several times too high."""
    chars = sum(map(len, filter(None, (entry.body, entry.name, entry.topic, entry.subscribed, entry.unsubscribed))))
    if entry.edited is not None:
        chars += len(entry.edited.body)
    for action, role in (entry.permissions or {}).items():
        chars += len(action) + len(role) + 6
    found = _OWN_BYTES + _CHAR_BYTES * chars
    for emoji, users in (entry.reactions or {}).items():
        found += _CHAR_BYTES * len(emoji) + 16 + sum(map(len, users)) + 4 * len(users)
    return found


def that_fit(entries: Iterable[Entry], size: int = PAGE_BYTES) -> list[Entry]:
    """Return the first entries that have no more than this size together; always one, if there is one."""
    found: list[Entry] = []
    for entry in entries:
        size -= size_bound(entry)
        if size < 0 and found:
            break
        found.append(entry)
    return found


def pieces(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Give the same entries in stretches of which each fits."""
    at = 0
    while at < len(entries):
        some = that_fit(itertools.islice(entries, at, None))
        yield some
        at += len(some)
