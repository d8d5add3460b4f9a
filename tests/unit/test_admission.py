"""HandshakeAdmission: however many come at once, two are computed at a time, and who cannot wait is told when to come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import cast

import pytest

from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.errors import RateLimited, Unavailable
from securechat.gateway import admission
from securechat.gateway.admission import RATE, THREADS, HandshakeAdmission
from securechat.protocol.handshake import ServerHandshake


class Slow:
    """Stands for handshakes: each takes until the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.lock = threading.Lock()
        self.now = self.most = self.done = 0

    def answer(self) -> list[bytes]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.go_on.wait(10)
        with self.lock:
            self.now -= 1
            self.done += 1
        return [b"hello"]


@pytest.fixture
async def turn() -> AsyncIterator[HandshakeAdmission]:
    found = HandshakeAdmission(RateLimiter({RATE: Rate(burst=100_000, per_s=1)}))
    yield found
    found.close()


async def test_086_of_a_thousand_at_once_two_are_computed_and_who_waits_too_long_is_told_when_to_come_back(
    turn: HandshakeAdmission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "WAITING_MAX", 100)
    monkeypatch.setattr(admission, "WAIT_S", 0.2)
    slow = Slow()
    handshake = cast("ServerHandshake", slow)
    coming = [asyncio.create_task(turn.answer(handshake, f"10.0.{number >> 8}.{number & 255}")) for number in range(1_000)]
    rejected, _ = await asyncio.wait(coming, timeout=0.05)
    late, _ = await asyncio.wait(coming, timeout=2, return_when=asyncio.FIRST_EXCEPTION)
    await asyncio.sleep(0)
    while sum(task.done() for task in coming) < 1_000 - THREADS:
        await asyncio.sleep(0.01)
    slow.go_on.set()
    found = await asyncio.gather(*coming, return_exceptions=True)

    assert slow.most == THREADS
    assert slow.done == THREADS
    assert len(rejected) >= 1_000 - 100 - THREADS, "the queue has an end, and who does not fit knows at once"
    assert len(late) >= len(rejected)
    refused = [each for each in found if isinstance(each, Unavailable)]
    assert len(refused) == 1_000 - THREADS
    assert all(each.retry_after_ms for each in refused)


async def test_086_what_was_refused_leaves_no_place_taken(turn: HandshakeAdmission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT_S", 0.05)
    slow = Slow()
    handshake = cast("ServerHandshake", slow)
    for _ in range(3):
        crowd = [asyncio.create_task(turn.answer(handshake, "10.0.0.1")) for _ in range(10)]
        await asyncio.wait(crowd, timeout=0.2)
        slow.go_on.set()
        await asyncio.gather(*crowd, return_exceptions=True)
        slow.go_on.clear()
    slow.go_on.set()

    assert turn._turns.waiting == 0
    assert await asyncio.gather(*(turn.answer(handshake, "10.0.0.1") for _ in range(20))) == [[b"hello"]] * 20


async def test_086_a_source_that_comes_too_often_is_refused_before_anything_is_computed() -> None:
    turn = HandshakeAdmission(RateLimiter({RATE: Rate(burst=3, per_s=0.001)}))
    slow = Slow()
    slow.go_on.set()
    handshake = cast("ServerHandshake", slow)
    found = await asyncio.gather(*(turn.answer(handshake, "10.0.0.1") for _ in range(5)), return_exceptions=True)
    turn.close()

    assert [isinstance(each, RateLimited) for each in found] == [False] * 3 + [True] * 2
    assert slow.done == 3
