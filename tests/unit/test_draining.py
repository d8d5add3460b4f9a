"""Draining: everybody is told at once, and let go in batches; whose message is under way gets the answer first."""

from __future__ import annotations

import asyncio

import pytest

from securechat.gateway import draining
from securechat.gateway.draining import announce, let_go


class Connection:
    """Remembers what was done to it, and when."""

    def __init__(self, *, idle: bool = True) -> None:
        self.idle = idle
        self.told: tuple[int, int] | None = None
        self.retired = False
        self.closed_at: float | None = None

    def announce(self, after_ms: int, within_ms: int) -> None:
        self.told = (after_ms, within_ms)

    def retire(self) -> None:
        self.retired = True

    def close(self, code: int, reason: str = "") -> None:
        assert (code, reason, self.retired, self.closed_at) == (4000, "drain", True, None)
        self.closed_at = asyncio.get_running_loop().time()


def test_where_nobody_takes_them_they_come_back_over_the_time_and_nobody_waits() -> None:
    everybody = [Connection() for _ in range(10)]

    assert announce(everybody, spread_s=4.0, window_s=0.0) == 0.0
    assert [each.told for each in everybody] == [(400 * number, 0) for number in range(1, 11)]


def test_where_others_take_them_they_are_told_the_window_and_come_back_soon_after_their_turn() -> None:
    everybody = [Connection() for _ in range(1_000)]

    assert announce(everybody, spread_s=4.0, window_s=10.0) == 10.0
    told = [each.told or (0, 0) for each in everybody]
    assert {within for _, within in told} == {10_000}
    assert 0 <= min(told)[0] < max(told)[0] <= draining.BATCH_S * 1_000


@pytest.mark.parametrize(("people", "window_s"), [(0, 0.0), (1, 0.05), (12, 0.6), (200, 10.0)])
def test_a_few_are_not_made_to_wait_for_a_window_that_is_for_many(people: int, window_s: float) -> None:
    assert announce([Connection() for _ in range(people)], spread_s=4.0, window_s=10.0) == pytest.approx(window_s)


async def test_they_are_let_go_in_even_batches_over_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "BATCH_S", 0.02)
    everybody = [Connection() for _ in range(100)]
    began = asyncio.get_running_loop().time()
    await let_go(everybody, 0.2)

    at = sorted((each.closed_at or 0.0) - began for each in everybody)
    assert at[0] < 0.02
    assert at[-1] >= 0.17
    by_batch = [
        sum(each.closed_at == moment for each in everybody) for moment in sorted({each.closed_at or 0.0 for each in everybody})
    ]
    assert max(by_batch) <= 12


async def test_an_answer_under_way_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "BATCH_S", 0.05)
    quick, stuck = Connection(idle=False), Connection(idle=False)
    loop = asyncio.get_running_loop()
    began = loop.time()
    loop.call_later(0.02, lambda: setattr(quick, "idle", True))
    await let_go([quick], 0.05)
    assert quick.closed_at is not None
    assert 0.015 < quick.closed_at - began < 0.045
    await let_go([stuck], 0.05)
    assert stuck.closed_at is not None
