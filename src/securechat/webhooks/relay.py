"""Relay: sends what comes into the logs of rooms to the targets of their subscriptions, each room's entries in order.

Only the server that leads does it. The log is the outbox: a cursor says how far a target has it, so nothing is written when a
message is sent, and nothing is lost when a server is killed. The cursor follows within a second; an entry that was delivered in
that second comes again, with the same `webhook-id`. Nothing here is on the way of a message: what does not go out waits in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from securechat.domain.audit import AuditEvent
from securechat.domain.ports import Clock, LogStore, SecretBox
from securechat.domain.secret import Secret
from securechat.domain.subscriptions import (
    LETTERS_MAX,
    PURPOSE,
    DeadLetterRecord,
    Progress,
    SubscriptionRecord,
    SubscriptionStore,
)
from securechat.errors import ChatError, Unavailable
from securechat.webhooks.gate import Gate, host_of
from securechat.webhooks.hosts import Hosts
from securechat.webhooks.message import body_of, id_of
from securechat.webhooks.post import DEADLINE_S, Outcome, Result, Target
from securechat.webhooks.signature import headers_of

log = logging.getLogger(__name__)

DELAYS_S: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The example of Standard Webhooks: an entry is tried ten times in three days. Full jitter over each."""
FAILING_MS: Final = 5 * 86_400_000
"""A subscription to which nothing could be delivered for so long is disabled."""
POLL_S: Final = 0.5
"""Between two looks at the newest `seq` of rooms that have a subscription."""
REFRESH_S: Final = 2.0
"""Between two looks at the subscriptions: other servers change them, too."""
FLUSH_S: Final = 1.0
BROKEN_MAX_S: Final = 300.0
"""Longest pause after something of ours broke."""
AT_ONCE: Final = 32
"""Targets that are spoken to at once."""
UNPROVEN_AT_ONCE: Final = 24
"""Of these, those that did not take the last delivery, or the first one: what works never waits for what does not."""
HOST_AT_ONCE: Final = 4
"""Targets of one host."""
BURST: Final = 100
"""Deliveries of one subscription before others have their turn."""
PAGE: Final = 20
ROOMS: Final = 500
"""Rooms whose newest `seq` is asked for at once."""


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


@dataclass(slots=True)
class _State:
    """A subscription, as far as it has come in memory."""

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


class Relay:
    """Delivers.

    Args:
        store: Subscriptions and dead letters.
        log_store: Where entries are read.
        secrets: Opens what signs.
        gate: Says where anything may be sent.
        clock: Time.
        leads: Whether this server is the one that delivers.
        pace: How fast and how patient.
        tls: Whom targets are believed by; None for the authorities that browsers believe.

    Attributes:
        figures: For metrics.
        problem: What keeps it from delivering at all, in words for the operator; empty when all is well.
    """

    def __init__(
        self,
        store: SubscriptionStore,
        log_store: LogStore,
        secrets: SecretBox,
        gate: Gate,
        clock: Clock,
        leads: Callable[[], bool],
        *,
        pace: Pace | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._store = store
        self._log = log_store
        self._secrets = secrets
        self._gate = gate
        self._clock = clock
        self._leads = leads
        self._pace = pace or Pace()
        self._tls = tls
        self._hosts = Hosts(clock.monotonic)
        self._states: dict[str, _State] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._newest: dict[str, int] = {}
        self._asked = self._refreshed = self._flushed = float("-inf")
        self.figures = Figures()
        self.problem = ""

    def wake(self) -> None:
        """Look at the subscriptions now: one was changed here."""
        self._refreshed = float("-inf")
        self._wake.set()

    def queue_age_s(self) -> float:
        """Return how old the oldest entry is that waits for its delivery, in seconds."""
        waiting = [state.behind_since for state in self._states.values() if state.behind_since]
        return max(0.0, (self._clock.now_ms() - min(waiting)) / 1_000) if waiting else 0.0

    def paused_hosts(self) -> int:
        """Return how many hosts are left alone for a while."""
        return self._hosts.paused

    async def run(self) -> None:
        """Deliver, until `stop`. Nobody's chat depends on it: what breaks is told, and tried again later and later."""
        pause_s = self._pace.poll_s
        while not self._stopping:
            self._wake.clear()
            try:
                await self._look()
                self.problem, pause_s = "", self._pace.poll_s
            except Unavailable as error:
                log.warning("subscriptions cannot be read now", extra={"reason": error.detail})
            except Exception as error:
                log.exception("deliveries to subscriptions broke")
                self.problem, pause_s = f"deliveries broke: {type(error).__name__}", min(2 * pause_s, BROKEN_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def stop(self) -> None:
        """End what is under way, which will be delivered again, and store how far the others have come."""
        self._stopping = True
        self._wake.set()
        await self._let_go()
        with contextlib.suppress(Unavailable):
            await self._flush()

    async def _let_go(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> None:
        """Store, read and begin what is to be done now."""
        if not self._leads():
            await self._let_go()
            self._states.clear()
            self._refreshed = float("-inf")
            self.figures.subscriptions = self.figures.dead_letters = 0
            return
        now = self._clock.monotonic()
        if now - self._flushed >= FLUSH_S:
            await self._flush()
            self._flushed = now
        if now - self._refreshed >= REFRESH_S:
            self._refreshed = now
            await self._refresh()
        await self._begin()

    async def _flush(self) -> None:
        dirty = [state for state in self._states.values() if state.dirty and not state.ended]
        if not dirty:
            return
        progress = [state.progress() for state in dirty]
        for state in dirty:
            state.dirty = False
        try:
            await self._store.move(progress)
        except BaseException:
            for state in dirty:
                state.dirty = True
            raise

    async def _refresh(self) -> None:
        """Read the subscriptions, what is to be sent again, and how many dead letters there are."""
        records = {record.id: record for record in await self._store.active()}
        letters = await self._store.replays()
        for gone in self._states.keys() - records.keys():
            self._states.pop(gone).ended = True
            self._turns.pop(gone, None)
            if (task := self._tasks.get(gone)) is not None:
                task.cancel()
        for record in records.values():
            state = self._states.get(record.id)
            if state is None:
                state = self._states[record.id] = _State(record, host_of(record.url), record.cursor)
            state.take(record)
            if record.id not in self._tasks:
                state.letters.clear()
        for letter in letters:
            if letter.subscription in self._states and letter.subscription not in self._tasks:
                self._states[letter.subscription].letters.append(letter)
        self._hosts.keep({state.host for state in self._states.values()})
        self.figures.subscriptions = len(records)
        self.figures.dead_letters = await self._store.count_letters()

    async def _begin(self) -> None:
        """Begin with those that have something to send, the longest neglected first, as many as may be at once."""
        now_ms = self._clock.now_ms()
        due = [
            state
            for state in self._states.values()
            if state.record.id not in self._tasks and not state.ended and state.next_at <= now_ms
        ]
        if self._clock.monotonic() - self._asked >= self._pace.poll_s:
            self._asked = self._clock.monotonic()
            rooms = list({state.record.room for state in due})
            self._newest = {}
            for at in range(0, len(rooms), ROOMS):
                self._newest |= await self._log.newest(rooms[at : at + ROOMS])
        working = [self._states[each] for each in self._tasks if each in self._states]
        busy = Counter(state.host for state in working)
        unproven = sum(not state.works for state in working)
        for state in sorted(due, key=lambda each: self._turns.get(each.record.id, 0)):
            if state.ended or not (state.letters or self._newest.get(state.record.room, 0) > state.cursor):
                continue
            state.behind_since = state.behind_since or now_ms
            if len(self._tasks) >= AT_ONCE:
                return
            if busy[state.host] >= HOST_AT_ONCE or (not state.works and unproven >= UNPROVEN_AT_ONCE):
                continue
            if not self._hosts.begin(state.host):
                continue
            unproven += not state.works
            busy[state.host] += 1
            self._turn += 1
            self._turns[state.record.id] = self._turn
            name = state.record.id
            self._tasks[name] = asyncio.create_task(self._work(state), name=f"subscription {name}")
            self._tasks[name].add_done_callback(partial(self._done, name))

    def _done(self, name: str, _task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        self._wake.set()

    async def _work(self, state: _State) -> None:
        """Deliver to one target until it fails, has all, or had its turn."""
        target = Target(state.record.url, self._gate, self._tls, turn=state.attempts, deadline_s=self._pace.deadline_s)
        try:
            if await self._replay(state, target):
                await self._follow(state, target)
        except ChatError as error:  # The store takes nothing now: the next look tries again.
            log.warning("a subscription waits for the store", extra={"subscription": state.record.id, "reason": error.code})
        except Exception:
            log.exception("a delivery broke", extra={"subscription": state.record.id})
            await self._failed(state, None, Outcome(Result.RETRY, "a mistake of ours: the log of the server has it"))
        finally:
            self._hosts.end(state.host)
            await target.close()

    async def _replay(self, state: _State, target: Target) -> bool:
        """Send again what somebody asked for: each entry as it is now. Return whether the target takes what comes."""
        while state.letters and self._may_go_on(state):
            letter = state.letters[0]
            outcome = await self._deliver(state, target, letter.seq)
            if outcome is None:
                await self._store.revive(letter.subscription, letter.seq)
            elif outcome.result is Result.GONE:
                await self._disable(state, outcome.reason)
                return False
            else:
                at = self._clock.now_ms()
                await self._store.bury(
                    DeadLetterRecord(
                        letter.subscription, letter.room, letter.seq, outcome.reason, outcome.status, 1, letter.first_at, at
                    ),
                    None,
                )
            state.letters.pop(0)
            if outcome is not None and outcome.result is Result.RETRY:
                return False
        return True

    async def _follow(self, state: _State, target: Target) -> None:
        """Send what comes after the cursor."""
        sent = 0
        while sent < BURST and self._may_go_on(state):
            page = await self._log.page(state.record.room, after=state.cursor, limit=PAGE)
            if not page.entries:
                state.behind_since = 0
                return
            for entry in page.entries:
                if state.record.wants(entry.type):
                    if not self._may_go_on(state):
                        return
                    state.behind_since = entry.at
                    outcome = await self._deliver(state, target, entry.seq)
                    sent += 1
                    if outcome is not None and not await self._failed(state, entry.seq, outcome):
                        return
                state.cursor = max(state.cursor, entry.seq)
                state.dirty = True

    def _may_go_on(self, state: _State) -> bool:
        return not self._stopping and not state.ended and self._leads()

    async def _deliver(self, state: _State, target: Target, seq: int) -> Outcome | None:
        """Deliver one entry as it is now; None: it was taken."""
        record = state.record
        page = await self._log.page(record.room, after=seq - 1, limit=1)
        if not page.entries or page.entries[0].seq != seq:
            return Outcome(Result.DEAD, "the entry is not in the log any more")
        body, message_id, at_s = body_of(page.entries[0]), id_of(record.id, seq), self._clock.now_ms() // 1_000
        outcome = await target.post(headers_of(await self._signing(record), message_id, at_s, body), body)
        self.figures.results[outcome.result.value] += 1
        if outcome.result is Result.RETRY:
            self._hosts.failed(state.host, outcome.reason)
        else:  # It answers, whatever it says.
            self._hosts.worked(state.host)
        if outcome.result is not Result.OK:
            log.info(
                "not delivered",
                extra={"subscription": record.id, "seq": seq, "target": state.host, "reason": outcome.reason},
            )
            return outcome
        state.attempts = state.first_at = state.next_at = state.failing_since = 0
        state.reason, state.delivered_at = "", self._clock.now_ms()
        state.dirty = True
        return None

    async def _signing(self, record: SubscriptionRecord) -> list[Secret]:
        """Return the secrets that sign now; what an older key seals is sealed anew."""
        found = []
        old = record.old_secret if record.old_until > self._clock.now_ms() else None
        for sealed in (record.secret, old):
            if sealed is None:
                continue
            opened = self._secrets.open(sealed, purpose=PURPOSE, owner=record.id)
            found.append(Secret(opened.decode()))
            if not self._secrets.is_current(sealed):
                await self._store.reseal(record.id, sealed, self._secrets.seal(opened, purpose=PURPOSE, owner=record.id))
        return found

    async def _failed(self, state: _State, seq: int | None, outcome: Outcome) -> bool:
        """Take in that an entry was not delivered. Return whether it is a dead letter now, and the next one has its turn.

        Args:
            state: Of the subscription.
            seq: Of the entry; None when it is not known.
            outcome: Why not.
        """
        now = self._clock.now_ms()
        if outcome.result is Result.GONE:
            await self._disable(state, outcome.reason)
            return False
        attempts, first_at = state.attempts + 1, state.first_at or now
        exhausted = attempts > len(self._pace.delays_s)
        if seq is not None and (outcome.result is Result.DEAD or exhausted):
            return await self._bury(state, seq, outcome, attempts, first_at)
        state.attempts, state.first_at, state.reason = attempts, first_at, outcome.reason
        state.failing_since = state.failing_since or now
        window = self._pace.delays_s[min(attempts, len(self._pace.delays_s)) - 1]
        state.next_at = now + int(window * 1_000 * self._pace.jitter())
        state.dirty = True
        if now - state.failing_since >= self._pace.failing_ms:
            await self._disable(state, f"nothing could be delivered for days: {outcome.reason}")
        return False

    async def _bury(self, state: _State, seq: int, outcome: Outcome, attempts: int, first_at: int) -> bool:
        """Make an entry a dead letter and go past it; where there are too many, disable the subscription instead."""
        now = self._clock.now_ms()
        record = state.record
        letter = DeadLetterRecord(record.id, record.room, seq, outcome.reason, outcome.status, attempts, first_at, now)
        is_down = outcome.result is Result.RETRY
        failing_since = (state.failing_since or now) if is_down else 0
        progress = Progress(record.id, seq, 0, 0, 0, failing_since, outcome.reason, state.delivered_at)
        if not await self._store.bury(letter, progress):
            await self._disable(state, f"there are {LETTERS_MAX} dead letters: replay or drop them, then resume")
            return False
        log.warning("dead letter", extra={"subscription": record.id, "seq": seq, "target": state.host, "reason": outcome.reason})
        self.figures.results["buried"] += 1
        self.figures.dead_letters += 1
        state.cursor = max(state.cursor, seq)
        state.attempts = state.first_at = state.next_at = 0
        state.failing_since, state.reason = failing_since, outcome.reason
        return not is_down

    async def _disable(self, state: _State, reason: str) -> None:
        """Send nothing more until somebody resumes it."""
        state.ended = True
        record = state.record
        await self._store.move([state.progress()])
        event = AuditEvent(
            action="subscription.disable", address="server", room=record.room,
            details={"subscription": record.id, "target": state.host, "reason": reason},
        )  # fmt: skip
        if await self._store.disable(record.id, reason, event):
            log.warning("subscription disabled", extra={"subscription": record.id, "target": state.host, "reason": reason})
        self._states.pop(record.id, None)
