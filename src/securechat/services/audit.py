"""AuditService: who may read the audit log, and prune it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from securechat.domain import commands as c
from securechat.domain.accounts import Principal, Role
from securechat.domain.audit import AuditEvent, by
from securechat.domain.ports import AccountStore, AuditLog, AuditQuery, AuditStore, Clock

Prune = Callable[[int, AuditEvent], Awaitable[int]]
"""Remove the records older than a time in milliseconds since 1970, remember the event, return how many."""
DAY_MS: Final = 86_400_000


class AuditService:
    """The audit log, for people.

    Args:
        store: The chain.
        audit: Remembers who read it.
        prune: Removes what is old.
        accounts: Where names are read.
        clock: Time.
    """

    def __init__(self, store: AuditStore, audit: AuditLog, prune: Prune, accounts: AccountStore, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._prune = prune
        self._accounts = accounts
        self._clock = clock

    async def list_records(self, who: Principal, command: c.AuditList) -> c.AuditPage:
        """Read a page. That an administrator did is remembered too, within the limits of what is noted."""
        query = AuditQuery(
            chain=command.chain,
            before=command.before,
            after=command.after,
            since=command.since,
            until=command.until,
            action=command.action,
            actor=command.actor,
            subject=command.subject,
            room=command.room,
            address=command.address,
            result=command.result,
        )
        records = await self._store.page(query, limit=command.limit + 1)
        more = len(records) > command.limit
        records = records[: command.limit]
        if who.role is not Role.OPERATOR:
            self._audit.note(by(who, "audit.list"))
        ids = {each for record in records for each in (record.actor, record.subject) if each}
        names = {user.id: user.username for user in await self._accounts.users(ids)} if ids else {}
        return c.AuditPage(records=records, names=names, next=records[-1].n if more else None)

    async def prune(self, who: Principal, command: c.AuditPrune) -> c.AuditPruned:
        """Remove what is old."""
        before = self._clock.now_ms() - command.keep_days * DAY_MS
        return c.AuditPruned(records=await self._prune(before, by(who, "audit.prune", keep_days=command.keep_days)))
