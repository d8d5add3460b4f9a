"""PresenceBoard: who is shown as online. Changes gather for a moment, so that a storm of logins is one signal for each room."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from securechat.gateway.roster import Presence, Roster

DELAY_S: Final = 0.5
"""Changes of presence gather this long."""
FLAP_S: Final = 3.0
"""Who comes and goes all the time is shown at most once in this time, as what they are in the end."""


class People(Protocol):
    """The hub, as the board sees it."""

    def is_online(self, user_id: str) -> bool:
        """Return whether a user has a connection here."""

    def show_presence(self, presence: Presence) -> None:
        """Show who came and went to the people here."""


class PresenceBoard:
    """What was shown of the users of this server.

    Args:
        loop: For gathering.
        people: Who is here.

    Attributes:
        others: Who is online at other servers; none where there are none.
        rooms_of: By user: their rooms, of who is here, and of who went as long as that was not shown. The hub keeps it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, people: People) -> None:
        self._loop = loop
        self._people = people
        self._changed: dict[str, None] = {}
        self._shown: set[str] = set()
        self._shown_at: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.others: Roster | None = None
        self.rooms_of: dict[str, set[str]] = {}

    def is_shown(self, user_id: str) -> bool:
        """Return whether others believe that a user is online."""
        return user_id in self._shown

    def changed(self, user_id: str) -> None:
        """Somebody came or went."""
        self._changed[user_id] = None
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._show)

    def tell_others(self, presence: Presence) -> None:
        """Tell other servers, if there are any, what is not to be gathered: where somebody is shown."""
        if self.others is not None and presence:
            self.others.tell(presence)

    def _show(self) -> None:
        self._timer = None
        by_room: Presence = {}
        now = self._loop.time()
        flapping = {user_id: None for user_id in self._changed if now - self._shown_at.get(user_id, -FLAP_S) < FLAP_S}
        for user_id in self._changed:
            if user_id in flapping:
                continue
            online = self._people.is_online(user_id)
            if online == (user_id in self._shown):
                continue  # Came and went, or the other way round, while it gathered.
            self._shown_at[user_id] = now
            (self._shown.add if online else self._shown.discard)(user_id)
            for room_id in sorted(self.rooms_of.get(user_id, ())):  # In an order that does not hang on how strings are hashed.
                by_room.setdefault(room_id, {})[user_id] = online
            if not online:
                self.rooms_of.pop(user_id, None)
        self._changed = flapping
        self._shown_at = {user_id: at for user_id, at in self._shown_at.items() if now - at < FLAP_S}
        if flapping:
            self._timer = self._loop.call_later(DELAY_S, self._show)
        self.tell_others(by_room)
        if self.others is not None:  # Who is online elsewhere was so before, and is so after.
            others = self.others
            by_room = {
                room_id: {user_id: online for user_id, online in people.items() if not others.is_online(user_id, room_id)}
                for room_id, people in by_room.items()
            }
        self._people.show_presence(by_room)
