"""Relay: sends what comes into the logs of rooms to the targets of their subscriptions, each room's entries in order.

Only the server that leads does it. The log is the outbox: a cursor says how far a target has it, so nothing is written when a
message is sent, and nothing is lost when a server is killed. The cursor follows within a second; an entry that was delivered in
that second comes again, with the same `webhook-id`. Nothing here is on the way of a message: what does not go out waits in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from securechat.domain.ports import Clock, LogStore, SecretBox
from securechat.domain.subscriptions import SubscriptionStore
from securechat.errors import Unavailable
from securechat.webhooks.backlog import Backlog
from securechat.webhooks.delivery import Delivery, Figures, Pace
from securechat.webhooks.gate import Gate, host_of
from securechat.webhooks.hosts import Hosts

log = logging.getLogger(__name__)

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
ROOMS: Final = 500
"""Rooms whose newest `seq` is asked for at once."""


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
        self._log_store = log_store
        self._clock = clock
        self._leads = leads
        self._pace = pace or Pace()
        self._hosts = Hosts(clock.monotonic)
        self._backlogs: dict[str, Backlog] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._newest: dict[str, int] = {}
        self._asked = self._refreshed = self._flushed = float("-inf")
        self.figures = Figures()
        self.problem = ""
        self._delivery = Delivery(
            store, log_store, secrets, gate, clock, self._hosts, self.figures, self._pace, tls, self._may_go_on, self._forget
        )

    def wake(self) -> None:
        """Look at the subscriptions now: one was changed here."""
        self._refreshed = float("-inf")
        self._wake.set()

    def queue_age_s(self) -> float:
        """Return how old the oldest entry is that waits for its delivery, in seconds."""
        waiting = [backlog.behind_since for backlog in self._backlogs.values() if backlog.behind_since]
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
            self._backlogs.clear()
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
        dirty = [backlog for backlog in self._backlogs.values() if backlog.dirty and not backlog.ended]
        if not dirty:
            return
        progress = [backlog.progress() for backlog in dirty]
        for backlog in dirty:
            backlog.dirty = False
        try:
            await self._store.move(progress)
        except BaseException:
            for backlog in dirty:
                backlog.dirty = True
            raise

    async def _refresh(self) -> None:
        """Read the subscriptions, what is to be sent again, and how many dead letters there are."""
        records = {record.id: record for record in await self._store.active()}
        letters = await self._store.replays()
        for gone in self._backlogs.keys() - records.keys():
            self._backlogs.pop(gone).ended = True
            self._turns.pop(gone, None)
            if (task := self._tasks.get(gone)) is not None:
                task.cancel()
        for record in records.values():
            backlog = self._backlogs.get(record.id)
            if backlog is None:
                backlog = self._backlogs[record.id] = Backlog(record, host_of(record.url), record.cursor)
            backlog.take(record)
            if record.id not in self._tasks:
                backlog.letters.clear()
        for letter in letters:
            if letter.subscription in self._backlogs and letter.subscription not in self._tasks:
                self._backlogs[letter.subscription].letters.append(letter)
        self._hosts.keep({backlog.host for backlog in self._backlogs.values()})
        self.figures.subscriptions = len(records)
        self.figures.dead_letters = await self._store.count_letters()

    async def _begin(self) -> None:
        """Begin with those that have something to send, the longest neglected first, as many as may be at once."""
        now_ms = self._clock.now_ms()
        due = [
            backlog
            for backlog in self._backlogs.values()
            if backlog.record.id not in self._tasks and not backlog.ended and backlog.next_at <= now_ms
        ]
        if self._clock.monotonic() - self._asked >= self._pace.poll_s:
            self._asked = self._clock.monotonic()
            rooms = list({backlog.record.room for backlog in due})
            self._newest = {}
            for at in range(0, len(rooms), ROOMS):
                self._newest |= await self._log_store.newest(rooms[at : at + ROOMS])
        working = [self._backlogs[each] for each in self._tasks if each in self._backlogs]
        busy = Counter(backlog.host for backlog in working)
        unproven = sum(not backlog.works for backlog in working)
        for backlog in sorted(due, key=lambda each: self._turns.get(each.record.id, 0)):
            if backlog.ended or not (backlog.letters or self._newest.get(backlog.record.room, 0) > backlog.cursor):
                continue
            backlog.behind_since = backlog.behind_since or now_ms
            if len(self._tasks) >= AT_ONCE:
                return
            if busy[backlog.host] >= HOST_AT_ONCE or (not backlog.works and unproven >= UNPROVEN_AT_ONCE):
                continue
            if not self._hosts.begin(backlog.host):
                continue
            unproven += not backlog.works
            busy[backlog.host] += 1
            self._turn += 1
            self._turns[backlog.record.id] = self._turn
            name = backlog.record.id
            self._tasks[name] = asyncio.create_task(self._delivery.work(backlog), name=f"subscription {name}")
            self._tasks[name].add_done_callback(partial(self._done, name))

    def _done(self, name: str, _task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        self._wake.set()

    def _may_go_on(self, backlog: Backlog) -> bool:
        return not self._stopping and not backlog.ended and self._leads()

    def _forget(self, name: str) -> None:
        self._backlogs.pop(name, None)
