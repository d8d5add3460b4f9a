"""What happens around a connection while its snapshot is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from securechat.domain.accounts import Role
from securechat.domain.commands import RoomSummary


class Outdated(Exception):
    """A snapshot is older than what this server heard of a room, and what lies in between did not come: it is to be read again."""


@dataclass(slots=True)
class Expected:
    """What happens to a user whose connection is being let in.

    Attributes:
        device: Whose session the connection belongs to.
        rooms: Rooms that changed: (`seq`, the room, or None for left).
        ended: Whether the session ended.
        role: The role that the user got.
    """

    device: str
    rooms: dict[str, tuple[int, RoomSummary | None]] = field(default_factory=dict)
    ended: bool = False
    role: Role | None = None


@dataclass(slots=True)
class Arrival:
    """What `Hub.attach` found out.

    Attributes:
        missed: (room, after, up to): what was delivered and is not in the snapshot.
        gone: Rooms of the snapshot that the user is not in any more.
        opened: Rooms that the user joined since.
        role: The role that the user got since.
    """

    missed: list[tuple[str, int, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    opened: list[RoomSummary] = field(default_factory=list)
    role: Role | None = None
