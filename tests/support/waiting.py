"""Waiting for a condition, not for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It did not in time.
    """
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
