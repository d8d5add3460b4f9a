"""Auditor: the `AuditLog` of a server. Keeps what was refused within bounds, and the checkpoints fresh."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from securechat.domain.accounts import Principal
from securechat.domain.audit import AuditEvent, AuditRecord, Head, PruneStatement, Result, by
from securechat.domain.commands import Command
from securechat.domain.ports import AuditQuery, AuditStore, AuditTransaction, Clock
from securechat.errors import ChatError, Forbidden, RateLimited, Unauthorized
from securechat.ops.checkpoints import Checkpoints

log = logging.getLogger(__name__)

EACH: Final = "audit.each"
ALL: Final = "audit.all"
WAITING_MAX: Final = 1_000
"""Refusals that wait for the disk; more are counted only."""
LOOK_S: Final = 1.0
CHECKPOINT_RECORDS: Final = 1_000
PRUNE_EVERY_S: Final = 3_600.0
PRUNE_MAX: Final = 5_000
"""Records removed in one transaction: the others wait for it."""
DAY_MS: Final = 86_400_000


class Limiter(Protocol):
    """What the auditor needs of a rate limiter."""

    def take(self, what: str, who: str, now: float, cost: float = 1.0) -> float:
        """Take tokens or raise `RateLimited`."""


class Auditor:
    """See `AuditLog`.

    Args:
        store: The chain.
        checkpoints: What is kept outside of the database.
        limiter: Has the buckets `audit.each` (by actor or address) and `audit.all`.
        clock: Time.
        checkpoint_s: Seconds between checkpoints, read at each look.
        keep_days: Days after which records are pruned, read at each look; 0 for never.
    """

    def __init__(
        self,
        store: AuditStore,
        checkpoints: Checkpoints,
        limiter: Limiter,
        clock: Clock,
        checkpoint_s: Callable[[], float],
        keep_days: Callable[[], int],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._limiter = limiter
        self._clock = clock
        self._checkpoint_s = checkpoint_s
        self._keep_days = keep_days
        self._leads = leads
        self._waiting: deque[AuditEvent] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._signing = asyncio.Lock()
        self.suppressed = 0

    async def record(self, event: AuditEvent, transaction: AuditTransaction | None = None) -> None:
        """See `AuditLog.record`."""
        if transaction is None:
            await self._store.write([event])
        else:
            transaction.record(event)

    def note(self, event: AuditEvent) -> None:
        """See `AuditLog.note`."""
        now = self._clock.monotonic()
        try:
            self._limiter.take(EACH, event.actor or event.address, now)
            self._limiter.take(ALL, "", now)
        except RateLimited:
            self.suppressed += 1
            return
        if len(self._waiting) >= WAITING_MAX:
            self.suppressed += 1
            return
        self._waiting.append(event)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="audit-notes")

    def refused(self, origin: tuple[Principal, Command, str], error: ChatError) -> None:
        """Note that a command was refused, if it was for want of a right or of a proof."""
        who, command, address = origin
        limited = isinstance(error, RateLimited) and not who.user_id
        if not (limited or isinstance(error, Forbidden | Unauthorized)):
            return
        event = by(
            who.at(address),
            type(command).__struct_config__.tag,  # type: ignore[arg-type]  # the tag of a command is a text
            subject=error.about or _text(command, "user"),
            room=_text(command, "room"),
        )
        self.note(msgspec.structs.replace(event, result=Result.REFUSED, reason=error.code))

    async def flush(self) -> None:
        """Return when everything that was noted is stored, and how many were not."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self.suppressed:
            missed, self.suppressed = self.suppressed, 0
            await self._store.write([AuditEvent(action="audit.suppressed", details={"suppressed": missed})])

    async def begin(self, event: AuditEvent) -> None:
        """Remember a start, and what became of the chain since it was signed last.

        After a clean stop everything is signed: `unsigned` counts what was added since, which a crash explains, or nothing.
        """
        head = await self._store.head()
        last = None if head is None else self._checkpoints.newest(head.chain)
        if head is not None and last is not None:
            reached = await self._record(head.chain, last.n)
            whole = reached is not None and reached.hash == last.hash
            if not whole:
                log.error("audit log is not whole: run securechat audit verify", extra={"checkpoint": last.n, "head": head.n})
            event = msgspec.structs.replace(event, details=event.details | {"whole": whole, "unsigned": head.n - last.n})
        await self.settle(event)

    async def settle(self, *events: AuditEvent) -> None:
        """Store and sign what there is, and these. What does not work is logged: nobody waits for it."""
        try:
            await self.flush()
            if events:
                await self._store.write(events)
            await self.checkpoint()
        except (OSError, ChatError) as error:
            log.error("audit log not written", extra={"error": str(error)})  # noqa: TRY400 - no traceback helps

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def checkpoint(self) -> None:
        """Sign the chain's newest record now, unless the newest checkpoint is of it.

        Raises:
            OSError: The data folder does not take it.
        """
        async with self._signing:
            head = await self._store.head()
            if head is not None and self._leads() and not self._is_signed(head):
                await asyncio.get_running_loop().run_in_executor(None, self._checkpoints.write, head, self._clock.now_ms())

    async def keep(self) -> None:
        """Sign the chain every `checkpoint_s` seconds or 1,000 records, and prune what is old, for ever."""
        signed_at = pruned_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._clock.monotonic()
            if not self._leads():
                continue
            try:
                head, last = await self._store.head(), self._checkpoints.last
                if head is not None and (
                    now - signed_at >= self._checkpoint_s() or last is None or head.n - last.n >= CHECKPOINT_RECORDS
                ):
                    signed_at = now
                    await self.checkpoint()
                if now - pruned_at >= PRUNE_EVERY_S:
                    pruned_at = now
                    if self._keep_days():
                        await self.prune(self._clock.now_ms() - self._keep_days() * DAY_MS, AuditEvent(action="audit.prune"))
            except (OSError, ChatError) as error:
                log.error("audit log not looked after", extra={"error": str(error)})  # noqa: TRY400 - no traceback helps

    async def prune(self, before_ms: int, event: AuditEvent) -> int:
        """Remove the records that are older than a time, with signed statements; return how many.

        Args:
            before_ms: Milliseconds since 1970. The newest record always stays.
            event: Who asked; the statement is added to its details.
        """
        removed = 0
        while part := await self._prune_some(before_ms, event):
            removed += part
            if part < PRUNE_MAX:
                break
        if removed:
            await self.checkpoint()
        return removed

    async def _prune_some(self, before_ms: int, event: AuditEvent) -> int:
        async with self._signing:
            head = await self._store.head()
            old = await self._store.page(AuditQuery(until=before_ms - 1), limit=1)
            # A clock that was set back may have put young records among the old: only the unbroken beginning goes.
            young = await self._store.page(AuditQuery(after=0, since=before_ms), limit=1)
            if head is None or not old:
                return 0
            first = await self._store.page(AuditQuery(after=0), limit=1)
            begin = first[0].n if first else head.n
            through = min(old[0].n, head.n - 1, young[0].n - 1 if young else head.n, begin + PRUNE_MAX - 1)
            last = await self._record(head.chain, through)
            if last is None or begin > through:
                return 0
            statement = PruneStatement(
                chain=head.chain,
                first=begin,
                through=through,
                hash=last.hash,
                until=last.at,
                at=self._clock.now_ms(),
                key=self._checkpoints.key_id,
            )
            signed = await asyncio.get_running_loop().run_in_executor(None, self._checkpoints.write_prune, statement)
            details = event.details | {
                "first": signed.first, "through": signed.through, "until": signed.until, "hash": signed.hash, "key": signed.key,
            }  # fmt: skip
            await self._store.prune(signed, msgspec.structs.replace(event, details=details))
        return signed.through - signed.first + 1

    async def _record(self, chain: str, n: int) -> AuditRecord | None:
        found = await self._store.page(AuditQuery(chain=chain, after=n - 1, before=n + 1), limit=1)
        return found[0] if found else None

    def _is_signed(self, head: Head) -> bool:
        last = self._checkpoints.last or self._checkpoints.newest(head.chain)
        return last is not None and (last.chain, last.n, last.hash) == (head.chain, head.n, head.hash)

    async def _write(self) -> None:
        try:
            while self._waiting:
                events = list(self._waiting)
                missed, self.suppressed = self.suppressed, 0
                if missed:
                    events[0] = msgspec.structs.replace(events[0], details=events[0].details | {"suppressed": missed})
                try:
                    await self._store.write(events)
                except ChatError as error:
                    self.suppressed += missed + len(events)
                    log.error("refusals not recorded", extra={"events": len(events), "error": error.code})  # noqa: TRY400 - as above
                for _ in events:
                    self._waiting.popleft()
        finally:
            self._writing = None


def _text(command: Command, name: str) -> str:
    value = getattr(command, name, "")
    return value if isinstance(value, str) else ""
