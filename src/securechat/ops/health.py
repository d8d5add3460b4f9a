"""Health: alive, ready, which dependencies answer, and how long the event loop lags."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Literal

import msgspec

from securechat.domain.breaker import Breaker

CHECK_S: Final = 1.5
"""A check that takes longer failed: whoever asks is answered within 2 s."""
LAG_EVERY_S: Final = 0.5


class Dependency(msgspec.Struct, kw_only=True):
    """Something outside that this server uses.

    Attributes:
        state: Whether it is asked, or everybody is told at once to come back.
        since: Since when, UTC.
        reason: Why it is down: a word for everybody; on the admin socket with what follows.
    """

    state: Literal["up", "down"]
    since: str
    reason: str = ""


class Readiness(msgspec.Struct, kw_only=True):
    """Whether this server should get traffic, and why not."""

    ready: bool
    checks: dict[str, str]
    degraded: list[str] = []
    """What works, but needs somebody's care; the reasons are for the operator only (`securechat doctor`)."""
    dependencies: dict[str, Dependency] = {}


class Health:
    """What `/healthz` and `/readyz` say. Liveness never touches a dependency; readiness asks each with a deadline.

    Args:
        checks: Name → something that raises when the dependency does not answer.
        worries: Name → what somebody should do something about; nothing when all is well. A worry takes no traffic away.
        breakers: Returns name → the breaker of each dependency that has one.
        needed: Those without which this server is not ready; the others are worries.

    Attributes:
        broken: Work in the background that was given up: the process is about to end.
    """

    def __init__(
        self,
        checks: Mapping[str, Callable[[], Awaitable[None]]],
        worries: dict[str, Callable[[], str]] | None = None,
        breakers: Callable[[], Mapping[str, Breaker]] = dict,
        needed: Collection[str] = (),
    ) -> None:
        self._checks = checks
        self._worries = worries or {}
        self._breakers = breakers
        self._needed = needed
        self._asking: asyncio.Task[dict[str, str]] | None = None
        self.draining = False
        self.broken: list[str] = []
        self.started = False
        self.loop_lag_s = 0.0
        self._began = time.monotonic()

    async def readiness(self, *, in_words: bool = False) -> Readiness:
        """Ask what has no breaker, and look at the breakers.

        Whoever comes meanwhile gets the same answer: a flood asks no more than one does.

        Args:
            in_words: Whether reasons are told as they are: they name addresses, so it is for the operator.
        """
        breakers = self._breakers()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="readiness")
        found = dict(await asyncio.shield(self._asking))
        found |= dict.fromkeys(self.broken, "broken")
        if self.draining:
            found["server"] = "draining"
        elif not self.started:
            found["server"] = "starting"
        found |= {name: "ok" if each.closed else _word(each.reason) for name, each in breakers.items() if name in self._needed}
        worries = {name for name, worry in self._worries.items() if worry()}
        worries |= {name for name, each in breakers.items() if not each.closed and name not in self._needed}
        return Readiness(
            ready=all(value == "ok" for value in found.values()),
            checks=found,
            degraded=sorted(worries),
            dependencies={name: self._told(each, in_words=in_words) for name, each in breakers.items()},
        )

    def _told(self, breaker: Breaker, *, in_words: bool) -> Dependency:
        at = time.time() - (time.monotonic() - (breaker.since or self._began))
        return Dependency(
            state="up" if breaker.closed else "down",
            since=dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds"),
            reason=breaker.reason if in_words else _word(breaker.reason),
        )

    async def _ask(self) -> dict[str, str]:
        found = {}
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(CHECK_S):
                    await check()
                found[name] = "ok"
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is not ready
                found[name] = type(error).__name__
        return found

    async def watch_lag(self) -> None:
        """Measure, for ever, how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.loop_lag_s = max(0.0, loop.time() - due)


def _word(reason: str) -> str:
    return reason.partition(":")[0]
