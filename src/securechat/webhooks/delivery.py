"""Delivery: what is sent to one target, and what becomes of it: taken, tried again, a dead letter, or no more at all."""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from securechat.domain.audit import AuditEvent
from securechat.domain.ports import Clock, LogStore, SecretBox
from securechat.domain.secret import Secret
from securechat.domain.subscriptions import LETTERS_MAX, PURPOSE, DeadLetterRecord, Progress, SubscriptionRecord, SubscriptionStore
from securechat.errors import ChatError
from securechat.webhooks.backlog import Backlog
from securechat.webhooks.gate import Gate
from securechat.webhooks.hosts import Hosts
from securechat.webhooks.message import body_of, id_of
from securechat.webhooks.post import DEADLINE_S, Outcome, Result, Target
from securechat.webhooks.signature import headers_of

log = logging.getLogger(__name__)

DELAYS_S: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The example of Standard Webhooks: an entry is tried ten times in three days. Full jitter over each."""
POLL_S: Final = 0.5
"""Between two looks at the newest `seq` of rooms that have a subscription."""
FAILING_MS: Final = 5 * 86_400_000
"""A subscription to which nothing could be delivered for so long is disabled."""
BURST: Final = 100
"""Deliveries of one subscription before others have their turn."""
PAGE: Final = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast and how patient; tests change it."""

    delays_s: Sequence[float] = DELAYS_S
    deadline_s: float = DEADLINE_S
    jitter: Callable[[], float] = random.random
    poll_s: float = POLL_S
    failing_ms: int = FAILING_MS


@dataclass(slots=True)
class Figures:
    """What became of deliveries since the start, and what is to be done."""

    results: Counter[str] = field(default_factory=Counter)
    subscriptions: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """Delivers to one target at a time.

    Attributes:
        store: Subscriptions and dead letters.
        log_store: Where entries are read.
        secrets: Opens what signs.
        gate: Says where anything may be sent.
        clock: Time.
        hosts: Which hosts are left alone for a while.
        figures: What is counted.
        pace: How fast and how patient.
        tls: Whom targets are believed by; None for the authorities that browsers believe.
        may_go_on: Whether more may be sent to a target.
        forget: Called with the id of a subscription that was disabled.
    """

    store: SubscriptionStore
    log_store: LogStore
    secrets: SecretBox
    gate: Gate
    clock: Clock
    hosts: Hosts
    figures: Figures
    pace: Pace
    tls: ssl.SSLContext | None
    may_go_on: Callable[[Backlog], bool]
    forget: Callable[[str], None]

    async def work(self, backlog: Backlog) -> None:
        """Deliver to one target until it fails, has all, or had its turn."""
        target = Target(backlog.record.url, self.gate, self.tls, turn=backlog.attempts, deadline_s=self.pace.deadline_s)
        try:
            if await self._replay(backlog, target):
                await self._follow(backlog, target)
        except ChatError as error:  # The store takes nothing now: the next look tries again.
            log.warning("a subscription waits for the store", extra={"subscription": backlog.record.id, "reason": error.code})
        except Exception:
            log.exception("a delivery broke", extra={"subscription": backlog.record.id})
            await self._failed(backlog, None, Outcome(Result.RETRY, "a mistake of ours: the log of the server has it"))
        finally:
            self.hosts.end(backlog.host)
            await target.close()

    async def _replay(self, backlog: Backlog, target: Target) -> bool:
        """Send again what somebody asked for: each entry as it is now. Return whether the target takes what comes."""
        while backlog.letters and self.may_go_on(backlog):
            letter = backlog.letters[0]
            outcome = await self._deliver(backlog, target, letter.seq)
            if outcome is None:
                await self.store.revive(letter.subscription, letter.seq)
            elif outcome.result is Result.GONE:
                await self._disable(backlog, outcome.reason)
                return False
            else:
                at = self.clock.now_ms()
                await self.store.bury(
                    DeadLetterRecord(
                        letter.subscription, letter.room, letter.seq, outcome.reason, outcome.status, 1, letter.first_at, at
                    ),
                    None,
                )
            backlog.letters.pop(0)
            if outcome is not None and outcome.result is Result.RETRY:
                return False
        return True

    async def _follow(self, backlog: Backlog, target: Target) -> None:
        """Send what comes after the cursor."""
        sent = 0
        while sent < BURST and self.may_go_on(backlog):
            page = await self.log_store.page(backlog.record.room, after=backlog.cursor, limit=PAGE)
            if not page.entries:
                backlog.behind_since = 0
                return
            for entry in page.entries:
                if backlog.record.wants(entry.type):
                    if not self.may_go_on(backlog):
                        return
                    backlog.behind_since = entry.at
                    outcome = await self._deliver(backlog, target, entry.seq)
                    sent += 1
                    if outcome is not None and not await self._failed(backlog, entry.seq, outcome):
                        return
                backlog.cursor = max(backlog.cursor, entry.seq)
                backlog.dirty = True

    async def _deliver(self, backlog: Backlog, target: Target, seq: int) -> Outcome | None:
        """Deliver one entry as it is now; None: it was taken."""
        record = backlog.record
        page = await self.log_store.page(record.room, after=seq - 1, limit=1)
        if not page.entries or page.entries[0].seq != seq:
            return Outcome(Result.DEAD, "the entry is not in the log any more")
        body, message_id, at_s = body_of(page.entries[0]), id_of(record.id, seq), self.clock.now_ms() // 1_000
        outcome = await target.post(headers_of(await self._signing(record), message_id, at_s, body), body)
        self.figures.results[outcome.result.value] += 1
        if outcome.result is Result.RETRY:
            self.hosts.failed(backlog.host, outcome.reason)
        else:  # It answers, whatever it says.
            self.hosts.worked(backlog.host)
        if outcome.result is not Result.OK:
            log.info(
                "not delivered",
                extra={"subscription": record.id, "seq": seq, "target": backlog.host, "reason": outcome.reason},
            )
            return outcome
        backlog.attempts = backlog.first_at = backlog.next_at = backlog.failing_since = 0
        backlog.reason, backlog.delivered_at = "", self.clock.now_ms()
        backlog.dirty = True
        return None

    async def _signing(self, record: SubscriptionRecord) -> list[Secret]:
        """Return the secrets that sign now; what an older key seals is sealed anew."""
        found = []
        old = record.old_secret if record.old_until > self.clock.now_ms() else None
        for sealed in (record.secret, old):
            if sealed is None:
                continue
            opened = self.secrets.open(sealed, purpose=PURPOSE, owner=record.id)
            found.append(Secret(opened.decode()))
            if not self.secrets.is_current(sealed):
                await self.store.reseal(record.id, sealed, self.secrets.seal(opened, purpose=PURPOSE, owner=record.id))
        return found

    async def _failed(self, backlog: Backlog, seq: int | None, outcome: Outcome) -> bool:
        """Take in that an entry was not delivered. Return whether it is a dead letter now, and the next one has its turn.

        Args:
            backlog: Of the subscription.
            seq: Of the entry; None when it is not known.
            outcome: Why not.
        """
        now = self.clock.now_ms()
        if outcome.result is Result.GONE:
            await self._disable(backlog, outcome.reason)
            return False
        attempts, first_at = backlog.attempts + 1, backlog.first_at or now
        exhausted = attempts > len(self.pace.delays_s)
        if seq is not None and (outcome.result is Result.DEAD or exhausted):
            return await self._bury(backlog, seq, outcome, attempts, first_at)
        backlog.attempts, backlog.first_at, backlog.reason = attempts, first_at, outcome.reason
        backlog.failing_since = backlog.failing_since or now
        window = self.pace.delays_s[min(attempts, len(self.pace.delays_s)) - 1]
        backlog.next_at = now + int(window * 1_000 * self.pace.jitter())
        backlog.dirty = True
        if now - backlog.failing_since >= self.pace.failing_ms:
            await self._disable(backlog, f"nothing could be delivered for days: {outcome.reason}")
        return False

    async def _bury(self, backlog: Backlog, seq: int, outcome: Outcome, attempts: int, first_at: int) -> bool:
        """Make an entry a dead letter and go past it; where there are too many, disable the subscription instead."""
        now = self.clock.now_ms()
        record = backlog.record
        letter = DeadLetterRecord(record.id, record.room, seq, outcome.reason, outcome.status, attempts, first_at, now)
        is_down = outcome.result is Result.RETRY
        failing_since = (backlog.failing_since or now) if is_down else 0
        progress = Progress(record.id, seq, 0, 0, 0, failing_since, outcome.reason, backlog.delivered_at)
        if not await self.store.bury(letter, progress):
            await self._disable(backlog, f"there are {LETTERS_MAX} dead letters: replay or drop them, then resume")
            return False
        log.warning("dead letter", extra={"subscription": record.id, "seq": seq, "target": backlog.host, "reason": outcome.reason})
        self.figures.results["buried"] += 1
        self.figures.dead_letters += 1
        backlog.cursor = max(backlog.cursor, seq)
        backlog.attempts = backlog.first_at = backlog.next_at = 0
        backlog.failing_since, backlog.reason = failing_since, outcome.reason
        return not is_down

    async def _disable(self, backlog: Backlog, reason: str) -> None:
        """Send nothing more until somebody resumes it."""
        backlog.ended = True
        record = backlog.record
        await self.store.move([backlog.progress()])
        event = AuditEvent(
            action="subscription.disable", address="server", room=record.room,
            details={"subscription": record.id, "target": backlog.host, "reason": reason},
        )  # fmt: skip
        if await self.store.disable(record.id, reason, event):
            log.warning("subscription disabled", extra={"subscription": record.id, "target": backlog.host, "reason": reason})
        self.forget(record.id)
