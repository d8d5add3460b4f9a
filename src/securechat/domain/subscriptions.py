"""Subscriptions: where else the entries of a room are sent (outgoing webhooks), and what could not be delivered there.

The outbox is the room's log itself: a subscription holds how far its target has it. What the target refused for good, or did not
take in all tries, is a dead letter: a place in the log, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from securechat.domain.audit import AuditEvent
from securechat.domain.entries import EntryType
from securechat.errors import InvalidInput

SUBSCRIPTION: Final = "sub"
"""Prefix of ids."""
PURPOSE: Final = "subscription"
"""What its secret is sealed for."""
URL_CHARS: Final = 2_048
ROOM_MAX: Final = 10
"""Subscriptions of one room."""
LETTERS_MAX: Final = 1_000
"""Dead letters of one subscription; the next one disables it, and nothing is lost."""


class SubscriptionState(StrEnum):
    """Whether anything is sent."""

    PENDING = "pending"
    """The room has not been told yet: nothing is sent. Where the server ended just then, it stays so."""
    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"
    """By the server; the reason says why. It goes on where it was when somebody resumes it."""


@dataclass(frozen=True, slots=True)
class SubscriptionRecord:
    """A subscription as it is stored.

    Attributes:
        id, room: Whose entries are sent.
        url: Where to. It may hold a secret of the target's: only who may change it sees it.
        types: Of the entries that are sent; empty for all.
        state: Whether anything is sent.
        reason: Why it is disabled, in words; why the last try failed, while it is active.
        cursor: Everything up to this `seq` is delivered, left out, or a dead letter.
        secret: Sealed.
        old_secret: The one before, sealed; it signs, too, until `old_until`.
        old_until: In milliseconds since 1970.
        created_by, created_at: Who made it, and when.
        attempts: How often the entry after the cursor was tried in vain.
        first_at: When it was tried first, in milliseconds since 1970; 0: never.
        next_at: When it is tried again.
        failing_since: Since when nothing was delivered although it was tried; 0: it works.
        delivered_at: When something was delivered last; 0: never.
    """

    id: str
    room: str
    url: str
    types: tuple[str, ...]
    state: SubscriptionState
    reason: str
    cursor: int
    secret: bytes
    old_secret: bytes | None
    old_until: int
    created_by: str
    created_at: int
    attempts: int = 0
    first_at: int = 0
    next_at: int = 0
    failing_since: int = 0
    delivered_at: int = 0

    def wants(self, entry_type: EntryType) -> bool:
        """Return whether entries of this type are sent."""
        return not self.types or entry_type.value in self.types


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a subscription has come: the fields of `SubscriptionRecord` that deliveries change."""

    subscription: str
    cursor: int
    attempts: int
    first_at: int
    next_at: int
    failing_since: int
    reason: str
    delivered_at: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """An entry that could not be delivered.

    Attributes:
        subscription, room, seq: What, and where to.
        reason: In words.
        status: HTTP status of the last answer; 0: none came.
        attempts: How often it was tried.
        first_at, last_at: When it was tried first and last, in milliseconds since 1970.
        replay_at: When somebody asked for it to be sent again; 0: nobody did.
    """

    subscription: str
    room: str
    seq: int
    reason: str
    status: int
    attempts: int
    first_at: int
    last_at: int
    replay_at: int = 0


class SubscriptionStore(Protocol):
    """Subscriptions and dead letters. Every method is its own durable transaction unless it only reads."""

    async def add(self, record: SubscriptionRecord) -> bool:
        """Add one; return whether the room has not too many."""

    async def activate(self, subscription: str, cursor: int) -> bool:
        """Begin to send what comes after this `seq`; return whether it was pending."""

    async def find(self, subscription: str) -> SubscriptionRecord | None:
        """Find one."""

    async def of_room(self, room: str = "") -> list[tuple[SubscriptionRecord, int]]:
        """Return those of a room, or all, oldest first; each with its number of dead letters."""

    async def pause(self, subscription: str, event: AuditEvent) -> bool:
        """Stop sending; return whether it was active."""

    async def resume(self, subscription: str, event: AuditEvent) -> bool:
        """Go on after the cursor, at once; return whether it was paused or disabled."""

    async def remove(self, subscription: str) -> bool:
        """Remove it with its dead letters; return whether it was there."""

    async def rotate(self, subscription: str, secret: bytes, old_until: int, event: AuditEvent) -> bool:
        """Sign with another secret; the one before goes on until `old_until`. Return whether it is there."""

    async def reseal(self, subscription: str, old: bytes, new: bytes) -> None:
        """Replace a sealed secret by the same secret under a newer key."""

    async def letters(self, subscription: str, *, after: int = 0, limit: int) -> list[DeadLetterRecord]:
        """Return dead letters by `seq`."""

    async def replay(self, subscription: str, seq: int | None, at: int, event: AuditEvent) -> int:
        """Have one dead letter, or all, sent again; return how many."""

    async def drop(self, subscription: str, seq: int | None, event: AuditEvent) -> int:
        """Remove one dead letter, or all; return how many."""

    # What the relay needs.

    async def active(self) -> list[SubscriptionRecord]:
        """Return all that are active."""

    async def replays(self) -> list[DeadLetterRecord]:
        """Return dead letters of active subscriptions that are to be sent again, by subscription and `seq`."""

    async def move(self, progress: Sequence[Progress]) -> None:
        """Store how far these have come; nothing happens to those that are not there any more."""

    async def bury(self, letter: DeadLetterRecord, progress: Progress | None) -> bool:
        """Store a dead letter with the progress past it, both or nothing; return False when there are too many: then nothing."""

    async def revive(self, subscription: str, seq: int) -> None:
        """Remove a dead letter that was delivered."""

    async def disable(self, subscription: str, reason: str, event: AuditEvent) -> bool:
        """Disable it; return whether it was active."""

    async def count_letters(self) -> int:
        """Return how many dead letters there are."""


def clean_types(types: Collection[str]) -> tuple[str, ...]:
    """Return types of entries once each, in the order of `EntryType`.

    Raises:
        InvalidInput: There is no such type.
    """
    wanted = set(types)
    known = [each.value for each in EntryType]
    if unknown := sorted(wanted - set(known)):
        raise InvalidInput(f"There is no type {unknown[0][:64]}. There are: {', '.join(known)}.", field="types")
    return tuple(each for each in known if each in wanted)
