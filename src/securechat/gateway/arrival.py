"""What happened in the rooms of a connection while its snapshot was read."""

from __future__ import annotations

from dataclasses import dataclass, field

from securechat.domain.commands import RoomSummary


@dataclass(slots=True)
class Arrival:
    """What `Hub.attach` found out.

    Attributes:
        missed: (room, after, up to): what was delivered and is not in the snapshot.
        gone: Rooms of the snapshot that the user is not in any more.
        opened: Rooms that the user joined since.
    """

    missed: list[tuple[str, int, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    opened: list[RoomSummary] = field(default_factory=list)
