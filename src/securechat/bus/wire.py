"""Wire: a connection to Redis whose bytes leave, and are taken, in the turn of the loop in which they are there.

redis-py opens it, with TLS, password and name, and hiredis parses. What redis-py would do for each answer (a task that wakes up, a
timer, a stream in between) costs three times as much as all else that hearing a message needs (ADR 36).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import hiredis
from redis.exceptions import InvalidResponse, RedisError, ResponseError

log = logging.getLogger(__name__)

TURN: Final = 100
"""So many are taken in one turn of the loop, some milliseconds of work: then others have theirs."""
_MORE: Final = object()


class Wire(asyncio.Protocol):
    """One connection.

    Args:
        connection: Of redis-py: connected, with every answer taken, and nobody else's from now on.
        took: Gets each answer, and each message that was pushed.
        ended: Gets why it ended. Several wires may share it: the first one counts.

    Raises:
        ConnectionError: It ended already.
    """

    def __init__(self, connection: Any, took: Callable[[Any], None], ended: asyncio.Future[Exception]) -> None:
        self._connection = connection
        self._took = took
        self._ended = ended
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_MORE)
        self._behind = False
        """Whether more came than one turn takes."""
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001 - redis-py has no other way to its socket
        if self._transport.is_closing():
            raise ConnectionError("it was closed at once")
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def send(self, *words: bytes) -> bool:
        """Write a command and return whether it was. Never waits, and never raises."""
        if self._transport.is_closing():
            return False
        self._transport.writelines(self._connection.pack_command(*words))
        return True

    def end(self, error: Exception) -> None:
        """Close at once."""
        if not self._ended.done():
            self._ended.set_result(error)
        self._transport.abort()

    # ── the transport calls ──────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        """Take what is complete."""
        self._reader.feed(data)
        if not self._behind:
            self._take()

    def _take(self) -> None:
        left = TURN
        try:
            while left and (answer := self._reader.gets()) is not _MORE:
                if isinstance(answer, RedisError):
                    self.end(answer)
                    return
                self._took(answer)
                left -= 1
        except RedisError as error:
            self.end(error)
            return
        except Exception:
            log.exception("what came from Redis could not be taken")
            self.end(ConnectionError("what came could not be taken: the log says why"))
            return
        if not left:
            asyncio.get_running_loop().call_soon(self._take)
        self._set_behind(not left)

    def _set_behind(self, behind: bool, /) -> None:  # noqa: FBT001 - it is what is set
        if behind is not self._behind and not self._transport.is_closing():
            (self._transport.pause_reading if behind else self._transport.resume_reading)()
        self._behind = behind

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits, and redis-py, which waits for this when it closes."""
        if not self._ended.done():
            self._ended.set_result(exc or ConnectionError("Redis closed the connection"))
        self._before.connection_lost(exc)
