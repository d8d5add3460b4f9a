"""What servers and their connections tell each other. See `securechat.domain.ports`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry


@dataclass(slots=True)
class Signal:
    """Something that is not in any log: shown if it arrives, dropped first when a connection is slow.

    Attributes:
        room: Goes to the members of this room, unless `user` is set.
        user: Goes to the connections of this user only.
        payload: A wire struct of `protocol.frames`.
        ephemeral: Whether it may be dropped.
        except_user: Does not go to this user's connections.
    """

    payload: object
    room: str = ""
    user: str = ""
    ephemeral: bool = True
    except_user: str = ""


@dataclass(slots=True)
class RoomBatch:
    """What one commit added to one room.

    Attributes:
        room: Room id.
        entries: In order of `seq`, without a gap.
        opened: The room as each user who joined in this batch sees it.
    """

    room: str
    entries: list[Entry]
    opened: dict[str, RoomSummary] = field(default_factory=dict)


class MessageBus(Protocol):
    """From the one who committed to the hub of every server. At most once: the log heals what is lost."""

    def publish(self, batches: Sequence[RoomBatch]) -> None:
        """Tell all hubs of committed entries. Never waits."""

    def signal(self, signal: Signal) -> None:
        """Tell all hubs of something ephemeral. Never waits."""

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """Close connections of a user: of these devices, or all."""

    def invalidate(self, what: str, key: str) -> None:
        """Have the other servers forget what they keep in memory. Never waits.

        Args:
            what: A word of `STALE`.
            key: Of whom.
        """

    def on_stale(self, what: str, forget: Callable[[str], None]) -> None:
        """Call `forget` with the key when another server invalidates it; with an empty one when it may have and was not heard."""


BLOCKS: Final = "blocks"
"""Whom a user blocked."""
SETTINGS: Final = "settings"
"""Settings that are in the store, like the server's name."""
ROLES: Final = "roles"
"""Server roles of people who are connected; a change is a `Signal` as well."""
STALE: Final = frozenset({BLOCKS, SETTINGS, ROLES})


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody writes in a room."""

    room: str
    user: str
