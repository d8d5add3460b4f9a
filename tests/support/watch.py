"""Watches servers during a fault: readiness, liveness, lag, memory, what waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from support.cluster_world import Server
from support.server_process import ServerProcess


@dataclass
class Seen:
    """What was seen of one server.

    Attributes:
        ready: (when, status of `/readyz`), in monotonic seconds; 0 for no answer.
        alive: The same of `/healthz`.
        lag_s: Of the event loop.
        rss: In bytes.
        waiting: Operations that wait for a commit.
    """

    ready: list[tuple[float, int]] = field(default_factory=list)
    alive: list[tuple[float, int]] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def red_after(self, moment: float) -> float:
        """Return how long after a moment readiness was red; infinite if it never was."""
        return min((at - moment for at, status in self.ready if at >= moment and status not in {200, 0}), default=float("inf"))

    def was_alive(self) -> float:
        """Return the share of looks at which it was alive."""
        return sum(status == 200 for _, status in self.alive) / max(1, len(self.alive))


class Watch:
    """Watches some servers while the block runs.

    Attributes:
        seen: By server, in their order.
    """

    def __init__(self, servers: list[Server], every_s: float = 0.1) -> None:
        self._servers = servers
        self._every_s = every_s
        self.seen = [Seen() for _ in servers]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin."""
        for server, seen in zip(self._servers, self.seen, strict=True):
            self._tasks.append(asyncio.create_task(self._look(server.process, seen)))
            for path, into in (("/readyz", seen.ready), ("/healthz", seen.alive)):
                self._tasks.append(asyncio.create_task(self._ask(server.process, path, into)))
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, process: ServerProcess, path: str, into: list[tuple[float, int]]) -> None:
        while True:
            status, _ = await process.answers(path)
            into.append((time.monotonic(), status))  # When the answer was there: only then does anybody know.
            await asyncio.sleep(self._every_s)

    async def _look(self, process: ServerProcess, seen: Seen) -> None:
        while True:
            with contextlib.suppress(OSError, AssertionError, TimeoutError):
                async with asyncio.timeout(5):
                    metrics = await process.metrics()
                seen.lag_s.append(metrics["event_loop_lag_seconds"])
                seen.waiting.append(metrics["commits_waiting"])
                seen.rss.append(process.rss())
            await asyncio.sleep(5 * self._every_s)
