"""Publisher: what is published leaves at once, before this server writes to its own people. Answers are only counted."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from securechat.bus.wire import Wire

ANSWER_S: Final = 2.0
"""A node that takes longer does not answer."""
WAITING_BYTES: Final = 16 * 1024 * 1024
"""What may be on its way to one node without an answer."""


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


class Publisher:
    """Publishes on one node, until its connection fails.

    Args:
        connection: See `Wire`.
        traffic: What is counted.
        ended: See `Wire`.

    Attributes:
        answered: Done when Redis took something.
        idle: Whether everything was answered.
    """

    def __init__(self, connection: Any, traffic: Traffic, ended: asyncio.Future[Exception]) -> None:
        self._traffic = traffic
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.answered: asyncio.Future[None] = loop.create_future()
        self._waiting: deque[tuple[int, float]] = deque()
        """Of what is not answered yet, oldest first: bytes, and since when."""
        self._bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._wire = Wire(connection, self._took, ended)

    def put(self, channel: bytes, message: bytes) -> None:
        """Send a message in this turn of the loop. Never waits, and never raises."""
        if self._bytes + len(message) > WAITING_BYTES or not self._wire.send(b"SPUBLISH", channel, message):
            self._traffic.dropped += 1
            return
        self._waiting.append((len(message), self._now()))
        self._bytes += len(message)
        self.idle.clear()

    def _took(self, answer: Any) -> None:
        if type(answer) is not int or not self._waiting:
            return  # A notice that nobody asked for, or an answer to what was given up.
        size, _ = self._waiting.popleft()
        self._bytes -= size
        self._traffic.sent += 1
        self._traffic.sent_bytes += size
        if not self._waiting:
            self.idle.set()
        if not self.answered.done():
            self.answered.set_result(None)

    def look(self) -> None:
        """See whether Redis answers.

        Raises:
            TimeoutError: It does not.
        """
        if self._waiting and self._now() - self._waiting[0][1] > ANSWER_S:
            raise TimeoutError("no answer to what was published")

    def close(self) -> None:
        """Give up what was not answered."""
        self._traffic.dropped += len(self._waiting)
        self._waiting.clear()
        self.idle.set()
