"""Subscriber: hears what is published on channels of one node, in the turn in which it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import MovedError

from securechat.bus.publisher import Traffic
from securechat.bus.wire import Wire

SILENCE_S: Final = 3.5
"""A subscription that brings nothing for so long is dead: our own heartbeats come back through it each second."""

NOTHING: Final = b""
"""What a link says first, to see whether it may. Nobody is told of it."""


class Subscriber:
    """Hears, until its connection fails.

    Args:
        connection: See `Wire`.
        channels: To be subscribed to, by one command each: those that a command names have to be of one slot of a cluster.
        received: Gets (channel, message).
        traffic: What is counted.
        ended: See `Wire`.

    Attributes:
        subscribed: Done when Redis said so of all channels.
    """

    def __init__(
        self,
        connection: Any,
        channels: Sequence[bytes],
        received: Callable[[bytes, bytes], None],
        traffic: Traffic,
        ended: asyncio.Future[Exception],
    ) -> None:
        self._received = received
        self._traffic = traffic
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self._missing = set(channels)
        self._heard_at = loop.time()
        self._wire = Wire(connection, self._took, ended)
        for channel in channels:
            self._wire.send(b"SSUBSCRIBE", channel)

    def _took(self, message: Any) -> None:
        match message:
            case [b"smessage", channel, data]:
                self._heard_at = self._now()
                if data != NOTHING:
                    self._traffic.received += 1
                    self._received(channel, data)
            case [b"ssubscribe", channel, _]:
                self._missing.discard(channel)
                if not self._missing and not self.subscribed.done():
                    self.subscribed.set_result(None)
            case [b"sunsubscribe", *_]:
                self._wire.end(MovedError("0 -:0"))  # The node lost the slot of this channel.

    def look(self) -> None:
        """See whether it is alive.

        Raises:
            TimeoutError: It is not.
        """
        if self._now() - self._heard_at > SILENCE_S:
            raise TimeoutError("nothing comes, not even what we sent")
