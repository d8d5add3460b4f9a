"""Breaker: closed, open, half-open with one probe; by a clock that the test moves."""

from __future__ import annotations

import pytest

from securechat.domain.breaker import FAILURES_MAX, PAUSE_S, Breaker, BreakerState
from securechat.errors import Unavailable

DOWN = "It does not answer."


def opened(now: float = 100.0, **settings: float) -> Breaker:
    breaker = Breaker(**settings)  # type: ignore[arg-type]
    for _ in range(FAILURES_MAX):
        breaker.enter(now, DOWN)
        breaker.failed(now, "OSError: refused")
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_forgets_them() -> None:
    breaker = Breaker(failures_max=3)
    for failed in (True, True, False, True, True):
        breaker.enter(1.0, DOWN)
        assert not (breaker.failed(1.0, "x") if failed else breaker.succeeded(1.0))

    assert breaker.closed
    assert breaker.failed(1.0, "x")
    assert breaker.state is BreakerState.OPEN


def test_one_failure_is_enough_when_it_is_sure() -> None:
    breaker = Breaker()

    assert breaker.failed(1.0, "TimeoutError: no answer", surely=True)
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "TimeoutError: no answer"


def test_while_it_is_open_everybody_is_told_when_to_come_back() -> None:
    breaker = opened(100.0)
    for now in (100.0, 100.05, 100.0999):
        with pytest.raises(Unavailable) as caught:
            breaker.enter(now, DOWN)
        assert caught.value.retryable
        assert caught.value.retry_after_ms is not None
        assert now + caught.value.retry_after_ms / 1_000 > 100.0 + PAUSE_S
        assert str(caught.value) == DOWN

    assert breaker.refused == 3
    assert breaker.opens == 1


def test_after_the_pause_one_asks_and_the_others_are_refused_until_it_is_known() -> None:
    breaker = opened(100.0)
    assert breaker.refusal(100.2, DOWN) is None
    breaker.enter(100.2, DOWN)
    for _ in range(10):
        with pytest.raises(Unavailable):
            breaker.enter(100.2, DOWN)

    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.succeeded(100.3)
    breaker.enter(100.3, DOWN)
    assert (breaker.state, breaker.since, breaker.reason) == (BreakerState.CLOSED, 100.3, "")


def test_pauses_double_with_each_probe_that_fails_up_to_a_limit_and_begin_anew_after_a_success() -> None:
    now, pauses = 100.0, []
    breaker = opened(now, pause_max_s=1.0)
    for _ in range(6):
        pauses.append(round(breaker.wait_s(now), 3))
        now += breaker.wait_s(now)
        breaker.enter(now, DOWN)
        assert not breaker.failed(now, "OSError: still")  # It was open before.

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert (breaker.since, breaker.opens, breaker.reason) == (100.0, 1, "OSError: still")
    now += 1.0
    breaker.enter(now, DOWN)
    breaker.succeeded(now)
    breaker.failed(now, "x", surely=True)
    assert breaker.wait_s(now) == pytest.approx(PAUSE_S)


def test_a_probe_that_gave_up_leaves_its_turn_to_the_next_one() -> None:
    breaker = opened(100.0)
    breaker.enter(100.2, DOWN)
    breaker.gave_up(100.2)
    breaker.enter(100.2, DOWN)

    assert breaker.state is BreakerState.HALF_OPEN


def test_what_was_asked_before_it_opened_neither_closes_nor_lengthens_it() -> None:
    breaker = opened(100.0)
    assert not breaker.succeeded(100.05)
    assert not breaker.failed(100.05, "late", surely=True)

    assert breaker.state is BreakerState.OPEN
    assert breaker.wait_s(100.0) == pytest.approx(PAUSE_S)
    assert breaker.reason == "OSError: refused"


def test_giving_up_while_it_is_closed_changes_nothing() -> None:
    breaker = Breaker()
    breaker.gave_up(1.0)

    assert breaker.closed
