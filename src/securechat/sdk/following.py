"""Following: what a client has seen of its rooms, and what it lacks: entries once each and in order, or a `Gap`. Without I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry, EntryType
from securechat.domain.limits import LIMITS
from securechat.protocol import frames as f
from securechat.sdk.room import Room

log = logging.getLogger(__name__)

EVENTS_MAX: Final = 1_000
"""Events that wait for a slow reader. Past it, entries are left in the log, and asked for when the reader has caught up: a client
that only sends need not read, and one that reads slowly misses nothing."""


class Gap(msgspec.Struct, frozen=True):
    """The client was too far behind in a room: entries after `after` are missing here; `Room.history` has them."""

    room: str
    after: int


Event = Entry | f.SignalFrame | Gap

Places = dict[str, int]
"""Room id → `seq`: everything after it is asked for."""


class Following:
    """The rooms of a client, and how far it has them.

    Args:
        make: Makes a room of what the server says of it.
        resume: Room id → last `seq` seen.

    Attributes:
        rooms: The rooms, by id; unread counts and names follow what comes.
        events: What waits for the reader.
    """

    def __init__(self, make: Callable[[RoomSummary], Room], resume: Mapping[str, int]) -> None:
        self._make = make
        self._seen: dict[str, int | None] = dict(resume)
        """None: nothing of this room was shown yet, or there is a gap: go on with whatever comes next."""
        self._asked: set[str] = set()
        self._behind: set[str] = set()
        self.rooms: dict[str, Room] = {}
        self.events: asyncio.Queue[Event] = asyncio.Queue(EVENTS_MAX)

    @property
    def seen(self) -> Places:
        """Room id → last `seq` that was put into `events`."""
        return {room: seq for room, seq in self._seen.items() if seq is not None}

    # ── a connection ─────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, ready: f.Ready, unasked: Mapping[str, int]) -> Places:
        """Begin anew with what the server knows.

        Args:
            ready: What it says.
            unasked: What did not fit into `auth`.

        Returns:
            What of that is to be asked for now.
        """
        known, self.rooms = self.rooms, {}
        missed: Places = {}
        for summary in ready.rooms:
            room = self.rooms[summary.id] = known.get(summary.id) or self._make(summary)
            room.summary = summary
            if summary.id in unasked:
                if unasked[summary.id] != summary.last_seq:
                    missed[summary.id] = unasked[summary.id]
            elif summary.resumed is None:
                self._seen[summary.id] = summary.last_seq
            elif not summary.resumed:
                self._put_gap(summary.id)
        if not ready.complete:  # Where a database does not answer: what is not told is not gone.
            self.rooms |= {room_id: room for room_id, room in known.items() if room_id not in self.rooms}
        for gone in self._seen.keys() - self.rooms.keys():
            del self._seen[gone]
        return missed

    def lose(self) -> None:
        """The connection is over: what was asked for on it, the next one resumes."""
        self._asked.clear()
        self._behind.clear()

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def take_entry(self, entry: Entry, own: str) -> Places:
        """Take the next entry of a room; return what is to be asked for, because entries before it are missing.

        Args:
            entry: It.
            own: The user id of the client: what one wrote oneself is not unread.
        """
        last = self._seen.get(entry.room)
        if last is not None and entry.seq <= last:
            return {}
        if last is not None and entry.seq > last + 1:
            if entry.room in self._asked or entry.room in self._behind:
                return {}
            self._asked.add(entry.room)
            return {entry.room: last}
        if entry.room in self._behind or self.events.full():
            self._behind.add(entry.room)
            return {}
        self._seen[entry.room] = entry.seq
        room = self.rooms.get(entry.room)
        if room is not None and entry.seq > room.summary.last_seq:  # The summary counts what it knew of.
            _note(room.summary, entry, own)
        self.events.put_nowait(entry)
        return {}

    def take_signal(self, signal: f.SignalFrame) -> None:
        """Take a signal; it is lost to a reader who is too slow."""
        if signal.type == "room.opened" and signal.summary is not None:
            self.rooms[signal.summary.id] = self._make(signal.summary)
            self._seen.setdefault(signal.summary.id, None)  # `ready` may have told of it already.
        elif signal.type == "room.closed" and signal.room is not None:
            self.rooms.pop(signal.room, None)
            self._seen.pop(signal.room, None)
        elif signal.type == "read.updated" and signal.room in self.rooms:
            summary = self.rooms[signal.room].summary
            summary.read_seq, summary.unread = signal.read_seq or 0, signal.unread or 0
        if not self.events.full():
            self.events.put_nowait(signal)

    # ── what was asked for ───────────────────────────────────────────────────────────────────────────────────────────

    def take_resumed(self, rooms: Mapping[str, bool]) -> None:
        """Take the answer to what was asked for: whether everything of a room comes, or only the newest page."""
        for room, complete in rooms.items():
            self._asked.discard(room)
            if not complete:
                self._put_gap(room)

    def not_asked(self, rooms: Iterable[str] | None = None) -> None:
        """The server refused: what comes next of these rooms, or of all, shows the gap again."""
        if rooms is None:
            self._asked.clear()
        else:
            self._asked.difference_update(rooms)

    def catch_up(self) -> Places:
        """Return what was left in the log while the reader was slow, if it is no more, to be asked for."""
        if not self._behind or self.events.qsize() > EVENTS_MAX // 4:
            return {}
        places: Places = {}
        for room in self._behind & self.rooms.keys():
            seq = self._seen.get(room)
            if seq is None:
                self.events.put_nowait(Gap(room, 0))
            else:
                places[room] = seq
        self._behind.clear()
        return places

    def asked(self, rooms: Iterable[str]) -> None:
        """They are asked for: until the answer, gaps in them are no news."""
        self._asked.update(rooms)

    def _put_gap(self, room: str) -> None:
        last = self._seen.get(room)
        self._seen[room] = None
        try:
            self.events.put_nowait(Gap(room, last or 0))
        except asyncio.QueueFull:
            log.warning("gap in a room, and nobody reads events", extra={"room": room})


def _note(summary: RoomSummary, entry: Entry, own: str) -> None:
    summary.last_seq = entry.seq
    if entry.type is EntryType.MESSAGE_SENT and entry.user != own:
        summary.unread = min(LIMITS.unread, summary.unread + 1)
    if entry.name is not None:
        summary.name = entry.name
    if entry.topic is not None:
        summary.topic = entry.topic
