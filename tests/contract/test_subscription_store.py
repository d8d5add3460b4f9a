"""What every `SubscriptionStore` promises."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from securechat.domain.audit import AuditEvent
from securechat.domain.subscriptions import (
    ROOM_MAX,
    DeadLetterRecord,
    Progress,
    SubscriptionRecord,
    SubscriptionState,
)
from securechat.store import subscriptions as module
from securechat.store.subscriptions import SqlSubscriptions
from securechat.webhooks.delivery import Pace
from support.receiver import Receiver
from support.relaying import Relaying
from support.stores import Place, StoreUnderTest

EVENT = AuditEvent(action="test.event")
ONE = SubscriptionRecord(
    "sub_1", "rm_1", "https://x.example/", ("message.sent",), SubscriptionState.PENDING, "", 0, b"sealed", None, 0, "usr_ana", 7
)
LETTER = DeadLetterRecord("sub_1", "rm_1", 5, "refused", 400, 1, 10, 10)


@pytest.fixture
async def whole(place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await place.open()
    yield found
    await found.database.close()


@pytest.fixture
def store(whole: StoreUnderTest) -> SqlSubscriptions:
    return SqlSubscriptions(whole.database, whole.audit)


async def state_of(store: SqlSubscriptions, name: str = "sub_1") -> SubscriptionState | None:
    found = await store.find(name)
    return None if found is None else found.state


async def test_a_subscription_sends_nothing_before_it_is_activated(store: SqlSubscriptions) -> None:
    assert await store.add(ONE)
    assert await store.find("sub_1") == ONE
    assert await store.active() == []
    assert await store.activate("sub_1", 4)
    assert not await store.activate("sub_1", 9), "once"
    assert await store.active() == [replace(ONE, state=SubscriptionState.ACTIVE, cursor=4)]
    assert await store.find("sub_2") is None


async def test_a_room_has_so_many_and_no_more_also_at_once(store: SqlSubscriptions) -> None:
    added = await asyncio.gather(*(store.add(replace(ONE, id=f"sub_{number}")) for number in range(ROOM_MAX + 4)))
    assert sum(added) == ROOM_MAX
    assert await store.add(replace(ONE, id="sub_other", room="rm_2"))
    assert len(await store.of_room("rm_1")) == ROOM_MAX
    assert len(await store.of_room()) == ROOM_MAX + 1


async def test_states_follow_each_other_and_what_changed_is_remembered(whole: StoreUnderTest, store: SqlSubscriptions) -> None:
    await store.add(ONE)
    assert not await store.pause("sub_1", EVENT)
    assert not await store.resume("sub_1", EVENT)
    await store.activate("sub_1", 4)
    assert await store.pause("sub_1", EVENT)
    assert await state_of(store) is SubscriptionState.PAUSED
    assert not await store.disable("sub_1", "why", EVENT)
    assert await store.resume("sub_1", EVENT)
    await store.move([Progress("sub_1", 6, 3, 1, 2, 1, "no answer")])
    assert await store.disable("sub_1", "why", EVENT)
    found = await store.find("sub_1")
    assert found is not None
    assert (found.state, found.reason, found.cursor, found.attempts) == (SubscriptionState.DISABLED, "why", 6, 3)
    assert await store.resume("sub_1", EVENT)
    found = await store.find("sub_1")
    assert found is not None
    assert (found.state, found.reason, found.cursor, found.attempts, found.next_at, found.failing_since) == (
        SubscriptionState.ACTIVE, "", 6, 0, 0, 0,
    )  # fmt: skip
    assert await whole.value("SELECT count(*) FROM audit") == 4, "pause, resume, disable, resume; not what was refused"


async def test_secrets_follow_each_other(store: SqlSubscriptions) -> None:
    await store.add(ONE)
    assert await store.rotate("sub_1", b"second", 99, EVENT)
    assert not await store.rotate("sub_2", b"second", 99, EVENT)
    await store.reseal("sub_1", b"sealed", b"sealed anew")
    found = await store.find("sub_1")
    assert found is not None
    assert (found.secret, found.old_secret, found.old_until) == (b"second", b"sealed anew", 99)


async def test_a_dead_letter_and_the_cursor_past_it_are_stored_together(store: SqlSubscriptions) -> None:
    await store.add(ONE)
    await store.activate("sub_1", 4)
    assert await store.bury(LETTER, Progress("sub_1", 5, 0, 0, 0, 0, "refused"))
    assert await store.letters("sub_1", limit=9) == [LETTER]
    ((record, letters),) = await store.of_room("rm_1")
    assert (record.cursor, letters, await store.count_letters()) == (5, 1, 1)

    again = replace(LETTER, reason="timeout", status=0, last_at=30)
    assert await store.bury(again, None), "a replay in vain"
    assert await store.letters("sub_1", limit=9) == [replace(again, attempts=2)]


async def test_letters_are_replayed_and_dropped_one_or_all(store: SqlSubscriptions) -> None:
    await store.add(ONE)
    await store.activate("sub_1", 4)
    for seq in (5, 6, 7):
        await store.bury(replace(LETTER, seq=seq), None)
    assert [each.seq for each in await store.letters("sub_1", after=5, limit=1)] == [6]
    assert await store.replay("sub_1", 6, 50, EVENT) == 1
    assert await store.replay("sub_1", 8, 50, EVENT) == 0
    assert [each.seq for each in await store.replays()] == [6]
    await store.bury(replace(LETTER, seq=6), None)
    assert await store.replays() == [], "tried, and dead again"
    assert await store.replay("sub_1", None, 50, EVENT) == 3
    await store.pause("sub_1", EVENT)
    assert await store.replays() == [], "nothing is sent while it is paused"
    await store.resume("sub_1", EVENT)
    await store.revive("sub_1", 5)
    assert [each.seq for each in await store.replays()] == [6, 7]
    assert await store.drop("sub_1", 6, EVENT) == 1
    assert await store.drop("sub_1", None, EVENT) == 1
    assert await store.count_letters() == 0


async def test_too_many_dead_letters_are_not_taken_and_none_is_lost(
    store: SqlSubscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LETTERS_MAX", 2)
    await store.add(ONE)
    await store.activate("sub_1", 4)
    assert await store.bury(LETTER, None)
    assert await store.bury(replace(LETTER, seq=6), None)
    assert not await store.bury(replace(LETTER, seq=7), Progress("sub_1", 7, 0, 0, 0, 0, ""))
    assert await store.bury(replace(LETTER, seq=6), None), "one that is there already is no new one"
    found = await store.find("sub_1")
    assert found is not None
    assert (found.cursor, await store.count_letters()) == (4, 2)


async def test_with_a_subscription_go_its_letters(store: SqlSubscriptions) -> None:
    await store.add(ONE)
    await store.bury(LETTER, None)
    assert await store.remove("sub_1")
    assert not await store.remove("sub_1")
    assert (await state_of(store), await store.count_letters()) == (None, 0)
    await store.move([Progress("sub_1", 5, 0, 0, 0, 0, "")])
    assert await store.bury(LETTER, None)
    assert await store.count_letters() == 0, "one that comes late is of nobody"


async def test_a_relay_delivers_out_of_every_database_wherever_the_room_lives(any_place: Place, receiver: Receiver) -> None:
    world = await Relaying.open(any_place, [ipaddress.ip_network("127.0.0.1")], Pace(jitter=lambda: 1.0, poll_s=0.02))
    try:
        receiver.answer = lambda event: 400 if event.data["body"] == "bad" else 200
        for room in ("rm_1", "rm_2"):
            await world.say("before", room=room)
            await world.subscribe(receiver.url, f"sub_{room}", room=room)
            _, bad, _ = await world.say("one", "bad", "two", room=room)
        await world.until(lambda: len(receiver.events) == 4, "four deliveries")
        assert sorted(event.id for event in receiver.events) == ["sub_rm_1_3", "sub_rm_1_5", "sub_rm_2_3", "sub_rm_2_5"]
        ((_, letters), _) = await world.store.of_room()
        assert letters == 1
        receiver.answer = lambda _event: 200
        await world.store.replay("sub_rm_2", bad, 1, EVENT)
        await world.until(lambda: len(receiver.events) == 5, "the dead letter")
        assert receiver.texts[-1] == "bad"
    finally:
        await world.close()
