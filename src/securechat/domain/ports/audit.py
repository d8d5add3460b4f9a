"""The audit log: who writes to it, and how it is read. See `securechat.domain.ports`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from securechat.domain.audit import AuditEvent, AuditRecord, Head, PruneStatement


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records of the audit log. What is empty or None does not matter.

    Attributes:
        chain: The chain; empty for the one that is written now.
        before: Only records before this place.
        after: Only records after this place, the oldest first.
        since, until: Times in milliseconds since 1970, both included.
        action: A whole action, or its beginning with a dot at the end: `user.`.
        actor, subject, room, address, result: As in the record.
    """

    chain: str = ""
    before: int | None = None
    after: int | None = None
    since: int | None = None
    until: int | None = None
    action: str = ""
    actor: str = ""
    subject: str = ""
    room: str = ""
    address: str = ""
    result: str = ""


class AuditTransaction(Protocol):
    """A transaction that takes events for the audit log along: they are stored with what they tell of, or not at all."""

    def record(self, event: AuditEvent) -> None:
        """Add an event. Written when the transaction commits."""


class AuditLog(Protocol):
    """Where everybody says what has to be remembered. Look at `domain.audit` for what never belongs there."""

    async def record(self, event: AuditEvent, transaction: AuditTransaction | None = None) -> None:
        """Remember something that was done: with this transaction; without one, in a durable transaction of its own.

        Raises:
            Unavailable: It cannot be written. What is to be recorded must not be done then.
        """

    def note(self, event: AuditEvent) -> None:
        """Remember something that changed nothing: a refusal, a failure. Never waits; limited per actor and address.

        What is over the limit is counted, and the next record tells how many there were.
        """


class AuditStore(Protocol):
    """The chain in the database."""

    async def write(self, events: Sequence[AuditEvent]) -> None:
        """Append events in one durable transaction."""

    async def head(self, chain: str = "") -> Head | None:
        """Return the newest record of this chain, or of the one that is written now."""

    async def page(self, query: AuditQuery, *, limit: int) -> list[AuditRecord]:
        """Return records that fit: after a place the oldest first, otherwise the newest first."""

    async def prune(self, statement: PruneStatement, event: AuditEvent) -> None:
        """Remove the records that the statement is about, and append the event, in one transaction."""
