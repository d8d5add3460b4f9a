"""Audience: the hub, as seen from where things come for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from securechat.bus.local import Receiver
from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry


class Audience(Receiver, Protocol):
    """The hub, as the sequencer sees it."""

    @property
    def expecting(self) -> bool:
        """Whether a snapshot is being read: then every room may matter."""

    def hears(self, room_id: str) -> bool:
        """Return whether somebody here hears a room."""

    def is_online(self, user_id: str) -> bool:
        """Return whether a user has a connection here."""

    def is_expected(self, user_id: str) -> bool:
        """Return whether a snapshot is being read for a connection of a user: it may be older than what comes now."""

    def users(self) -> list[str]:
        """Return everybody who has a connection here."""

    def rooms_of(self, user_id: str) -> tuple[set[str], set[str]]:
        """Return (rooms that all connections of a user hear, rooms that one of them hears)."""

    def admit(self, user_id: str, summary: RoomSummary, entries: Sequence[Entry]) -> None:
        """Let a user hear a room from `summary.last_seq` on, and send them these entries, which end there."""

    def expel(self, user_id: str, room_id: str) -> None:
        """Let a user not hear a room any more."""
