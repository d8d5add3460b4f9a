"""Fence: whoever stood still does not know who may still be here, and until that is known, nobody is told or may do anything.

A process that was stopped, or a machine that slept, goes on with the connections of before. Meanwhile others may have ended a
session, or removed somebody from a room, and what said so may be lost, or lie behind what is read first. So the fence shuts by
itself at the first thing that is read or written after a standstill, and opens when somebody looked at the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from securechat.domain.ports import Clock

log = logging.getLogger(__name__)

BEAT_S: Final = 0.5
STILL_MS: Final = 1_500
"""Without a beat for longer, the process stood still."""


class Fence:
    """Whether this process may go on as if nothing had happened.

    Args:
        clock: Its time of day goes on while a machine sleeps. A jump of it shuts the fence, too, and costs a look.

    Attributes:
        is_shut: Whether it was, when it was checked last. Whoever writes for many checks once, and then looks here.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_ms = clock.now_ms
        self._beat_at = clock.now_ms()
        self._standstills = 0
        self.is_shut = False
        self._shut = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def check(self) -> bool:
        """Return whether it is not known who may be here."""
        if self._now_ms() - self._beat_at > STILL_MS:
            self._beat()
        return self.is_shut

    async def beat(self) -> None:
        """Show that we live, for ever. Nobody is here before that begins."""
        self._beat_at = self._now_ms()
        while True:
            self._beat()
            await asyncio.sleep(BEAT_S)

    def _beat(self) -> None:
        now = self._now_ms()
        if now - self._beat_at > STILL_MS:
            log.warning("this process stood still: who may be here is looked up first", extra={"ms": now - self._beat_at})
            self._standstills += 1
            self.is_shut = True
            self._open.clear()
            self._shut.set()
        self._beat_at = now

    async def shut(self, within_s: float | None = None) -> int:
        """Return when it is shut, or after a time: how often it was shut since it was open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._shut.wait()
        return self._standstills

    def looked(self, standstills: int) -> bool:
        """It is known now what was to be known after so many standstills; return whether that opens the fence."""
        if not standstills or standstills != self._standstills:
            return False  # It stood still again while that was being found out.
        self._standstills = 0
        self.is_shut = False
        self._shut.clear()
        self._open.set()
        return True

    async def opened(self) -> None:
        """Return when it is open, and still is when it is the caller's turn. Does not wait if it is."""
        while self.check():
            await self._open.wait()
