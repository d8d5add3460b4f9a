"""The relay on a real store, with real targets: in order, at least once, with patience, and nothing lost."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from securechat.domain import breaker
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.domain.audit import AuditEvent
from securechat.domain.ids import new_id
from securechat.domain.ports import LogTransaction
from securechat.domain.subscriptions import SubscriptionRecord, SubscriptionState
from securechat.errors import NotFound, Unavailable
from securechat.services.room_log import Operation, RoomLog
from securechat.services.subscriptions import SubscriptionService
from securechat.store import subscriptions as store_module
from securechat.webhooks import verify
from securechat.webhooks.delivery import DELAYS_S, FAILING_MS, Pace
from securechat.webhooks.gate import host_of
from securechat.webhooks.relay import HOST_AT_ONCE
from securechat.webhooks.signature import new_secret
from support.receiver import Receiver
from support.relaying import Relaying
from support.stores import Place

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
EVENT = AuditEvent(action="test.event")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Relaying]:
    found = await Relaying.open(Place(tmp_path, None), LOOPBACK, Pace(jitter=lambda: 1.0, poll_s=0.02))
    yield found
    await found.close()


async def test_what_is_said_goes_out_in_order_signed_and_without_the_device(world: Relaying, receiver: Receiver) -> None:
    await world.say("before")
    secret = await world.subscribe(receiver.url)
    await world.say(*[f"text {number}" for number in range(45)])
    await world.until(lambda: len(receiver.events) >= 45, "45 deliveries")

    assert receiver.texts == [f"text {number}" for number in range(45)], "in order, and nothing of before"
    headers, body = receiver.headers[0], receiver.bodies[0]
    event = verify(headers, body, secret, now_s=world.clock.now_ms() / 1_000)
    assert (event.id, event.type) == ("sub_1_3", "message.sent")
    assert event.timestamp.startswith("2026-11-")
    assert event.data == {
        "op": "event", "type": "message.sent", "room": "rm_1", "seq": 3, "at": event.data["at"], "user": "usr_ana", "body": "text 0",
    }  # fmt: skip
    assert headers["path"] == "/in?key=of-the-target"
    assert headers["Content-Type"] == "application/json"
    assert not {"Authorization", "Cookie"} & headers.keys()
    await world.until(lambda: world.relay.figures.results["ok"] == 45, "the figures")


async def test_what_breaks_is_told_and_tried_again(
    world: Relaying, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = world.store.active

    async def broken() -> list[SubscriptionRecord]:
        raise ValueError("out of range")

    monkeypatch.setattr(world.store, "active", broken)
    world.relay.wake()

    await world.until(lambda: "ValueError" in world.relay.problem, "the problem is told")
    assert "out of range" in caplog.text
    monkeypatch.setattr(world.store, "active", whole)
    world.relay.wake()
    await world.until(lambda: not world.relay.problem, "it goes on")


async def test_only_wanted_types_go_out_and_the_cursor_passes_the_others(world: Relaying, receiver: Receiver) -> None:
    await world.subscribe(receiver.url, types=("message.deleted",))
    (seq,) = await world.say("one")
    await world.delete(seq)
    await world.until(lambda: receiver.events, "a delivery")
    assert [event.type for event in receiver.events] == ["message.deleted"]

    async def passed() -> bool:
        return (await world.found()).cursor == seq + 1

    await world.until(passed, "the cursor")
    assert world.relay.queue_age_s() == 0


async def test_a_target_that_is_down_is_tried_again_with_growing_patience_and_loses_nothing(
    world: Relaying, receiver: Receiver
) -> None:
    world.kill()
    delays = (5.0, 20.0, 80.0, 320.0)
    world.pace = replace(world.pace, delays_s=delays)
    world.start()
    receiver.answer = lambda _event: 503
    await world.subscribe(receiver.url)
    await world.say("one", "two")
    tried: list[int] = []
    while len(tried) < 4:
        await world.until(lambda: len(receiver.refused) > len(tried), f"try {len(tried) + 1}", step_s=1)
        tried.append(world.clock.now_ms() // 1_000)
        await world.until(_stored_attempts(world, len(tried)), "stored", step_s=0.6)

    gaps = [after - before for before, after in itertools.pairwise(tried)]
    for gap, delay in zip(gaps, delays, strict=False):
        assert delay <= gap <= delay + 30, (gaps, delays)
    found = await world.found()
    assert (found.state, found.attempts, found.reason) == (SubscriptionState.ACTIVE, 4, "the target answered 503")
    assert found.failing_since > 0
    assert world.relay.queue_age_s() > 100
    receiver.answer = lambda _event: 200
    await world.until(lambda: len(receiver.events) == 2, "both", step_s=60)
    assert receiver.texts == ["one", "two"]
    await world.until(_stored_attempts(world, 0), "well again")
    assert len({event.id for event in [*receiver.refused, *receiver.events[:1]]}) == 1, "each try has the same webhook-id"


def _stored_attempts(world: Relaying, count: int) -> object:
    async def stored() -> bool:
        return (await world.found()).attempts == count

    return stored


async def test_an_entry_that_is_refused_is_a_dead_letter_at_once_and_the_next_one_goes_out(
    world: Relaying, receiver: Receiver
) -> None:
    receiver.answer = lambda event: 422 if event.data["body"] == "bad" else 204
    await world.subscribe(receiver.url)
    _, bad, _ = await world.say("one", "bad", "two")
    await world.until(lambda: receiver.texts == ["one", "two"], "the others")

    (letter,) = await world.store.letters("sub_1", limit=9)
    assert (letter.seq, letter.status, letter.attempts, letter.reason) == (bad, 422, 1, "the target refused it with 422")
    assert len(receiver.refused) == 1
    assert world.relay.figures.dead_letters == 1


async def test_a_dead_letter_is_replayed_as_it_is_now_never_with_a_text_that_was_deleted(
    world: Relaying, receiver: Receiver
) -> None:
    receiver.answer = lambda _event: 400
    await world.subscribe(receiver.url)
    kept, gone = await world.say("kept", "gone")
    await world.until(lambda: len(receiver.refused) == 2, "two refusals")
    await world.delete(gone)
    await world.store.replay("sub_1", kept, 1, EVENT)
    await world.until(lambda: len(receiver.refused) == 3, "a replay in vain")

    async def again() -> bool:
        return [(each.seq, each.attempts, each.replay_at) for each in await world.store.letters("sub_1", limit=9)] == [
            (kept, 2, 0), (gone, 1, 0),
        ]  # fmt: skip

    await world.until(again, "dead again")
    receiver.answer = lambda _event: 200
    await world.store.replay("sub_1", None, 1, EVENT)
    await world.until(lambda: len(receiver.events) == 2, "both")
    assert [(event.id, event.data.get("body")) for event in receiver.events] == [("sub_1_2", "kept"), ("sub_1_3", None)]
    assert receiver.events[1].data["deleted"] == 4

    async def none_left() -> bool:
        return await world.store.count_letters() == 0

    await world.until(none_left, "no letter")


async def test_410_disables_at_once_and_resuming_goes_on_where_it_was(world: Relaying, receiver: Receiver) -> None:
    receiver.answer = lambda event: 410 if event.data["body"] == "two" else 200
    await world.subscribe(receiver.url)
    await world.say("one", "two", "three")

    async def disabled() -> bool:
        return (await world.found()).state is SubscriptionState.DISABLED

    await world.until(disabled, "disabled")
    assert (await world.found()).cursor == 2
    assert "410" in (await world.found()).reason
    (record,) = await world.whole.rows("SELECT action, room, details FROM audit")
    assert record[:2] == ("subscription.disable", "rm_1")
    assert "410" in record[2]
    receiver.answer = lambda _event: 200
    await world.store.resume("sub_1", EVENT)
    await world.until(lambda: receiver.texts == ["one", "two", "three"], "the rest")


async def test_an_entry_is_given_up_after_all_tries_and_a_target_that_never_answers_is_disabled_after_days(
    world: Relaying, receiver: Receiver
) -> None:
    receiver.close()
    try:
        await world.subscribe(receiver.url)
        (first, _second) = await world.say("one", "two")
        began = world.clock.now_ms()

        async def given_up() -> bool:
            return await world.store.count_letters() == 1

        await world.until(given_up, "a dead letter", step_s=900)
        (letter,) = await world.store.letters("sub_1", limit=9)
        assert (letter.seq, letter.status, letter.attempts) == (first, 0, len(DELAYS_S) + 1)
        assert sum(DELAYS_S) * 1_000 <= letter.last_at - letter.first_at <= (sum(DELAYS_S) + 30_000) * 1_000

        async def disabled() -> bool:
            return (await world.found()).state is SubscriptionState.DISABLED

        await world.until(disabled, "disabled", step_s=900)
        assert world.clock.now_ms() - began >= FAILING_MS
        assert (await world.found()).cursor == first, "the second one is not lost"
    finally:
        receiver.__init__()  # type: ignore[misc]  # the fixture closes it


async def test_too_many_dead_letters_disable_and_nothing_is_lost(
    world: Relaying, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LETTERS_MAX", 2)
    receiver.answer = lambda _event: 400
    await world.subscribe(receiver.url)
    _, second, _, _ = await world.say("one", "two", "three", "four")

    async def disabled() -> bool:
        return (await world.found()).state is SubscriptionState.DISABLED

    await world.until(disabled, "disabled")
    found = await world.found()
    assert (found.cursor, await world.store.count_letters()) == (second, 2)
    assert "replay or drop" in found.reason
    receiver.answer = lambda _event: 200
    await world.store.drop("sub_1", None, EVENT)
    await world.store.resume("sub_1", EVENT)
    await world.until(lambda: receiver.texts == ["three", "four"], "the rest")


async def test_a_relay_that_is_killed_delivers_again_what_it_may_have_and_nothing_less(world: Relaying, receiver: Receiver) -> None:
    await world.subscribe(receiver.url)
    await world.say(*[f"text {number}" for number in range(30)])
    for kills in range(1, 4):
        await world.until(lambda kills=kills: len(receiver.events) >= 8 * kills, "some", step_s=0.05)
        world.kill()
        world.start()
    await world.until(lambda: "text 29" in receiver.texts, "all")

    first_times = list(dict.fromkeys(receiver.texts))
    assert first_times == [f"text {number}" for number in range(30)]
    assert len({event.id for event in receiver.events}) == 30, "doubles have the same webhook-id"


async def test_only_the_server_that_leads_delivers(world: Relaying, receiver: Receiver) -> None:
    world.leads = False
    await world.subscribe(receiver.url)
    await world.say("one")
    for _ in range(20):
        world.clock.forward(3)
        await world.relay._look()
    assert receiver.events == []
    assert not world.relay._backlogs, "it does not even read"
    world.leads = True
    await world.until(lambda: receiver.texts == ["one"], "the delivery")


async def test_a_paused_subscription_sends_nothing_and_then_everything(world: Relaying, receiver: Receiver) -> None:
    await world.subscribe(receiver.url)
    await world.say("one")
    await world.until(lambda: receiver.texts == ["one"], "the first")
    await world.store.pause("sub_1", EVENT)
    world.relay.wake()
    await world.until(lambda: not world.relay._backlogs, "noticed")
    await world.say("two", "three")
    for _ in range(10):
        world.clock.forward(1)
        await world.relay._look()
    assert receiver.texts == ["one"]
    await world.store.resume("sub_1", EVENT)
    await world.until(lambda: receiver.texts[-2:] == ["two", "three"], "the rest")


async def test_for_a_while_both_secrets_sign(world: Relaying, receiver: Receiver) -> None:
    old = await world.subscribe(receiver.url)
    sealed = world.secrets.seal(b"whsec_" + b"QUFB" * 8, purpose="subscription", owner="sub_1")
    await world.store.rotate("sub_1", sealed, world.clock.now_ms() + 3_600_000, EVENT)
    world.relay.wake()
    await world.say("one")
    await world.until(lambda: len(receiver.events) == 1, "the first")
    for secret in (old, "whsec_" + "QUFB" * 8):
        assert verify(receiver.headers[0], receiver.bodies[0], secret, now_s=world.clock.now_ms() / 1_000).data["body"] == "one"
    world.clock.forward(3_600)
    await world.say("two")
    await world.until(lambda: len(receiver.events) == 2, "the second")
    now = world.clock.now_ms() / 1_000
    assert verify(receiver.headers[1], receiver.bodies[1], "whsec_" + "QUFB" * 8, now_s=now)
    with pytest.raises(ValueError, match="wrong"):
        verify(receiver.headers[1], receiver.bodies[1], old, now_s=now)


async def test_a_host_that_fails_is_left_alone_whoever_subscribed_there_until_one_finds_it_well(
    world: Relaying, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PAUSE_S", 60.0)
    receiver.answer = lambda _event: 503
    for number in range(9):
        await world.subscribe(receiver.url, f"sub_{number}")
    await world.say("one")
    await world.until(lambda: world.relay.paused_hosts() == 1, "left alone", step_s=0.03)
    await world.until(lambda: not world.relay._tasks, "nobody speaks to it", step_s=0)
    asked = len(receiver.refused)
    assert asked <= breaker.FAILURES_MAX - 1 + HOST_AT_ONCE
    for _ in range(20):
        world.clock.forward(0.5)
        await world.relay._look()
    assert len(receiver.refused) == asked, "the others wait without having asked"
    receiver.answer = lambda _event: 200
    await world.until(lambda: len(receiver.events) == 9, "all", step_s=2)
    assert world.relay.paused_hosts() == 0


# ── the room is told first ───────────────────────────────────────────────────────────────────────────────────────────


class Telling:
    """A group commit that looks what is stored when the room is told, and may refuse."""

    def __init__(self, world: Relaying, *, fails: bool = False) -> None:
        self.world = world
        self.fails = fails
        self.states: list[SubscriptionState] = []

    async def perform(self, operation: Operation) -> Any:
        self.states = [record.state for record, _ in await self.world.store.of_room("rm_1")]
        if self.fails:
            raise Unavailable("The disk does not take it.")

        async def work(tx: LogTransaction) -> Any:
            await tx.load([operation.room], [], [])
            return operation.decide(tx, 1)

        return await self.world.whole.log.commit(work)


def service(world: Relaying, telling: Telling) -> SubscriptionService:
    async def check(url: str) -> str:
        return host_of(url)

    return SubscriptionService(
        world.store, world.whole.log, cast("RoomLog", telling), world.secrets, check, host_of, world.clock, new_id, new_secret,
        world.relay.wake,
    )  # fmt: skip


async def test_nothing_is_sent_before_the_room_was_told_and_nothing_is_left_when_it_cannot_be(
    world: Relaying, receiver: Receiver
) -> None:
    await world.say("before")
    telling = Telling(world)
    made = await service(world, telling).create(OPERATOR, c.SubscriptionCreate(room="rm_1", url=receiver.url))
    assert telling.states == [SubscriptionState.PENDING]
    assert (made.subscription.state, made.subscription.cursor) == ("active", 3)
    page = await world.whole.log.page("rm_1", limit=1)
    assert (page.entries[0].seq, page.entries[0].subscribed) == (3, "127.0.0.1")

    with pytest.raises(Unavailable):
        await service(world, Telling(world, fails=True)).create(OPERATOR, c.SubscriptionCreate(room="rm_1", url=receiver.url))
    assert len(await world.store.of_room("rm_1")) == 1

    gone = Telling(world)
    command = c.SubscriptionDelete(room="rm_1", subscription=made.subscription.id)
    await service(world, gone).delete(OPERATOR, command)
    assert gone.states == [], "when the room hears that it ended, it has"
    with pytest.raises(NotFound):
        await service(world, gone).delete(OPERATOR, command)


async def test_a_subscription_is_of_its_room_alone(world: Relaying, receiver: Receiver) -> None:
    """Who owns one room touches nothing of another by its id."""
    await world.subscribe(receiver.url)
    await world.say("x", room="rm_2")
    with pytest.raises(NotFound):
        await service(world, Telling(world)).rotate(OPERATOR, c.SubscriptionRotate(room="rm_2", subscription="sub_1"))
