"""Turns: some at a time, the others wait, and who would wait too long is told when to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from securechat.errors import Unavailable


class Turns:
    """The turns of one kind of work.

    Args:
        at_a_time: How many are at work.

    Attributes:
        waiting: How many wait.
    """

    def __init__(self, at_a_time: int) -> None:
        self._turn = asyncio.Semaphore(at_a_time)
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, detail: str, *, again_ms: int, waiting_max: int, wait_s: float) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block is left.

        Args:
            detail: What is told to who cannot have one.
            again_ms: When they shall come again.
            waiting_max: How many may wait.
            wait_s: How long.

        Raises:
            Unavailable: Too many wait, or it took too long.
        """
        if self.waiting >= waiting_max:
            raise Unavailable(detail, retry_after_ms=again_ms)
        self.waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(detail, retry_after_ms=again_ms) from None
        finally:
            self.waiting -= 1
        try:
            # What asks a store that never waits would be done at once, and the next one with it: so many in one turn of the loop.
            await asyncio.sleep(0)
            yield
        finally:
            self._turn.release()

    @asynccontextmanager
    async def some_time(self) -> AsyncIterator[None]:
        """Wait for a turn however long it takes: for those of whom each has one thing to wait for."""
        async with self._turn:
            yield
