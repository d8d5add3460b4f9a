"""FollowedRoom: how far the hub has one room, and what came too early. Without I/O."""

from __future__ import annotations

from typing import Final

from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry
from securechat.domain.ports import RoomBatch

HELD_MAX: Final = 2_000
"""Entries of one room that wait for one before them; past it they are read from the log."""


class FollowedRoom:
    """A room of which everything reaches the hub in order.

    Args:
        position: Where it begins.

    Attributes:
        position: The newest `seq` that the hub got, or that everybody here knows from a snapshot.
        since: The hub got everything from there up to the position.
        known: The newest `seq` that exists as far as we know.
        held: By `seq`: what came too early.
        opened: By user: what goes with their join in `held`.
    """

    __slots__ = ("held", "known", "opened", "position", "since")

    def __init__(self, position: int) -> None:
        self.position = self.since = self.known = position
        self.held: dict[int, Entry] = {}
        self.opened: dict[str, RoomSummary] = {}

    @property
    def lacks(self) -> bool:
        """Whether something exists that the hub did not get."""
        return self.position < self.known

    def go_back(self, seq: int) -> None:
        """Begin again after a `seq`: somebody's snapshot ends there, and the hub never got what follows."""
        self.position = seq
        self.since = min(self.since, seq)

    def sort(self, batch: RoomBatch) -> tuple[list[Entry], dict[str, RoomSummary], list[Entry]]:
        """Take in what is not simply next; return (what is in order now, the rooms that open with it, what came again)."""
        repeated = [entry for entry in batch.entries if entry.seq <= self.position]
        for entry in batch.entries:
            if entry.seq > self.position:
                self.held.setdefault(entry.seq, entry)
        self.opened.update(batch.opened)
        ready: list[Entry] = []
        while self.position + 1 in self.held:
            self.position += 1
            ready.append(self.held.pop(self.position))
        if len(self.held) > HELD_MAX:
            self.held.clear()
        self.known = max(self.known, batch.entries[-1].seq)
        if not self.held:
            opened, self.opened = self.opened, {}
        else:
            opened = {entry.member: self.opened[entry.member] for entry in ready if entry.member and entry.member in self.opened}
        return ready, opened, repeated
