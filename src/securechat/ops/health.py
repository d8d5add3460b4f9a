"""Health: alive, ready, and how long the event loop lags."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

CHECK_S: Final = 3.0
LAG_EVERY_S: Final = 0.5


class Readiness(msgspec.Struct, kw_only=True):
    """Whether this server should get traffic, and why not."""

    ready: bool
    checks: dict[str, str]
    degraded: list[str] = []
    """What works, but needs somebody's care; the reasons are for the operator only (`securechat doctor`)."""


class Health:
    """What `/healthz` and `/readyz` say. Liveness never touches a dependency; readiness asks each with a deadline.

    Args:
        checks: Name → something that raises when the dependency does not answer.
        worries: Name → what somebody should do something about; nothing when all is well. A worry takes no traffic away.

    Attributes:
        broken: Work in the background that was given up: the process is about to end.
    """

    def __init__(
        self, checks: dict[str, Callable[[], Awaitable[None]]], worries: dict[str, Callable[[], str]] | None = None
    ) -> None:
        self._checks = checks
        self._worries = worries or {}
        self._asking: asyncio.Task[dict[str, str]] | None = None
        self.draining = False
        self.broken: list[str] = []
        self.started = False
        self.loop_lag_s = 0.0

    async def readiness(self) -> Readiness:
        """Ask every dependency. Whoever comes meanwhile gets the same answer: a flood asks no more than one does."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="readiness")
        found = dict(await asyncio.shield(self._asking))
        found |= dict.fromkeys(self.broken, "broken")
        if self.draining:
            found["server"] = "draining"
        elif not self.started:
            found["server"] = "starting"
        degraded = [name for name, worry in self._worries.items() if worry()]
        return Readiness(ready=all(value == "ok" for value in found.values()), checks=found, degraded=degraded)

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
