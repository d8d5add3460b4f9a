"""Everybody is looked after once in a round, a few at a time."""

from __future__ import annotations

import asyncio

import pytest

from securechat.gateway.rounds import FEW, TURNS_MAX, a_few_at_a_time

ROUND_S = 0.06


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 10 * FEW, FEW * TURNS_MAX, 3 * FEW * TURNS_MAX + 1])
async def test_everybody_has_a_turn_and_no_turn_is_for_many(count: int) -> None:
    """In each turn there are about as many, whatever their number is, and the last one is at the end of the time."""
    began = asyncio.get_running_loop().time()
    turns = [list(some) async for some in a_few_at_a_time(range(count), ROUND_S)]
    assert sorted(each for some in turns for each in some) == list(range(count))
    sizes = {len(some) for some in turns}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(FEW, -(-count // TURNS_MAX))
    assert asyncio.get_running_loop().time() - began >= ROUND_S * 0.9


async def test_a_round_through_nobody_takes_as_long() -> None:
    """A server that nobody is connected to does not turn in circles."""
    began = asyncio.get_running_loop().time()
    nobody: list[int] = []
    assert [some async for some in a_few_at_a_time(nobody, ROUND_S)] == []
    assert asyncio.get_running_loop().time() - began >= ROUND_S * 0.9


async def test_others_have_their_turn_in_between() -> None:
    """Between two parts the loop does other things."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    seen = [turns async for _ in a_few_at_a_time(range(4 * FEW), ROUND_S)]
    task.cancel()
    assert seen == sorted(set(seen))
    assert len(seen) == 4
