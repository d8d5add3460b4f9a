"""Rooms and their members."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from securechat.domain.accounts import User
from securechat.domain.commands.words import Command, Id, Text
from securechat.domain.limits import LIMITS


class RoomCreate(Command, kw_only=True, tag="room.create"):
    """Create a room and become its owner."""

    name: Text
    kind: Literal["public", "private"] = "private"
    topic: Text = ""
    members: Annotated[list[Id], Meta(max_length=200)] = []


class RoomDirect(Command, kw_only=True, tag="room.direct"):
    """Open the direct room with somebody; the same one each time."""

    user: Id


class RoomUpdate(Command, kw_only=True, tag="room.update"):
    """Change a room's name or topic."""

    room: Id
    name: Text | None = None
    topic: Text | None = None


class RoomList(Command, kw_only=True, tag="room.list"):
    """List one's own rooms."""


class RoomBrowse(Command, kw_only=True, tag="room.browse"):
    """List public rooms, by name."""

    query: Text = ""
    cursor: Text = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 50


class RoomGet(Command, kw_only=True, tag="room.get"):
    """Get one room."""

    room: Id


class RoomLookup(Command, kw_only=True, tag="room.lookup"):
    """Find a room by its name among one's own and the public ones."""

    name: Text


class RoomJoin(Command, kw_only=True, tag="room.join"):
    """Join a public room."""

    room: Id


class RoomLeave(Command, kw_only=True, tag="room.leave"):
    """Leave a room."""

    room: Id


MEMBERS_PAGE: Final = 1_000
"""Members in one page at most, so that a room of 100,000 is a hundred short answers and not one of megabytes."""


class MemberList(Command, kw_only=True, tag="member.list"):
    """List the members of a room: pages by id, and within a page by name."""

    room: Id
    cursor: Text = ""
    limit: Annotated[int, Meta(ge=1, le=MEMBERS_PAGE)] = MEMBERS_PAGE


class MemberAdd(Command, kw_only=True, tag="member.add"):
    """Bring somebody into a room."""

    room: Id
    user: Id


class MemberRemove(Command, kw_only=True, tag="member.remove"):
    """Remove somebody from a room."""

    room: Id
    user: Id


class RoomPermit(Command, kw_only=True, tag="room.permit"):
    """Say which role in this room an action needs at least; without a role, the default holds again."""

    room: Id
    action: Text
    role: Literal["owner", "moderator", "member", "guest"] | None = None


class MemberRole(Command, kw_only=True, tag="member.role"):
    """Give a member another role in a room."""

    room: Id
    user: Id
    role: Literal["owner", "moderator", "member", "guest"]


class RoomSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A room as one user sees it.

    Attributes:
        id: Room id.
        kind: `public`, `private` or `direct`.
        name: Empty for a direct room: show the peer's.
        topic: What the room is about.
        last_seq: Newest entry.
        members: How many.
        role: One's own role in it; None when not a member.
        read_seq: How far one has read.
        permissions: Action → the least role for it, where this room differs from the default.
        unread: Messages by others after `read_seq`, at most `limits.unread`.
        peer: The other person of a direct room.
        resumed: In `ready`: whether everything after the given `seq` follows. False means: too far behind, the newest page follows.
    """

    id: str
    kind: str
    name: str = ""
    topic: str = ""
    last_seq: int = 0
    members: int = 0
    role: str | None = None
    read_seq: int = 0
    unread: int = 0
    peer: User | None = None
    permissions: dict[str, str] = {}
    resumed: bool | None = None


class Rooms(msgspec.Struct, kw_only=True):
    """Rooms, and where to go on.

    Attributes:
        complete: Whether these are all; else one of the databases does not answer, and rooms that are not here may be there.
    """

    rooms: list[RoomSummary]
    next_cursor: str | None = None
    complete: bool = True


class Member(msgspec.Struct, kw_only=True):
    """A user in a room."""

    user: User
    role: str
    presence: str


class Members(msgspec.Struct, kw_only=True):
    """Members of a room, by name, and where to go on: a room of up to a thousand is one page."""

    members: list[Member]
    next_cursor: str | None = None
