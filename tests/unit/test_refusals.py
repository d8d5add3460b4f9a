"""A refusal goes with whoever heard it: an error that its own frame holds keeps a connection in memory until the collector comes.

In a bad hour hundreds are refused each second, and each one that stayed would keep its connection.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from securechat.auth.rate_limiter import RateLimiter
from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.domain.breaker import Breaker
from securechat.domain.ports import LogTransaction
from securechat.errors import ChatError, Unavailable
from securechat.gateway.turns import Turns
from securechat.server.config import DEFAULT_RATES
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.room_log import Operation, RoomLog
from securechat.store.postgres_pool import PostgresPool
from support.fakes import ManualClock, RecordingBus, principal


class Heard:
    """What the frame of who is refused holds, such as a connection."""


async def a_breaker_is_open() -> None:
    breaker = Breaker()
    breaker.failed(1.0, "gone", surely=True)
    breaker.enter(1.0, "away")


async def the_database_is_away() -> None:
    pool = PostgresPool("postgresql://localhost:1/none", 1)
    pool.breaker.failed(asyncio.get_running_loop().time() + 60, "gone", surely=True)
    async with pool.connection():
        pass


async def too_many_wait() -> None:
    async with Turns(1).turn("full", again_ms=1, waiting_max=0, wait_s=1):
        pass


async def it_takes_too_long() -> None:
    turns = Turns(1)
    async with turns.some_time(), turns.turn("full", again_ms=1, waiting_max=1, wait_s=0.001):
        pass


async def a_command_is_refused() -> None:
    async def ask(_who: Principal, _command: object) -> None:
        raise Unavailable

    dispatcher = CommandDispatcher(
        {}, {c.MemberList: ask}, {}, None, RateLimiter(DEFAULT_RATES), ManualClock(), lambda _origin, _error: None  # type: ignore[arg-type]
    )  # fmt: skip
    answered = asyncio.Event()
    codes: list[str] = []

    def done(result: object) -> None:
        assert isinstance(result, ChatError)
        codes.append(result.code)
        answered.set()

    dispatcher.dispatch(principal("ana"), c.MemberList(room="rm_1"), "192.0.2.1", done)
    await answered.wait()
    raise Unavailable(codes[0])


async def a_change_of_a_room_is_refused() -> None:
    def decide(_transaction: LogTransaction, _now: int) -> None:
        raise Unavailable

    room_log = RoomLog(Store(), RecordingBus(), ManualClock())  # type: ignore[arg-type]  # as much of a store as a refusal needs
    await room_log.perform(Operation(decide, "rm_1"))


class Store:
    """Takes every commit, and stores nothing."""

    lanes = 1

    def lane(self, _room: str) -> int:
        return 0

    def refusal(self, _lane: int) -> None:
        return None

    async def commit(self, work: Callable[[Any], Coroutine[Any, Any, Any]], _lane: int) -> Any:
        return await work(Nothing())


class Nothing:
    """A transaction that nothing is in."""

    def __init__(self) -> None:
        self.appended: list[object] = []
        self.recorded: list[object] = []
        self.behind: tuple[str, ...] = ()

    async def load(self, *_values: object) -> None:
        """There is nothing."""


@pytest.mark.parametrize(
    "refused",
    [
        a_breaker_is_open, the_database_is_away, too_many_wait, it_takes_too_long, a_command_is_refused,
        a_change_of_a_room_is_refused,
    ],
)  # fmt: skip
async def test_a_refusal_leaves_nothing_to_the_cycle_collector(refused: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def come() -> None:
        heard = Heard()
        try:
            await refused()
        except Unavailable:
            return
        raise AssertionError(heard)

    def left() -> int:
        return sum(isinstance(each, Heard | ChatError) for each in gc.get_objects())

    await come()  # What is made once and kept.
    await asyncio.sleep(0)
    gc.collect()
    gc.disable()
    before = left()
    try:
        await asyncio.create_task(come())
        await asyncio.sleep(0)

        assert left() == before
    finally:
        gc.enable()
