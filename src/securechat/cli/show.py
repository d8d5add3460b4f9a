"""What an entry looks like on one line of a terminal. Pure: no client, no output."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry, EntryType


def printable(text: str) -> str:
    """Return a text from outside that cannot move the cursor, change colours or hide a part of itself."""
    return "".join(char if char.isprintable() else "\n    " if char == "\n" else "\ufffd" for char in text)


def room_name(room: RoomSummary) -> str:
    """Return how a room is called here: `#ops`, or `@ana` for the direct room with her."""
    return f"@{room.peer.username if room.peer else ''}" if room.kind == "direct" else f"#{room.name}"


def entry_line(entry: Entry, room: str, name: Callable[[str | None], str], blocked: Collection[str] = ()) -> str:
    """Return `#room 12 14:02 @ana: text`.

    Args:
        entry: What happened.
        room: How the room is called, with its `#` or `@`.
        name: Gives the name of a user id.
        blocked: User ids whose texts are folded away.
    """
    clock = time.strftime("%H:%M", time.localtime(entry.at / 1000))
    told = _told(entry, name, folded=entry.user in blocked, direct=room.startswith("@"))
    return f"{room} {entry.seq} {clock} {told}"


def _told(entry: Entry, name: Callable[[str | None], str], *, folded: bool, direct: bool) -> str:
    who = name(entry.user)
    body = "(blocked)" if folded else printable((entry.edited.body if entry.edited else entry.body) or "")
    match entry.type:
        case EntryType.MESSAGE_SENT if entry.deleted:
            return f"{who}: (deleted)"
        case EntryType.MESSAGE_SENT:
            answer = f" (to {entry.reply_to})" if entry.reply_to else ""
            reactions = "".join(f"  {emoji}{len(users)}" for emoji, users in (entry.reactions or {}).items())
            return f"{who}{answer}: {body}{' (edited)' if entry.edited else ''}{reactions}"
        case EntryType.MESSAGE_EDITED:
            return f"{who} changed {entry.target}: {body}" if not entry.deleted else f"{who} changed {entry.target} (deleted)"
        case EntryType.MESSAGE_DELETED:
            return f"{who} deleted {entry.target}"
        case EntryType.REACTION_ADDED:
            return f"{who} reacted {entry.emoji} to {entry.target}"
        case EntryType.REACTION_REMOVED:
            return f"{who} took {entry.emoji} back from {entry.target}"
        case EntryType.MEMBER_JOINED:
            by = f" (brought in by {who})" if entry.user != entry.member and not direct else ""
            return f"{name(entry.member)} joined{by}"
        case EntryType.MEMBER_LEFT:
            return f"{name(entry.member)} left"
        case EntryType.MEMBER_REMOVED:
            return f"{name(entry.member)} was removed by {who}"
        case EntryType.MEMBER_CHANGED:
            return f"{name(entry.member)} is {entry.role} now, by {who}"
        case EntryType.ROOM_ERASED:
            return "everything before this was erased"
        case EntryType.ROOM_CREATED:
            return f"{who} began the conversation" if direct else f"{who} created the room"
        case EntryType.ROOM_UPDATED:
            return f"{who}{_updated(entry)}"


def _updated(entry: Entry) -> str:
    if entry.subscribed is not None:
        return f" subscribed {printable(entry.subscribed)}: what happens here is sent there from now on"
    if entry.unsubscribed is not None:
        return f" ended a subscription of {printable(entry.unsubscribed)}"
    named = f" renamed the room {printable(entry.name)}" if entry.name is not None else ""
    topic = f" set the topic: {printable(entry.topic)}" if entry.topic else " removed the topic" if entry.topic == "" else ""
    return f"{named}{' and' if named and topic else ''}{topic}"
