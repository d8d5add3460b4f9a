"""Several servers on one PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from securechat.crypto.key_provider import FileKeys
from securechat.domain.accounts import Device, Role, User
from securechat.domain.audit import AuditEvent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import AuditQuery, LogTransaction, RoomBatch
from securechat.domain.rooms import RoomRole
from support.logs import ROOM, create, made, opened, say, texts, write
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Place:
    return Place(tmp_path, lambda: postgres)


async def test_what_another_server_appended_is_seen_before_the_next_decision(one: StoreUnderTest, other: StoreUnderTest) -> None:
    assert await say(one, "a") == [3]
    assert await say(other, "b") == [4]
    runs: list[int] = []

    assert await say(one, "c", runs=runs) == [5]

    assert len(runs) == 2  # The first decision was on the room without b.
    assert await texts(one) == ["text a", "text b", "text c"]


async def test_what_was_heard_of_another_server_needs_no_second_decision(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await say(one, "a")
    await say(other, "b", "c")
    page = await other.log.page(ROOM, after=3, limit=10)
    runs: list[int] = []

    one.log.hear([RoomBatch(ROOM, page.entries[:1]), RoomBatch(ROOM, page.entries[1:])])

    assert await say(one, "d", runs=runs) == [6]
    assert len(runs) == 1
    assert await texts(one) == ["text a", "text b", "text c", "text d"]


async def test_a_removal_that_was_heard_is_read_from_the_database(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await write(one, made(ROOM, 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))
    await say(other, "a")  # Now both have the room in memory.
    removal = made(ROOM, 5, EntryType.MEMBER_REMOVED, member="usr_bob")
    await write(one, removal)
    found: list[object] = []

    async def members(tx: LogTransaction) -> None:
        await tx.load([ROOM], [], [])
        state = tx.room(ROOM)
        assert state is not None
        found.append(dict(state.members))

    other.log.hear([RoomBatch(ROOM, [removal])])

    await other.log.commit(members, other.log.lane(ROOM))
    assert found == [{"usr_ana": RoomRole.OWNER}]


async def test_what_is_heard_while_a_commit_is_under_way_counts_after_it(one: StoreUnderTest, other: StoreUnderTest) -> None:
    joined = made(ROOM, 5, EntryType.MEMBER_JOINED, member="usr_bob", role="member")
    await say(one, "a")

    async def hears(tx: LogTransaction) -> None:
        await tx.load([ROOM], [], [])
        tx.append(made(ROOM, 4, EntryType.MESSAGE_SENT, device="dev_1", cmid="b", body="text b"))
        one.log.hear([RoomBatch(ROOM, [joined])])

    async def members(tx: LogTransaction) -> list[str]:
        await tx.load([ROOM], [], [])
        state = tx.room(ROOM)
        assert state is not None
        return sorted(state.members)

    await one.log.commit(hears, one.log.lane(ROOM))
    await write(other, joined)

    assert await one.log.commit(members, one.log.lane(ROOM)) == ["usr_ana", "usr_bob"]


async def test_rooms_of_two_lanes_do_not_wait_for_each_other(one: StoreUnderTest) -> None:
    rooms = [f"rm_{number}" for number in range(2, 20)]
    second = next(room for room in rooms if one.log.lane(room) != one.log.lane(ROOM))
    await create(one, second)

    async def waits(tx: LogTransaction) -> list[int]:
        await tx.load([ROOM], [], [])
        return await say(one, "a", room=second)

    async with asyncio.timeout(10):
        assert await one.log.commit(waits, one.log.lane(ROOM)) == [3]


async def test_servers_that_write_to_the_same_rooms_at_once_make_one_order(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await create(one, "rm_2")

    async def talk(store: StoreUnderTest, name: str) -> None:
        for number in range(40):
            await say(store, f"{name}{number}", room=(ROOM, "rm_2")[number % 2])

    await asyncio.gather(talk(one, "a"), talk(other, "b"))

    for room in (ROOM, "rm_2"):
        found = await texts(one, room)
        assert len(found) == len(set(found)) == 40
        for name in "ab":
            own = [int(text.removeprefix(f"text {name}")) for text in found if text.startswith(f"text {name}")]
            assert own == sorted(own)


async def test_who_was_removed_on_another_server_is_no_member_here(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await write(one, made(ROOM, 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))
    await say(other, "a")  # Now both have the room in memory.
    await write(one, made(ROOM, 5, EntryType.MEMBER_REMOVED, member="usr_bob"))

    async def members(tx: LogTransaction) -> dict[str, RoomRole]:
        await tx.load([ROOM], [], [])
        state = tx.room(ROOM)
        assert state is not None
        return dict(state.members)

    assert await other.log.commit(members) == {"usr_ana": RoomRole.OWNER}


async def test_a_repetition_that_this_server_does_not_know_fails_no_batch_mate(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await say(one, "a")

    assert await say(other, "new", "a", "newer") == [4, 3, 5]
    assert await texts(other) == ["text a", "text new", "text newer"]


async def test_a_known_repetition_is_looked_up_and_not_tried(one: StoreUnderTest) -> None:
    await say(one, "a")
    runs: list[int] = []

    assert await say(one, "a", runs=runs) == [3]
    assert len(runs) == 1


async def test_a_refusal_of_something_that_may_be_a_repetition_is_decided_on_what_is_stored(
    one: StoreUnderTest, other: StoreUnderTest
) -> None:
    await say(one, "a")

    async def refuses_what_is_new(tx: LogTransaction) -> int:
        await tx.load([ROOM], [(ROOM, "dev_1", "a")], [])
        earlier = tx.sent((ROOM, "dev_1", "a"))
        return 0 if earlier is None else earlier.seq

    await other.log.page(ROOM, limit=1)
    assert await other.log.commit(refuses_what_is_new) == 3


async def test_a_text_is_never_sealed_with_a_key_that_another_server_destroyed(place: Place) -> None:
    async with opened(place, sealed=True) as one, opened(place, sealed=True) as other:
        await create(one)
        await say(one, "a")
        await say(other, "b")
        await write(one, made(ROOM, 5, EntryType.ROOM_ERASED))
        await say(other, "c")
        while job := (await one.database.read("SELECT id FROM storage_jobs WHERE finished_at IS NULL")):
            await one.jobs.step(job[0][0])
        await one.jobs.rotate(messages=True)  # Retires the key that `other` has in memory, and wraps with one that it has not.
        await say(other, "d")

        fresh = (await one.log.page(ROOM, after=5, limit=9)).entries
        assert [entry.body for entry in fresh] == ["text c", "text d"]
        assert await one.value("SELECT count(*) FROM room_keys WHERE retired_at IS NULL AND wrapped IS NOT NULL") == 1


async def test_a_room_that_was_never_sealed_is_served_as_erased_from_the_commit_on(
    one: StoreUnderTest, other: StoreUnderTest
) -> None:
    await say(one, "a", "b", "c")
    await write(one, made(ROOM, 6, EntryType.MESSAGE_EDITED, target=3, body="better"))
    await write(one, made(ROOM, 7, EntryType.REACTION_ADDED, target=4, emoji="👍"))
    assert await told(other) == [("text a", "better", None), ("text c", None, None)]
    await write(one, made(ROOM, 8, EntryType.ROOM_ERASED))
    await say(one, "d")
    at_once = (await other.log.page(ROOM, after=2, limit=20)).entries

    assert await told(other) == [(None, None, 8)] * 2
    assert [each.body for each in at_once] == [None] * 6 + ["text d"]
    assert {(each.edited, each.reactions) for each in at_once} == {(None, None)}
    await one.jobs.erase(ROOM)
    assert (await other.log.page(ROOM, after=2, limit=20)).entries == at_once
    assert await one.value("SELECT count(*) FROM entries WHERE body IS NOT NULL") == 1


async def told(store: StoreUnderTest) -> list[tuple[str | None, str | None, int | None]]:
    """Return body, edit and deletion of the first message, by its place, and of the third, by its cmid."""

    async def look(tx: LogTransaction) -> list[Entry | None]:
        await tx.load([ROOM], [(ROOM, "dev_1", "c")], [(ROOM, 3)])
        return [tx.target((ROOM, 3)), tx.sent((ROOM, "dev_1", "c"))]

    return [(each.body, each.edited.body if each.edited else None, each.deleted) for each in await store.log.commit(look) if each]


async def test_a_session_begins_before_or_after_its_account_is_locked(one: StoreUnderTest, other: StoreUnderTest) -> None:
    for number in range(20):
        user = f"usr_{number}"
        await one.accounts.create_user(User(id=user, username=user, display_name="x"), "hash", 1)
        device = Device(id=f"dev_{number}", name="x", created_at=1, last_seen_at=1)

        async def lock(user: str = user) -> None:
            await other.accounts.update_user(user, disabled_at=2)
            await other.accounts.revoke_devices(user, None, 2)

        await asyncio.gather(one.accounts.create_device(device, user, refresh_hash="r", password_hash="hash"), lock())
        assert await one.accounts.devices(user) == []


async def test_two_servers_keep_one_chain_of_the_audit_log(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await asyncio.gather(*(store.audit.write([AuditEvent(action="x")] * 2) for store in (one, other) for _ in range(10)))

    records = await one.audit.page(AuditQuery(after=0), limit=100)
    assert [record.n for record in records] == list(range(1, 41))


async def test_two_owners_who_demote_each_other_leave_one(one: StoreUnderTest, other: StoreUnderTest) -> None:
    for name in ("ana", "bob"):
        await one.accounts.create_user(User(id=f"usr_{name}", username=name, display_name=name, role=Role.OWNER), None, 1)

    done = await asyncio.gather(one.accounts.set_role("usr_ana", Role.MEMBER), other.accounts.set_role("usr_bob", Role.MEMBER))

    assert sorted(done) == [False, True]


async def test_two_servers_that_start_first_make_one_organisation_key(place: Place) -> None:
    FileKeys(place.keys).create()  # All servers have the same key files.
    one, other = await place.open(), await place.open()
    try:
        await asyncio.gather(one.keys.unlock(), other.keys.unlock())
        assert one.keys.org_id == other.keys.org_id
        assert await one.value("SELECT count(*) FROM org_keys") == 1
    finally:
        await one.database.close()
        await other.database.close()
