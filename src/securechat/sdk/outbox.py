"""Outbox: every send reaches the server once and in order per room, or fails loudly.

One send per room is on the way at a time: a later one can never overtake one that has to wait. An unknown outcome (the
connection was lost) is repeated with the same `cmid`, and the server answers what it answered the first time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from securechat.domain.commands import MessageSend, Sent
from securechat.errors import ChatError
from securechat.sdk.errors import ConnectionLost, Stopped

WAITING_MAX: Final = 10_000
RETRY_S: Final = 1.0
TOLD_EVERY_S: Final = 5.0
"""How often the log says that the server's rate limit slows sending down."""

log = logging.getLogger(__name__)

Call = Callable[[Any], Awaitable[Any]]


def new_cmid() -> str:
    """Return a fresh client message id: 96 random bits."""
    return secrets.token_urlsafe(12)


class Outbox:
    """What waits to be sent.

    Args:
        call: Sends a command and returns its reply; raises `ConnectionLost` when the outcome is unknown.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._rooms: dict[str, deque[tuple[MessageSend, asyncio.Future[Sent]]]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._waiting = 0
        self._told_at = float("-inf")

    @property
    def waiting(self) -> int:
        """How many sends have no answer yet."""
        return self._waiting

    def put(self, command: MessageSend) -> asyncio.Future[Sent]:
        """Queue a send and return a future of its answer; nobody has to wait for it.

        Raises:
            ConnectionLost: The outbox is full.
        """
        if self._waiting >= WAITING_MAX:
            raise ConnectionLost(f"{WAITING_MAX} messages wait already.")
        future: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        self._rooms.setdefault(command.room, deque()).append((command, future))
        self._waiting += 1
        if command.room not in self._workers:
            self._workers[command.room] = asyncio.create_task(self._work(command.room))
        return future

    async def flush(self) -> None:
        """Return when everything that waits now has its answer."""
        while self._workers:
            await asyncio.wait(list(self._workers.values()))

    def close(self) -> None:
        """Stop sending; what waits fails with `ConnectionLost`."""
        for worker in self._workers.values():
            worker.cancel()
        for waiting in self._rooms.values():
            for _, future in waiting:
                if not future.done():
                    future.set_exception(ConnectionLost("The client was closed before the answer came."))
                    future.exception()  # Somebody who does not wait is not told twice.
        self._rooms.clear()
        self._waiting = 0

    async def _work(self, room: str) -> None:
        waiting = self._rooms[room]
        try:
            while waiting:
                command, future = waiting[0]
                try:
                    result: Any = await self._send(command)
                except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits for this send is told
                    result = error
                waiting.popleft()
                self._waiting -= 1
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        finally:
            self._workers.pop(room, None)
            if not waiting:
                self._rooms.pop(room, None)

    def _tell_slowness(self, error: ChatError, wait_s: float) -> None:
        """Say why a send waits: the first time, and then once in `TOLD_EVERY_S`."""
        now = time.monotonic()
        level = logging.INFO if now - self._told_at >= TOLD_EVERY_S else logging.DEBUG
        if level == logging.INFO:
            self._told_at = now
        log.log(level, "sending waits %.2f s, %d messages in the queue: %s", wait_s, self._waiting, error)

    async def _send(self, command: MessageSend) -> Sent:
        while True:
            try:
                sent: Sent = await self._call(command)
            except Stopped:
                raise
            except ConnectionLost:
                # `call` waits for the next connection by itself. Who finds it lost first has to let the client find it, too.
                await asyncio.sleep(0)
            except ChatError as error:
                if not error.retryable:
                    raise
                wait_s = (error.retry_after_ms or RETRY_S * 1000) / 1000
                self._tell_slowness(error, wait_s)
                await asyncio.sleep(wait_s)
            else:
                return sent
