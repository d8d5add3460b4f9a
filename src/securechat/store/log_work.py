"""LogWork: a `LogTransaction` in memory: what was loaded, what was decided on it, and what that leaves."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from securechat.domain.audit import AuditEvent
from securechat.domain.entries import CHANGES_TARGET, Edited, Entry, EntryType
from securechat.domain.ports import CmidKey, TargetKey
from securechat.domain.rooms import RoomState


class LogWork:
    """See `LogTransaction`. Each database adds how it loads.

    Args:
        rooms: States of rooms as they are committed; changed in place.

    Attributes:
        rooms: The same.
        known_sent: By cmid, what is stored or was appended.
        known_targets: Entries that others are about.
        reads: (user id, room id, seq, back) of each marker to move.
        touched: Rooms that were appended to: their states are right only if this commits.
        asked: Keys that were asked for and are not known.
        before: Rooms as they are without this, where somebody keeps that.
        apart: See `LogTransaction`.
        behind: The same.
    """

    __slots__ = (
        "apart", "appended", "asked", "before", "behind", "known_sent", "known_targets", "reads", "recorded", "rooms", "touched",
    )  # fmt: skip

    def __init__(self, rooms: dict[str, RoomState]) -> None:
        self.rooms = rooms
        self.known_sent: dict[CmidKey, Entry] = {}
        self.known_targets: dict[TargetKey, Entry] = {}
        self.appended: list[Entry] = []
        self.recorded: list[AuditEvent] = []
        self.reads: list[tuple[str, str, int, bool]] = []
        self.touched: set[str] = set()
        self.asked: set[CmidKey] = set()
        self.before: dict[str, RoomState] = {}
        self.apart = False
        self.behind: Collection[str] = ()

    def room(self, room_id: str) -> RoomState | None:
        """See `LogTransaction.room`."""
        return self.rooms.get(room_id)

    def sent(self, key: CmidKey) -> Entry | None:
        """See `LogTransaction.sent`."""
        found = self.known_sent.get(key)
        if found is None:
            self.asked.add(key)
        return found

    def target(self, key: TargetKey) -> Entry | None:
        """See `LogTransaction.target`."""
        return self.known_targets.get(key)

    def append(self, entry: Entry) -> None:
        """See `LogTransaction.append`."""
        state = self.rooms.get(entry.room)
        if state is None:
            state = self.rooms[entry.room] = RoomState(entry.room)
        self.touched.add(entry.room)
        state.apply(entry)
        self.appended.append(entry)
        if entry.cmid is not None and entry.device is not None:
            self.known_sent[entry.room, entry.device, entry.cmid] = entry
        if entry.type in CHANGES_TARGET and entry.target is not None:
            _change_target(entry, self.known_targets[entry.room, entry.target])

    def mark_read(self, user_id: str, room_id: str, seq: int, *, back: bool) -> None:
        """See `LogTransaction.mark_read`."""
        self.reads.append((user_id, room_id, seq, back))

    def record(self, event: AuditEvent) -> None:
        """See `AuditTransaction.record`."""
        self.recorded.append(event)

    def leave(self, rooms: Collection[str]) -> None:
        """Leave what was decided on these rooms out: it is not stored."""
        self.behind = {*self.behind, *rooms}
        self.appended[:] = [entry for entry in self.appended if entry.room not in rooms]
        self.reads[:] = [mark for mark in self.reads if mark[1] not in rooms]
        self.touched.difference_update(rooms)

    def of(self, *kinds: EntryType) -> Sequence[Entry]:
        """Return what was appended of these kinds."""
        return [entry for entry in self.appended if entry.type in kinds]


def _change_target(entry: Entry, target: Entry) -> None:
    reactions = target.reactions = target.reactions or {}
    match entry.type:
        case EntryType.MESSAGE_EDITED:
            target.edited = Edited(seq=entry.seq, at=entry.at, body=entry.body or "")
        case EntryType.MESSAGE_DELETED:
            target.deleted, target.body, target.edited, target.reactions = entry.seq, None, None, None
        case EntryType.REACTION_ADDED if entry.emoji:
            reactions.setdefault(entry.emoji, []).append(entry.user)
        case EntryType.REACTION_REMOVED if entry.emoji:
            reactions[entry.emoji].remove(entry.user)
            if not reactions[entry.emoji]:
                del reactions[entry.emoji]
