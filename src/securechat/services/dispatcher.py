"""CommandDispatcher: from a command to its one handler, with the limits that all doors share.

Doors translate; they never decide. A command without a handler cannot be registered away: a test compares the table with the list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import OPERATOR, Principal
from securechat.domain.ports import Clock
from securechat.errors import ChatError, Draining, Internal, InvalidInput
from securechat.services.room_log import Done, Operation, RoomLog

log = logging.getLogger(__name__)

MESSAGE_RATE: Final = "message"
COMMAND_RATE: Final = "command"

ToOperation = Callable[[Principal, Any], Operation]
"""A command that becomes an entry: answered by the group commit."""
Ask = Callable[[Principal, Any], Awaitable[Any]]
"""A command that is answered by a coroutine."""
Open = Callable[[Any, str], Awaitable[Any]]
"""A command that a stranger may send; gets the address instead of a principal."""


class Limiter(Protocol):
    """What the dispatcher needs of the rate limiter."""

    def take(self, what: str, who: str, now: float, cost: float = 1.0) -> float:
        """Take tokens or raise `RateLimited`."""


class CommandDispatcher:
    """The table of handlers.

    Args:
        operations: Commands that become entries.
        asks: All others of people with an account.
        opens: Those of strangers.
        room_log: The group commit.
        limiter: Token buckets.
        clock: For them.
    """

    def __init__(
        self,
        operations: dict[type[c.Command], ToOperation],
        asks: dict[type[c.Command], Ask],
        opens: dict[type[c.Command], Open],
        room_log: RoomLog,
        limiter: Limiter,
        clock: Clock,
    ) -> None:
        self._operations = operations
        self._asks = asks
        self._opens = opens
        self._room_log = room_log
        self._limiter = limiter
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def handled(self) -> set[type[c.Command]]:
        """Every command that has a handler."""
        return {*self._operations, *self._asks, *self._opens}

    def dispatch(self, who: Principal, command: c.Command, address: str, done: Done) -> None:
        """Handle a command of a connection; `done` gets the reply or the `ChatError`, once."""
        to_operation = self._operations.get(type(command))
        if to_operation is None:
            task = asyncio.create_task(self._answer(who, command, address, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            policy.require_enrolled(who, setting_up=False)
            self._limiter.take(MESSAGE_RATE, who.user_id, self._clock.monotonic())
            operation = to_operation(who, command)
        except ChatError as error:
            done(error)
            return
        self._room_log.submit(operation, done)

    def charge(self, who: Principal, cost: int) -> None:
        """Take tokens for something that is no command but costs as much.

        Raises:
            RateLimited: There are not enough.
        """
        self._limiter.take(COMMAND_RATE, who.user_id, self._clock.monotonic(), float(cost))

    async def perform(self, who: Principal, command: c.Command, address: str) -> Any:
        """Handle a command and return its reply.

        Raises:
            ChatError: It was refused.
        """
        if self._draining:
            raise Draining(retry_after_ms=1_000)
        opened = self._opens.get(type(command))
        if opened is not None:
            return await opened(command, address)
        policy.require_account(who)
        policy.require_enrolled(who, setting_up=type(command) in c.WHILE_ENROLLING)
        if who is not OPERATOR:
            rate = MESSAGE_RATE if type(command) in self._operations else COMMAND_RATE
            self._limiter.take(rate, who.user_id, self._clock.monotonic())
        to_operation = self._operations.get(type(command))
        if to_operation is not None:
            return await self._room_log.perform(to_operation(who, command))
        ask = self._asks.get(type(command))
        if ask is None:
            raise InvalidInput("There is no such command here.", field="op")
        return await ask(who, command)

    async def drain(self) -> None:
        """Return when every command that was taken until now is answered; new ones are refused."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._room_log.drain()

    async def _answer(self, who: Principal, command: c.Command, address: str, done: Done) -> None:
        try:
            result = await self.perform(who, command, address)
        except ChatError as error:
            result = error
        except Exception:
            log.exception("command failed", extra={"command": type(command).__name__, "user_id": who.user_id})
            result = Internal()
        done(result)
