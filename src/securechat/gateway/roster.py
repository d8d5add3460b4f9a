"""Roster: who is online at the other servers, room by room, and what the people here see of that.

Memory grows with the people of other servers times their rooms. A server says it of itself and takes nothing back in silence: it
says so, or it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

Presence = dict[str, dict[str, bool]]
"""By room: user → whether they are online."""


class Roster:
    """What the hub knows of other servers. See `bus.redis.Elsewhere`.

    Args:
        here: Who is online here, and in which rooms: by room, user → True.
        is_here: Whether a user is online here.
        show: Shows a change to the people here.
        tell: Tells the other servers who came and went here.
    """

    def __init__(
        self,
        here: Callable[[], Presence],
        is_here: Callable[[str], bool],
        show: Callable[[Presence], None],
        tell: Callable[[Presence], None],
    ) -> None:
        self._is_here = is_here
        self._show = show
        self._servers: dict[bytes, dict[str, set[str]]] = {}
        self.roster = here
        self.tell = tell

    def present(self, server: bytes, rooms: Mapping[str, Mapping[str, bool]], *, first: bool) -> None:
        """Take over what a server says of its people; `first`: nothing that it said before counts."""
        mine = self._servers.setdefault(server, {})
        changes: Presence = {}
        if first:
            changes = {room_id: dict.fromkeys(people, False) for room_id, people in mine.items()}
        for room_id, people in rooms.items():
            changes.setdefault(room_id, {}).update(people)
        visible: Presence = {}
        for room_id, changed in changes.items():
            known = mine.setdefault(room_id, set())
            for user_id, online in changed.items():
                if online == (user_id in known):
                    continue
                (known.add if online else known.discard)(user_id)
                if not self._is_elsewhere(user_id, room_id, server) and not self._is_here(user_id):
                    visible.setdefault(room_id, {})[user_id] = online
            if not known:
                del mine[room_id]
        if visible:
            self._show(visible)

    def gone(self, server: bytes) -> None:
        """A server ended, or is silent."""
        self.present(server, {}, first=True)
        self._servers.pop(server, None)

    def online_in(self, rooms: Iterable[str]) -> set[str]:
        """Return who is online elsewhere, of these rooms."""
        found: set[str] = set()
        for room_id in rooms:
            for mine in self._servers.values():
                found |= mine.get(room_id, set())
        return found

    def is_online(self, user_id: str, room_id: str) -> bool:
        """Return whether a member of a room is online elsewhere."""
        return self._is_elsewhere(user_id, room_id, b"")

    def _is_elsewhere(self, user_id: str, room_id: str, but: bytes) -> bool:
        return any(user_id in mine.get(room_id, ()) for server, mine in self._servers.items() if server != but)
