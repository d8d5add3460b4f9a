"""Limits: buckets, their bounds, patience, coalescing; and a team at its busiest, which never feels them."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securechat.auth import rate_limiter
from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, Principal
from securechat.errors import ChatError, RateLimited
from securechat.gateway.connection_limits import PATIENCE_BURST, Caps, Connections, HttpConnections, Patience, Pending
from securechat.server.config import DEFAULT_RATES
from securechat.services import costs
from securechat.services.coalescing import Latest, Seldom
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.messaging import mentions_everybody
from support.fakes import ManualClock, principal


def test_there_are_never_more_buckets_than_memory_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "BUCKETS_MAX", 100)
    limiter = RateLimiter({"address": Rate(burst=2, per_s=1), "command": Rate(burst=1, per_s=0.001)})
    limiter.take("command", "usr_ana", 0.0)
    for number in range(10_000):
        limiter.take("address", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)

    assert len(limiter) == 101
    with pytest.raises(RateLimited):  # A flood of addresses makes nobody forget an account.
        limiter.take("command", "usr_ana", 0.0)


def test_the_bucket_that_was_used_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "BUCKETS_MAX", 2)
    limiter = RateLimiter({"x": Rate(burst=2, per_s=0.001)})
    for who in ("ana", "bob", "ana", "eve"):
        limiter.take("x", who, 0.0)
    with pytest.raises(RateLimited):
        limiter.take("x", "ana", 0.0)


def test_what_one_bucket_refuses_costs_no_other_anything() -> None:
    limiter = RateLimiter({"message": Rate(burst=1, per_s=1), "address": Rate(burst=10, per_s=1)})
    wanted = [("address", "1.2.3.4"), ("message", "ana")]
    limiter.take_all(wanted, 0.0)
    for _ in range(50):
        with pytest.raises(RateLimited) as refusal:
            limiter.take_all(wanted, 0.0)

    assert refusal.value.retry_after_ms == 1_001
    assert "r=9" in limiter.headers([("address", "1.2.3.4")], 0.0)["RateLimit"]


def test_all_addresses_of_an_ipv6_customer_have_one_bucket() -> None:
    limiter = RateLimiter({"address": Rate(burst=3, per_s=0.001), "login.address": Rate(burst=1, per_s=0.001)})
    for number in range(3):
        limiter.take("address", f"2001:db8:0:1::{number}", 0.0)
    limiter.take("login.address", "2001:db8:0:1::9", 0.0)
    for what in ("address", "login.address"):
        with pytest.raises(RateLimited):
            limiter.take(what, "2001:db8:0:1:ffff::1", 0.0)
    limiter.take("address", "2001:db8:0:2::1", 0.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 4)), max_size=60))
def test_costs_do_not_get_more_than_burst_plus_rate(steps: list[tuple[float, float]]) -> None:
    limiter, now, taken = RateLimiter({"x": Rate(burst=5, per_s=2)}), 0.0, 0.0
    waits: list[int] = []
    for pause, cost in steps:
        now += pause
        try:
            limiter.take_all([("x", "ana")], now, cost)
            taken += cost
        except RateLimited as refusal:
            waits.append(refusal.retry_after_ms or 0)

    assert taken <= 5 + 2 * now + 1e-6
    assert all(wait > 0 for wait in waits)


def test_patience_ends_with_who_goes_on_and_on() -> None:
    patience = Patience()
    ended = [patience.ends() for _ in range(int(PATIENCE_BURST) + 100)]

    assert not any(ended[: int(PATIENCE_BURST) - 1])
    assert ended[-1]


class _Connection:
    def __init__(self, address: str) -> None:
        self.address = address


def test_connections_are_counted_by_source_and_in_all() -> None:
    pending = Pending(Caps(connections=5, address=3, account=1, pending=4, pending_address=2))
    connections = Connections(pending)
    made = [_Connection(address) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3")]
    connections.add(made[0])
    connections.add(made[1])
    assert connections.refused("10.0.0.1") == 429  # Two that have not said who they are.
    connections.known(made[0])
    assert connections.refused("10.0.0.1") is None
    connections.known(made[1])
    third = _Connection("10.0.0.1")
    connections.add(third)
    connections.known(third)
    assert connections.refused("10.0.0.1") == 429  # Three in all.
    connections.add(made[2])
    connections.add(made[3])
    assert connections.refused("10.0.0.9") == 503
    for each in [*made, third, third]:
        connections.discard(each)
    assert (len(connections), pending.total) == (0, 0)


class _Kept:
    def __init__(self) -> None:
        self.ended = False

    def make_way(self) -> None:
        self.ended = True


def test_idle_connections_make_way_those_of_ones_own_source_first() -> None:
    pending = Pending(Caps(http=6, http_address=3))
    found = HttpConnections(pending)
    ana, bob, busy = [_Kept() for _ in range(3)], [_Kept() for _ in range(2)], _Kept()
    for each in ana:
        assert found.enter(each, "192.0.2.1")
    for each in (ana[1], ana[0]):  # In the order in which they became idle.
        found.rest(each)
    assert found.enter(busy, "192.0.2.1")
    assert [each.ended for each in ana] == [False, True, False]
    found.wake(ana[0])
    assert not found.enter(_Kept(), "192.0.2.1"), "none of this source is idle"

    for each in bob:
        assert found.enter(each, "192.0.2.2")
    assert found.enter(_Kept(), ""), "behind a proxy only all together count"
    assert len(found) == 6
    assert not found.enter(_Kept(), "192.0.2.3")
    found.rest(bob[0])
    found.rest(bob[1])
    assert found.enter(_Kept(), "192.0.2.3")
    assert [each.ended for each in bob] == [True, False]
    for each in (*ana, *bob, busy):
        found.leave(each)
        found.leave(each)
    found.rest(bob[1])  # Of what is gone nothing is remembered.
    assert len(found) == 2
    assert found.enter(_Kept(), "192.0.2.1")


async def test_what_comes_again_and_again_is_told_once_in_a_while_and_the_newest_in_the_end() -> None:
    latest, told = Latest(0.05), list[int]()
    done = asyncio.Event()

    def tell(number: int) -> None:
        told.append(number)
        if number == 999:
            done.set()

    for number in range(1_000):
        latest.call("room", partial(tell, number))
    await asyncio.wait_for(done.wait(), 5)

    assert told == [0, 999]


def test_somebody_who_types_is_shown_once_in_three_seconds() -> None:
    seldom = Seldom(3.0)

    assert [seldom.now("ana", at / 10) for at in range(61)].count(True) == 3


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ("@all come", True), ("please, @Everyone!", True), ("(@here)", True), ("@room.", True), ("@alligator", False), ("me@all.example", False),
        ("@all.example", False), ("all", False), ("@@all", False), ("`x`", False),
    ],
)  # fmt: skip
def test_who_calls_everybody_is_known(body: str, calls: bool) -> None:  # noqa: FBT001
    assert mentions_everybody(body) == calls


class _Taken:
    """A room log that takes everything."""

    def submit(self, _operation: object, done: Any) -> None:
        done(None)


async def test_what_is_refused_at_the_door_is_told_for_messages_too() -> None:
    told: list[tuple[str, str]] = []

    def hear(origin: tuple[Principal, c.Command, str], error: ChatError) -> None:
        told.append((origin[2], error.code))

    def never(_who: object, _command: object) -> Any:
        raise AssertionError

    limiter = RateLimiter(DEFAULT_RATES)
    dispatcher = CommandDispatcher({c.MessageSend: never}, {}, {}, _Taken(), limiter, ManualClock(), hear)  # type: ignore[arg-type]
    enrolling = msgspec.structs.replace(principal("ana"), enrolling=True)
    command = c.MessageSend(room="rm_1", cmid="1", body="hello")
    answers: list[ChatError] = []
    dispatcher.dispatch(enrolling, command, "192.0.2.1", answers.append)
    dispatcher.dispatch(OPERATOR, command, "192.0.2.2", answers.append)
    for who, address in ((enrolling, "192.0.2.3"), (OPERATOR, "192.0.2.4")):
        with pytest.raises(ChatError):
            await dispatcher.perform(who, command, address)

    assert [each.code for each in answers] == ["enrolment_required", "forbidden"]
    assert told == [(f"192.0.2.{k}", code) for k, code in enumerate(("enrolment_required", "forbidden") * 2, 1)]


async def test_a_team_at_its_busiest_is_never_told_to_wait() -> None:
    """Three hundred people behind one address come in within a minute, then talk for four; in simulated time."""
    clock, rng = ManualClock(), random.Random(7)
    limiter = RateLimiter(DEFAULT_RATES)

    def send(_who: object, command: c.MessageSend) -> object:
        limiter.take(costs.ROOM, command.room, clock.monotonic())
        return SimpleNamespace()

    async def ask(_who: object, _command: object) -> None:
        pass

    asks = dict.fromkeys((c.Fetch, c.ReadMark, c.TypingStart, c.MemberList, c.CommandList, c.UserFind, c.RoomJoin), ask)
    dispatcher = CommandDispatcher({c.MessageSend: send}, asks, {}, _Taken(), limiter, clock, lambda _origin, _error: None)  # type: ignore[arg-type, dict-item]
    refused: list[ChatError] = []
    sent = 0

    def done(result: object) -> None:
        if isinstance(result, ChatError):
            refused.append(result)

    steps: list[tuple[float, str, c.Command | None]] = []
    for person in range(300):
        name, at = f"p{person}", rng.uniform(0, 60)
        rooms = [f"rm_{rng.randrange(40)}" for _ in range(20)]
        steps.append((at, name, None))
        for room in rooms:  # A client that starts shows its rooms.
            steps += [
                (at + 0.5, name, c.Fetch(room=room)),
                (at + 0.6, name, c.MemberList(room=room)),
                (at + 0.7, name, c.CommandList(room=room)),
            ]
        while at < 300:
            at += rng.expovariate(1 / 20)
            room = "rm_0" if rng.random() < 0.3 else rng.choice(rooms)
            for line in range(rng.choice((1, 1, 1, 3, 8))):  # Some write line by line, and quickly.
                steps.append((at + line * 0.8, name, c.TypingStart(room=room)))
                steps.append((at + line * 0.8 + 0.4, name, c.MessageSend(room=room, cmid="x", body="hello")))
                steps.append((at + line * 0.8 + 0.5, name, c.ReadMark(room=room, seq=1)))
    steps.sort(key=lambda step: step[0])
    began = clock.seconds
    for at, name, command in steps:
        clock.seconds = began + at
        if command is None:
            limiter.take("connect.address", "198.51.100.7", clock.seconds)
            limiter.take("connect.account", name, clock.seconds)
        else:
            sent += 1
            dispatcher.dispatch(principal(name), command, "198.51.100.7", done)
            await asyncio.sleep(0)  # It is answered before simulated time goes on.

    assert sent > 40_000
    assert refused == []
