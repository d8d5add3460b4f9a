"""The state of a room that decisions are made on. Derived from its log alone, by `RoomState.apply`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from securechat.domain.entries import Entry, EntryType


class RoomKind(StrEnum):
    """Who can find and enter a room."""

    PUBLIC = "public"
    """Everybody with an account finds it and may join."""
    PRIVATE = "private"
    """Only members know of it; members bring others in."""
    DIRECT = "direct"
    """Two people, for ever."""


class RoomRole(StrEnum):
    """What a member may do in one room."""

    OWNER = "owner"
    MODERATOR = "moderator"
    MEMBER = "member"
    GUEST = "guest"


@dataclass(slots=True)
class RoomState:
    """What the newest entry left behind.

    Attributes:
        id: Room id.
        kind: Who can find and enter it.
        name: Empty for a direct room.
        topic: What it is about.
        last_seq: The newest entry's place.
        members: User id → role in this room.
        permissions: Action → the least role for it, where this room differs from the default.
    """

    id: str
    kind: RoomKind = RoomKind.PRIVATE
    name: str = ""
    topic: str = ""
    last_seq: int = 0
    members: dict[str, RoomRole] = field(default_factory=dict)
    permissions: dict[str, RoomRole] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        """Take the next entry in.

        Raises:
            ValueError: The entry is not the next one.
        """
        if entry.seq != self.last_seq + 1:
            raise ValueError(f"entry {entry.seq} cannot follow {self.last_seq} in {self.id}")
        self.last_seq = entry.seq
        match entry.type:
            case EntryType.MESSAGE_SENT:
                pass  # By far the most common: named first, so that it is the quickest to leave.
            case EntryType.MEMBER_JOINED | EntryType.MEMBER_CHANGED if entry.member:
                self.members[entry.member] = RoomRole(entry.role or RoomRole.MEMBER)
            case EntryType.MEMBER_LEFT | EntryType.MEMBER_REMOVED if entry.member:
                self.members.pop(entry.member, None)
            case EntryType.ROOM_CREATED | EntryType.ROOM_UPDATED:
                self.kind = RoomKind(entry.kind or self.kind)
                self.name = self.name if entry.name is None else entry.name
                self.topic = self.topic if entry.topic is None else entry.topic
                if entry.permissions is not None:
                    self.permissions = {action: RoomRole(role) for action, role in entry.permissions.items()}
