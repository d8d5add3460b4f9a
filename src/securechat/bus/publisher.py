"""Publisher: what is published leaves at once, before this server writes to its own people. Answers are only counted."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

ANSWER_S: Final = 2.0
"""A node that takes longer does not answer."""
WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may be on its way to one node without an answer."""
FAILURES: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""uvloop says `RuntimeError` of a transport that was just closed, where asyncio says `OSError` or nothing."""


@dataclass(slots=True)
class Traffic:
    """What went through since the start."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    dropped: int = 0
    """Messages of which nobody knows that Redis has them: it was down, too much waited, or no answer came."""
    losses: int = 0
    """Times that a connection to a node ended."""


def end_if_cancelled() -> None:
    """End the task if it was cancelled while it waited for Redis.

    redis-py waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes in the turn of the answer: who
    loops around its calls would go on for ever.

    Raises:
        CancelledError: It was.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Publisher:
    """Publishes on one node, until its connection fails.

    Args:
        connection: Of redis-py, connected, and nobody else's.
        traffic: What is counted.

    Attributes:
        idle: Whether everything was answered.
    """

    def __init__(self, connection: Any, traffic: Traffic) -> None:
        self._connection = connection
        self._traffic = traffic
        self._sizes: deque[int] = deque()
        """Of what is not answered yet, oldest first."""
        self._bytes = 0
        self._asked = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def put(self, channel: bytes, message: bytes) -> None:
        """Send a message in this turn of the loop. Never waits, and never raises."""
        # By way of `send_packed_command` it would leave a turn later: after what everybody here is written in between.
        writer = self._connection._writer  # noqa: SLF001 - see above
        if writer is None or self._bytes + len(message) > WAITING_BYTES:
            self._traffic.dropped += 1
            return
        try:
            writer.writelines(self._connection.pack_command("SPUBLISH", channel, message))
        except FAILURES:
            self._traffic.dropped += 1  # Whoever waits for answers gets to know why.
            return
        self._sizes.append(len(message))
        self._bytes += len(message)
        self._asked.set()
        self.idle.clear()

    async def run(self) -> None:
        """Take the answers, for ever.

        Raises:
            RedisError, OSError, TimeoutError: Redis refuses, is gone, or does not answer.
        """
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._sizes:
                await self._connection.read_response(timeout=ANSWER_S)
                end_if_cancelled()
                size = self._sizes.popleft()
                self._bytes -= size
                self._traffic.sent += 1
                self._traffic.sent_bytes += size
            self.idle.set()

    def close(self) -> None:
        """Give up what was not answered."""
        self._traffic.dropped += len(self._sizes)
        self._sizes.clear()
        self.idle.set()
