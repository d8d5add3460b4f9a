"""Memberships: whether the people here hear the rooms that the store says they are in.

A join into a room that nobody heard leaves no gap. So memberships are compared when something may have been lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from securechat.bus.audience import Audience
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogStore

CHUNK: Final = 500
"""Rooms or users that are asked for at once."""
PAGE: Final = 200
"""Newest entries of a room among which a join is looked for that did not come."""


class Memberships:
    """What is in doubt, and setting it right.

    Args:
        audience: The hub.
        store: The truth.
        reached: Returns whether the hub got a room (id) exactly up to a `seq`; if not, sees to it that it will.

    Attributes:
        corrected: How many were set right because the entry did not come.
    """

    def __init__(self, audience: Audience, store: LogStore, reached: Callable[[str, int], bool]) -> None:
        self._audience = audience
        self._store = store
        self._reached = reached
        self._doubts: set[tuple[str, str]] = set()
        """(user, room): to be compared with the store."""
        self.corrected = 0

    @property
    def doubted(self) -> bool:
        """Whether anything is in doubt."""
        return bool(self._doubts)

    def doubt(self, entry: Entry) -> bool:
        """Take in a change of the audience that came after the hub's position had passed it; return whether that is doubtful.

        It is if the hub says otherwise.
        """
        user_id = entry.member or ""
        doubtful = self._audience.is_expected(user_id)
        if self._audience.is_online(user_id) and not doubtful:
            every, some = self._audience.rooms_of(user_id)
            doubtful = (entry.room not in every) if entry.type is EntryType.MEMBER_JOINED else (entry.room in some)
        if doubtful:
            self._doubts.add((user_id, entry.room))
        return doubtful

    async def compare(self) -> None:
        """Find who hears what they are no member of, or does not hear what they are a member of."""
        for some in chunks(self._audience.users(), CHUNK):
            members = await self._store.rooms_of(some)
            for user_id in some:
                every, heard = self._audience.rooms_of(user_id)
                inside = members.get(user_id, set())
                gone = {room_id for room_id in heard - inside if self._store.refusal(self._store.lane(room_id)) is None}
                self._doubts |= {(user_id, room_id) for room_id in (inside - every) | gone}

    async def settle(self) -> None:
        """Set right what is in doubt, as far as that can be known now."""
        for user_id, room_id in list(self._doubts):
            if await self._settle(user_id, room_id):
                self._doubts.discard((user_id, room_id))

    async def _settle(self, user_id: str, room_id: str) -> bool:
        """Set a membership right if what is read and what the hub got are of the same moment; return whether it is right."""
        if self._audience.is_expected(user_id):
            return False  # What their snapshot tells is not known yet.
        if not self._audience.is_online(user_id):
            return True
        summary = await self._store.head(user_id, room_id)
        if summary is None or not self._audience.is_online(user_id):
            return True
        member = summary.role is not None
        page = await self._store.page(room_id, limit=PAGE) if member else None
        every, some = self._audience.rooms_of(user_id)
        if (room_id in every) if member else (room_id not in some):
            return True
        if (page is not None and page.last_seq != summary.last_seq) or not self._reached(room_id, summary.last_seq):
            return False
        self.corrected += 1
        if page is not None:
            self._audience.admit(user_id, summary, _since_join(user_id, page.entries))
        else:
            self._audience.expel(user_id, room_id)
        return True


def _since_join(user_id: str, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries from a user's last join on; nothing if it is not among them: then they read the room as a new one."""
    for index in range(len(entries) - 1, -1, -1):
        if entries[index].type is EntryType.MEMBER_JOINED and entries[index].member == user_id:
            return list(entries[index:])
    return []


def chunks(values: Sequence[str], size: int) -> Iterator[list[str]]:
    """Give the values, so many at a time."""
    parts = iter(values)
    while some := list(itertools.islice(parts, size)):
        yield some
