"""Turns: some at a time, in order; who cannot wait is told when to come back, and who gives up leaves the place to the next."""

from __future__ import annotations

import asyncio

import pytest

from securechat.errors import Unavailable
from securechat.gateway.turns import Turns

FULL = "full"


async def test_so_many_are_at_work_at_a_time_and_the_rest_follow_in_order() -> None:
    turns, at_work, most, order = Turns(3), 0, 0, []

    async def work(number: int) -> None:
        nonlocal at_work, most
        async with turns.turn(FULL, again_ms=3_000, waiting_max=100, wait_s=5):
            order.append(number)
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0)
            at_work -= 1

    await asyncio.gather(*(work(number) for number in range(50)))
    assert (most, order, turns.waiting) == (3, list(range(50)), 0)


async def test_work_that_never_waits_takes_turns_of_the_loop_all_the_same() -> None:
    turns, loop = Turns(3), asyncio.get_running_loop()
    done = [0]

    def pass_by() -> None:
        done.append(0)
        if sum(done) < 50:
            loop.call_soon(pass_by)

    async def work() -> None:
        async with turns.turn(FULL, again_ms=3_000, waiting_max=100, wait_s=5):
            done[-1] += 1

    loop.call_soon(pass_by)
    await asyncio.gather(*(work() for _ in range(50)))
    assert (sum(done), max(done)) == (50, 3)


async def test_who_is_too_many_is_told_at_once_and_who_waited_in_vain_after_that_time() -> None:
    turns = Turns(1)
    go_on = asyncio.Event()

    async def work() -> str:
        try:
            async with turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=0.05):
                await go_on.wait()
        except Unavailable as error:
            return f"{error.retry_after_ms}"
        return "done"

    everybody = [asyncio.create_task(work()) for _ in range(10)]
    done, _ = await asyncio.wait(everybody, timeout=0.01)
    assert {task.result() for task in done} == {"3000"}
    assert len(done) == 4
    await asyncio.sleep(0)
    while turns.waiting:
        await asyncio.sleep(0.005)
    go_on.set()
    found = await asyncio.gather(*everybody)
    assert sorted(found) == ["3000"] * 9 + ["done"]
    async with turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=0.05):
        pass  # Nobody took a place along.


async def test_who_gives_up_leaves_no_place_taken() -> None:
    turns = Turns(1)
    for _ in range(3):
        async with turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=5):
            waits = asyncio.create_task(turns.some_time().__aenter__())
            also = asyncio.create_task(turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=5).__aenter__())
            await asyncio.sleep(0)
            for task in (waits, also):
                task.cancel()
            await asyncio.wait({waits, also})
    async with asyncio.timeout(1), turns.some_time():
        assert turns.waiting == 0


async def test_an_error_inside_gives_the_turn_back() -> None:
    turns = Turns(1)
    with pytest.raises(ValueError, match="x"):
        async with turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=1):
            raise ValueError("x")
    async with turns.turn(FULL, again_ms=3_000, waiting_max=5, wait_s=0.05):
        pass
