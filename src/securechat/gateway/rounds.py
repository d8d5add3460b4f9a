"""A round through all connections, a few at a time: a thousand pings at once would keep every message waiting for 20 ms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

FEW: Final = 16
"""Looked after in one turn of the loop at least: half a millisecond if all of them are pinged."""
TURNS_MAX: Final = 60
"""In one round: a server full of connections looks after more of them in each."""


async def a_few_at_a_time(everybody: Sequence[T], within_s: float) -> AsyncIterator[Sequence[T]]:
    """Yield all of them in parts, evenly spread over a time. The last part comes at its end; if there is nobody, nothing does."""
    turns = min(TURNS_MAX, -(-len(everybody) // FEW))
    if not turns:
        await asyncio.sleep(within_s)
    for number in range(turns):
        await asyncio.sleep(within_s / turns)
        yield everybody[number::turns]
