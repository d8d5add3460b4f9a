"""Backlog: how far one target has its room, and how that went."""

from __future__ import annotations

from dataclasses import dataclass, field

from securechat.domain.subscriptions import DeadLetterRecord, Progress, SubscriptionRecord


@dataclass(slots=True)
class Backlog:
    """A subscription, as far as it has come in memory.

    Attributes:
        record: What is stored.
        host: Of the target.
        cursor: The newest `seq` that the target has, or that is not for it.
        dirty: Whether memory is ahead of what is stored.
        letters: What is to be sent again, in this order.
        attempts: How often the entry after the cursor was tried.
        first_at: When it was first; times are in milliseconds since 1970, 0 for none.
        next_at: When it is tried again.
        failing_since: Since when nothing could be delivered.
        delivered_at: When something was, the last time.
        reason: Why it failed.
    """

    record: SubscriptionRecord
    host: str
    cursor: int
    dirty: bool = False
    behind_since: int = 0
    """Time of the oldest entry that is not delivered; 0: none is known."""
    letters: list[DeadLetterRecord] = field(default_factory=list)
    attempts: int = 0
    first_at: int = 0
    next_at: int = 0
    failing_since: int = 0
    delivered_at: int = 0
    reason: str = ""
    ended: bool = False
    """Disabled, deleted or paused: nothing more is stored of it."""

    @property
    def works(self) -> bool:
        """Whether it took the last delivery."""
        return self.delivered_at > 0 and not self.failing_since

    def take(self, record: SubscriptionRecord) -> None:
        """Take in what is stored, unless we know better."""
        self.record = record
        if not self.dirty:
            self.cursor = max(self.cursor, record.cursor)
            self.attempts, self.first_at, self.next_at = record.attempts, record.first_at, record.next_at
            self.failing_since, self.reason = record.failing_since, record.reason
            self.delivered_at = record.delivered_at

    def progress(self) -> Progress:
        """Return what is to be stored."""
        return Progress(
            self.record.id,
            self.cursor,
            self.attempts,
            self.first_at,
            self.next_at,
            self.failing_since,
            self.reason,
            self.delivered_at,
        )
