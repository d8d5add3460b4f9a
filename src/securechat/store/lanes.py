"""Lane: what a server keeps in memory of the rooms of one lane, between their commits and while one is under way.

A state that knows entry s is right exactly as long as the room's `last_seq` is s: that is compared in the commit. So what is here
may be behind, and what other servers say on the bus only saves a commit that would find it out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import CmidKey, RoomBatch, TargetKey
from securechat.domain.rooms import RoomState
from securechat.store.database import Row
from securechat.store.log_work import LogWork

ROOMS_CACHED: Final = 10_000
"""Of each lane."""
HEARD_MAX: Final = 1_000
"""Places of one room that are kept while a commit is under way; past it, the next one finds out by itself."""
CMIDS_KNOWN: Final = 10_000
"""Cmids of the last commits of each lane, some 350 bytes each: whoever repeats one of them is looked up before, not after, the
commit fails on it."""
SIMPLE: Final = frozenset({EntryType.MESSAGE_SENT, EntryType.MESSAGE_EDITED, EntryType.REACTION_ADDED, EntryType.REACTION_REMOVED})
"""Entries that change nothing but `last_seq` in the state of a room."""


GoneOn = Mapping[str, tuple[int, bool] | None]
"""Rooms in which another server was ahead: (where they are now, whether only messages were sent); None where more has changed in
them than their last `seq`."""


def keys_of(entries: Sequence[Entry]) -> set[CmidKey]:
    """Return the cmids of entries, with whose they are."""
    return {(entry.room, entry.device, entry.cmid) for entry in entries if entry.device is not None and entry.cmid is not None}


class Lane:
    """What is in memory of the rooms of one lane.

    Attributes:
        rooms: As they are committed, and while a commit is under way as it would leave them.
        cmids: Of the last commits.
        heard: By room, the places of entries that other servers say they appended, while a commit is under way.
        late: Rooms of which more has changed than their last `seq`: they are read forward before anything is decided on them.
        looked: What was looked at for a commit that was behind, and has not changed since.
        turn: Held by the commit that is under way.
    """

    __slots__ = ("cmids", "heard", "late", "looked", "rooms", "turn")

    def __init__(self) -> None:
        self.rooms: dict[str, RoomState] = {}
        self.cmids: dict[CmidKey, None] = {}
        self.heard: dict[str, list[tuple[int, EntryType]]] = {}
        self.late: set[str] = set()
        self.looked: dict[TargetKey, Row] = {}
        self.turn = asyncio.Lock()

    def hear(self, batch: RoomBatch) -> None:
        """Take in what another server appended; while a commit is under way that may not stand on it, when that has ended."""
        if batch.room not in self.rooms:
            return
        heard = self.heard.setdefault(batch.room, [])
        if len(heard) < HEARD_MAX:
            heard += [(entry.seq, entry.type) for entry in batch.entries]
        if not self.turn.locked():
            self.catch_up()

    def catch_up(self) -> None:
        """Apply what was heard, as far as it follows on what is known. To be called where no commit is under way."""
        heard, self.heard = self.heard, {}
        for room_id, places in heard.items():
            state = self.rooms.get(room_id)
            if state is None:
                continue
            if any(kind not in SIMPLE for _, kind in places):
                del self.rooms[room_id]  # Who may do what is only ever taken from the database.
                continue
            for seq, kind in sorted(places):
                if seq == state.last_seq + 1:
                    state.last_seq = seq
                    if kind is not EntryType.MESSAGE_SENT:
                        self.looked = {key: row for key, row in self.looked.items() if key[0] != room_id}

    def learn(self, gone_on: GoneOn, looked: Mapping[TargetKey, Row]) -> None:
        """Take in what a commit found out that was behind, after it was forgotten.

        Args:
            gone_on: What the database said.
            looked: What was looked at in vain.
        """
        for room_id, found in gone_on.items():
            state = self.rooms.get(room_id)
            if state is None:
                continue
            if found is None:
                self.late.add(room_id)
            else:
                state.last_seq = max(state.last_seq, found[0])
        unchanged = {room_id for room_id, found in gone_on.items() if found is not None and found[1]}
        self.looked = {key: row for key, row in looked.items() if key[0] in unchanged}

    def forget(self, tried: LogWork, rooms: Collection[str] | None = None) -> None:
        """Take back what is in memory of a commit that is not stored; or not in these rooms."""
        appended = Counter(entry.room for entry in tried.appended)
        rarer = {entry.room for entry in tried.appended if entry.type not in SIMPLE}
        for room_id in tried.touched if rooms is None else tried.touched.intersection(rooms):
            state = self.rooms.get(room_id)
            if room_id in tried.before:
                self.rooms[room_id] = tried.before[room_id]
            elif state is not None and room_id not in rarer:
                state.last_seq -= appended[room_id]
            else:
                self.rooms.pop(room_id, None)

    def remember(self, tried: LogWork) -> None:
        """Keep what is in memory of a commit that is stored."""
        for key in keys_of(tried.appended):
            self.cmids[key] = None
        while len(self.cmids) > CMIDS_KNOWN:
            del self.cmids[next(iter(self.cmids))]
        while len(self.rooms) > ROOMS_CACHED:
            room_id = next(iter(self.rooms))
            del self.rooms[room_id]
            self.late.discard(room_id)
