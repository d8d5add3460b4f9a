"""Draining: who is connected is told at once that this server stops, and is let go in batches, so that nobody's door is stormed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Protocol

from securechat.protocol.frames import CloseCode

BATCH_S: Final = 0.25
"""Between two batches; who is in one has so long to get the answers to what was sent."""
EACH_S: Final = 0.05
"""A few are let go sooner than within the window: twenty a second harm nobody."""
LOOK_S: Final = 0.01


class Drained(Protocol):
    """What is known of a connection here."""

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered."""

    def announce(self, after_ms: int, within_ms: int) -> None:
        """Tell the client that the connection will be closed within a time, and when to come back after that."""

    def retire(self) -> None:
        """Read nothing more."""

    def close(self, code: int, reason: str = "") -> None:
        """End it."""


def announce(connections: Sequence[Drained], *, spread_s: float, window_s: float) -> float:
    """Tell everybody; return the time over which they are to be let go.

    Args:
        connections: Everybody.
        spread_s: Where nobody else could take them: over so long they come back to this server, which starts again.
        window_s: Over so long they are let go at most, where others take them; 0: nobody does.
    """
    window_s = min(window_s, len(connections) * EACH_S)
    for index, connection in enumerate(connections, 1):
        after_s = random.uniform(0, BATCH_S) if window_s else spread_s * index / len(connections)  # noqa: S311 - no secret
        connection.announce(int(after_s * 1_000), int(window_s * 1_000))
    return window_s


async def let_go(connections: Sequence[Drained], window_s: float) -> None:
    """Close them in batches within a time, each after what was sent on it is answered, as far as that comes soon."""
    loop = asyncio.get_running_loop()
    batches = max(1, round(window_s / BATCH_S))
    began = loop.time()
    for number in range(batches):
        some = connections[number::batches]
        for connection in some:
            connection.retire()
        until = began + (number + 1) * window_s / batches
        while loop.time() < until and not all(connection.idle for connection in some):  # noqa: ASYNC110 - no one event says so
            await asyncio.sleep(LOOK_S)
        for connection in some:
            connection.close(CloseCode.DRAIN, "drain")
        if number < batches - 1:
            await asyncio.sleep(max(0.0, until - loop.time()))
