"""CommandDispatcher: from a command to its one handler, with the limits that all doors share.

Doors translate; they never decide. A command without a handler cannot be registered away: a test compares the table with the list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import OPERATOR, Principal
from securechat.domain.ports import Clock
from securechat.errors import ChatError, Draining, Internal, InvalidInput
from securechat.services import costs
from securechat.services.room_log import Done, Operation, Refused, RoomLog

log = logging.getLogger(__name__)

_AUDITED: Final = frozenset({c.MessageDelete})
"""Commands that become entries and may be remembered in the audit log: they need to know where they came from."""

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

    def take_all(self, wanted: Sequence[tuple[str, str]], now: float, cost: float = 1.0) -> None:
        """Take tokens from all of these buckets or from none, and raise `RateLimited`."""


class CommandDispatcher:
    """The table of handlers.

    Args:
        operations: Commands that become entries.
        asks: All others of people with an account.
        opens: Those of strangers.
        room_log: The group commit.
        limiter: Token buckets.
        clock: For them.
        refused: Hears of commands that were refused.
    """

    def __init__(
        self,
        operations: dict[type[c.Command], ToOperation],
        asks: dict[type[c.Command], Ask],
        opens: dict[type[c.Command], Open],
        room_log: RoomLog,
        limiter: Limiter,
        clock: Clock,
        refused: Refused,
    ) -> None:
        self._operations = operations
        self._asks = asks
        self._opens = opens
        self._room_log = room_log
        self._limiter = limiter
        self._clock = clock
        self._refused = refused
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def handled(self) -> set[type[c.Command]]:
        """Every command that has a handler."""
        return {*self._operations, *self._asks, *self._opens}

    def dispatch(self, who: Principal, command: c.Command, address: str, done: Done) -> None:
        """Handle a command of a connection; `done` gets the reply or the `ChatError`, once."""
        kind = type(command)
        to_operation = self._operations.get(kind)
        if to_operation is None:
            try:
                self.knock(address)
            except ChatError as error:
                done(error)
                return
            task = asyncio.create_task(self._answer(who, command, address, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        try:
            self._require(who, kind)
            policy.require_enrolled(who, setting_up=False)
            wanted = [(costs.ADDRESS, address), *costs.buckets_of(who, is_entry=True)]
            self._limiter.take_all(wanted, self._clock.monotonic())
            operation = to_operation(who.at(address) if kind in _AUDITED else who, command)
        except ChatError as error:
            done(error)
            self._refused((who, command, address), error)
            return
        operation.origin = (who, command, address)
        self._room_log.submit(operation, done)

    def knock(self, address: str, cost: float = 1.0) -> None:
        """Take tokens of an address: what a door does with every request before it looks at it.

        Raises:
            RateLimited: There are not enough.
        """
        self._limiter.take(costs.ADDRESS, address, self._clock.monotonic(), cost)

    def charge(self, who: Principal | None, cost: float, address: str) -> None:
        """Take tokens for what is no command: a ping, a resume, a frame that could not be understood.

        Raises:
            RateLimited: There are not enough.
        """
        wanted = [(costs.ADDRESS, address)]
        if who is not None:
            wanted.append((costs.COMMAND, who.user_id))
        self._limiter.take_all(wanted, self._clock.monotonic(), cost)

    async def perform(self, who: Principal, command: c.Command, address: str) -> Any:
        """Handle a command and return its reply.

        Raises:
            ChatError: It was refused.
        """
        try:
            found = await self._perform(who, command, address)
        except ChatError as error:
            self._refused((who, command, address), error)
            raise
        if not isinstance(found, Operation):
            return found
        found.origin = (who, command, address)
        return await self._room_log.perform(found)  # What is refused inside, the group commit tells.

    async def _perform(self, who: Principal, command: c.Command, address: str) -> Any:
        """Return the reply, or the operation that will have it."""
        if self._draining:
            raise Draining(retry_after_ms=1_000)
        kind = type(command)
        self._require(who, kind)
        opened = self._opens.get(kind)
        if opened is not None:
            return await opened(command, address)
        to_operation = self._operations.get(kind)
        policy.require_enrolled(who, setting_up=type(command) in c.WHILE_ENROLLING)
        if who is not OPERATOR:
            wanted = costs.buckets_of(who, is_entry=to_operation is not None)
            self._limiter.take_all(wanted, self._clock.monotonic(), costs.COSTS.get(kind, 1.0))
        if to_operation is not None:
            return to_operation(who.at(address), command)
        ask = self._asks.get(kind)
        if ask is None:
            raise InvalidInput("There is no such command here.", field="op")
        return await ask(who.at(address), command)

    async def drain(self) -> None:
        """Return when every command that was taken until now is answered; new ones are refused."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._room_log.drain()

    @staticmethod
    def _require(who: Principal, kind: type[c.Command]) -> None:
        """Ask the policy at the door: a command without a rule is nobody's."""
        decision = policy.at_the_door(who, str(kind.__struct_config__.tag))
        if decision.refusal is not None:
            raise decision.refusal(decision.detail)

    async def _answer(self, who: Principal, command: c.Command, address: str, done: Done) -> None:
        try:
            result = await self.perform(who, command, address)
        except ChatError as error:
            done(error)  # No name of its own: it and this frame would hold each other until the collector comes.
        except Exception:
            log.exception("command failed", extra={"command": type(command).__name__, "user_id": who.user_id})
            done(Internal())
        else:
            done(result)
