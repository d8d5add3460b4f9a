"""What is only true of PostgreSQL: one round trip per commit, several servers on one database, answers that are lost."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from securechat.crypto.key_provider import FileKeys
from securechat.domain.accounts import Device, Role, User
from securechat.domain.audit import AuditEvent
from securechat.domain.entries import Edited, Entry, EntryType
from securechat.domain.ports import AuditQuery, LogTransaction, RoomBatch
from securechat.domain.rooms import RoomRole
from securechat.errors import Conflict, Shutdown, Unavailable
from securechat.store import postgres_log, postgres_pool
from securechat.store.database import Row
from securechat.store.lanes import Lane
from securechat.store.postgres import PostgresDatabase, PostgresTransaction, open_postgres, translated
from securechat.store.postgres_sql import STATE
from support.logs import appending, founding, made, opened
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest
from support.tcp_proxy import TcpProxy
from support.waiting import until

ROOM = "rm_1"


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Place:
    return Place(tmp_path, lambda: postgres)


@pytest.fixture
async def one(place: Place) -> AsyncIterator[StoreUnderTest]:
    async with opened(place) as store:
        await create(store)
        yield store


@pytest.fixture
async def other(place: Place, one: StoreUnderTest) -> AsyncIterator[StoreUnderTest]:
    async with opened(place) as store:
        yield store


async def create(store: StoreUnderTest, *rooms: str) -> None:
    for room in rooms or (ROOM,):
        await write(store, *founding(room))


async def write(store: StoreUnderTest, *entries: Entry) -> None:
    await store.log.commit(appending(*entries), store.log.lane(entries[0].room))


async def say(store: StoreUnderTest, *cmids: str, room: str = ROOM, runs: list[int] | None = None) -> list[int]:
    """Send as the service does: look for the cmid, then append; return the places."""

    async def work(tx: LogTransaction) -> list[int]:
        found = []
        if runs is not None:
            runs.append(len(runs))
        await tx.load([room], [(room, "dev_1", cmid) for cmid in cmids], [])
        for cmid in cmids:
            earlier = tx.sent((room, "dev_1", cmid))
            if earlier is not None:
                found.append(earlier.seq)
                continue
            state = tx.room(room)
            assert state is not None
            seq = state.last_seq + 1
            tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body=f"text {cmid}"))
            found.append(seq)
        return found

    return await store.log.commit(work, store.log.lane(room))


async def say_everywhere(store: StoreUnderTest, rooms: list[str], cmid: str, *targets: int) -> None:
    """Send to many rooms in one commit, react to what is there, and read it all."""

    async def work(tx: LogTransaction) -> None:
        await tx.load(rooms, [(room, "dev_1", cmid) for room in rooms], [(room, seq) for room in rooms for seq in targets])
        for room in rooms:
            state = tx.room(room)
            assert state is not None
            assert tx.sent((room, "dev_1", cmid)) is None
            seq = state.last_seq + 1
            tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body="text"))
            for each in targets:
                tx.append(made(room, seq + 1, EntryType.REACTION_ADDED, target=each, emoji=cmid))
            tx.mark_read("usr_ana", room, seq, back=False)

    await store.log.commit(work)


async def texts(store: StoreUnderTest, room: str = ROOM) -> list[str]:
    page = await store.log.page(room, after=2, limit=200)
    assert [entry.seq for entry in page.entries] == list(range(3, page.last_seq + 1))
    return [entry.body or "" for entry in page.entries]


def test_values_are_numbered_but_not_inside_of_texts() -> None:
    assert translated("SELECT '?' WHERE a = ? AND b = ?") == "SELECT '?' WHERE a = $1 AND b = $2"


# ── one round trip ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_commit_of_many_rooms_is_one_round_trip(place: Place, postgres: Postgres, *, sealed: bool) -> None:
    rooms = [f"rm_{number}" for number in range(20)]
    async with TcpProxy(postgres.port) as proxy, opened(place, proxy.port, sealed=sealed) as store:
        await create(store, *rooms)

        for number in range(3):
            await say_everywhere(store, rooms, f"c{number}")
        before = proxy.turns
        for number in range(3, 13):
            await say_everywhere(store, rooms, f"c{number}")

        assert proxy.turns - before == 10
        assert await store.value("SELECT count(*) FROM entries WHERE type = 'message.sent'") == 13 * 20
        assert await store.log.read_state("usr_ana", "rm_7") == (15, 0)


@pytest.mark.parametrize("sealed", [False, True])
async def test_what_another_server_wrote_to_many_rooms_costs_one_round_trip_not_one_for_each(
    place: Place, postgres: Postgres, *, sealed: bool
) -> None:
    rooms = [f"rm_{number}" for number in range(20)]
    async with (
        TcpProxy(postgres.port) as proxy,
        opened(place, proxy.port, sealed=sealed) as store,
        opened(place, postgres.port, sealed=sealed) as other,
    ):
        await create(store, *rooms)

        for number in range(4):  # A connection learns each statement once, and it is not always the same connection.
            await say_everywhere(store, rooms, f"a{number}")
            await say_everywhere(other, rooms, f"b{number}")
        before = proxy.turns

        await say_everywhere(store, rooms, "c")

        assert proxy.turns - before == 2  # A commit in vain that is told where the rooms are, and a commit.
        assert await store.value("SELECT min(last_seq) FROM rooms") == await store.value("SELECT max(last_seq) FROM rooms")


async def test_where_another_server_let_somebody_in_the_room_is_looked_at_before_it_is_tried_again(
    place: Place, postgres: Postgres
) -> None:
    async with (
        TcpProxy(postgres.port) as proxy,
        opened(place, proxy.port) as store,
        opened(place, postgres.port) as other,
    ):
        await create(store)
        turns, seq = [], 3
        for number in range(4):
            await write(other, made(ROOM, seq, EntryType.MEMBER_JOINED, member=f"usr_{number}", role="member"))
            before = proxy.turns
            assert await say(store, f"a{number}") == [seq + 1]
            turns.append(proxy.turns - before)
            seq += 2

        assert turns[-1] == 3  # A commit in vain, a look, a commit.
        state = store.log._lanes[store.log.lane(ROOM)].rooms[ROOM]  # type: ignore[attr-defined]
        assert state.members.keys() == {"usr_ana", *(f"usr_{number}" for number in range(4))}


async def test_what_was_looked_at_is_looked_at_again_if_more_than_messages_came(place: Place, postgres: Postgres) -> None:
    async def edit(tx: LogTransaction) -> tuple[str | None, int]:
        await tx.load([ROOM], [], [(ROOM, 3)])
        target, room = tx.target((ROOM, 3)), tx.room(ROOM)
        assert target is not None
        assert room is not None
        was, seq = target.edited.body if target.edited else None, room.last_seq + 1
        tx.append(made(ROOM, seq, EntryType.MESSAGE_EDITED, target=3, body=f"mine {seq}"))
        return was, seq

    async with (
        TcpProxy(postgres.port) as proxy,
        opened(place, proxy.port) as store,
        opened(place, postgres.port) as other,
    ):
        await create(store)
        await say(store, "a")
        turns, found, seq = [], [], 4
        for number in range(4):
            for beside in (
                made(ROOM, seq, EntryType.MESSAGE_SENT, body="x"),
                made(ROOM, seq + 2, EntryType.MESSAGE_EDITED, target=3, body=f"theirs {number}"),
            ):
                await write(other, beside)
                before = proxy.turns
                was, where = await store.log.commit(edit, store.log.lane(ROOM))
                turns.append(proxy.turns - before)
                found.append(was)
                assert where == beside.seq + 1
            seq += 4

        assert turns[-2:] == [3, 4]  # A look, a commit in vain, and a commit; with one more look where it was edited.
        assert found[-2:] == ["mine 15", "theirs 3"]
        assert (await store.log.page(ROOM, after=2, limit=1)).entries[0].edited == Edited(seq=19, at=19, body="mine 19")


@pytest.mark.parametrize("sealed", [False, True])
async def test_who_has_no_luck_at_all_locks_and_that_takes_a_few_round_trips(
    place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, *, sealed: bool
) -> None:
    rooms = [f"rm_{number}" for number in range(20)]
    async with (
        TcpProxy(postgres.port) as proxy,
        opened(place, proxy.port, sealed=sealed) as store,
        opened(place, postgres.port, sealed=sealed) as other,
    ):
        await create(store, *rooms)
        monkeypatch.setattr(postgres_log, "HOPES", 0)

        for number in range(3):
            await say_everywhere(store, rooms, f"a{number}", 2)
            await say_everywhere(other, rooms, f"b{number}", 2)
        turns = [proxy.turns]
        await say_everywhere(store, rooms, "c", 2)
        turns.append(proxy.turns)
        await say_everywhere(store, rooms, "d")
        turns.append(proxy.turns)

        # BEGIN, the locks, a look, the append, COMMIT; without the look where everything is known.
        assert [after - before for before, after in pairwise(turns)] == [5, 4]
        assert await store.value("SELECT min(last_seq) FROM rooms") == await store.value("SELECT max(last_seq) FROM rooms")
        assert await store.value("SELECT count(*) FROM reactions") == 7 * 20
        assert await say(other, "d", room="rm_3") == await say(store, "d", room="rm_3")  # A repetition is found all the same.


async def test_who_comes_and_who_goes_are_one_round_trip_each_however_many_they_are(place: Place, postgres: Postgres) -> None:
    async with TcpProxy(postgres.port) as proxy, opened(place, proxy.port) as store:
        await create(store)
        turns, seq = [], 3
        for count in (1, 1, 2, 20):  # With the first ones, statements are prepared.
            before = proxy.turns
            for what, role in ((EntryType.MEMBER_JOINED, "member"), (EntryType.MEMBER_LEFT, None)):
                people = [f"usr_{number}" for number in range(count)]
                await write(store, *(made(ROOM, seq + place, what, member=name, role=role) for place, name in enumerate(people)))
                seq += count
            turns.append(proxy.turns - before)

        assert turns[1:] == [2, 2, 2]
        assert await store.value("SELECT count(*) FROM members") == 1


async def test_an_edit_and_a_reaction_are_two_round_trips(place: Place, postgres: Postgres) -> None:
    async with TcpProxy(postgres.port) as proxy, opened(place, proxy.port) as store:
        await create(store)
        await say(store, "a")
        for seq in (4, 5):
            await write(store, made(ROOM, seq, EntryType.REACTION_ADDED, target=3, emoji="👍" * (seq - 3)))
        before = proxy.turns

        await write(store, made(ROOM, 6, EntryType.MESSAGE_EDITED, target=3, body="better"))
        await write(store, made(ROOM, 7, EntryType.REACTION_REMOVED, target=3, emoji="👍"))

        assert proxy.turns - before == 4
        (entry,) = (await store.log.page(ROOM, after=2, limit=1)).entries
        assert (entry.edited and entry.edited.body, entry.reactions) == ("better", {"👍👍": ["usr_ana"]})


async def edit_third(tx: LogTransaction) -> None:
    """Edit the third entry, as the server does."""
    await tx.load([ROOM], [], [(ROOM, 3)])
    target, room = tx.target((ROOM, 3)), tx.room(ROOM)
    assert target is not None
    assert room is not None
    if target.deleted is not None:
        raise Conflict("The message was deleted.")
    tx.append(made(ROOM, room.last_seq + 1, EntryType.MESSAGE_EDITED, target=3, body="back again"))


@pytest.mark.parametrize("forgotten", [True, False], ids=["not in memory", "in memory"])
async def test_a_message_that_another_server_deletes_meanwhile_is_not_edited(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool
) -> None:
    await say(one, "a")
    await say(other, "b")
    if forgotten:
        one.log._lanes[one.log.lane(ROOM)].rooms.clear()  # type: ignore[attr-defined]
    fetch = PostgresDatabase.fetch
    deleted: list[bool] = []

    async def fetches(self: PostgresDatabase, sql: str, *values: object) -> list[Row]:
        rows = await fetch(self, sql, *values)
        if self is one.database and not deleted:
            deleted.append(True)
            await write(other, made(ROOM, 5, EntryType.MESSAGE_DELETED, target=3))
        return rows

    monkeypatch.setattr(PostgresDatabase, "fetch", fetches)
    with pytest.raises(Conflict):
        await one.log.commit(edit_third, one.log.lane(ROOM))

    assert deleted
    assert [entry.type for entry in (await other.log.page(ROOM, after=4, limit=9)).entries] == [EntryType.MESSAGE_DELETED]


async def test_what_was_looked_at_is_not_taken_for_a_room_that_was_read_later(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(one, "a")
    await say(other, "b")
    fetch = PostgresDatabase.fetch
    deleted: list[bool] = []

    async def fetches(self: PostgresDatabase, sql: str, *values: object) -> list[Row]:
        if self is one.database and sql == STATE:
            deleted.append(True)
            await write(other, made(ROOM, 5, EntryType.MESSAGE_DELETED, target=3))
        return await fetch(self, sql, *values)

    learn = Lane.learn

    def learns(lane: Lane, *found: object) -> None:
        learn(lane, *found)  # type: ignore[arg-type]
        lane.rooms.clear()

    monkeypatch.setattr(Lane, "learn", learns)
    monkeypatch.setattr(PostgresDatabase, "fetch", fetches)
    with pytest.raises(Conflict):
        await one.log.commit(edit_third, one.log.lane(ROOM))

    assert deleted


async def test_a_cmid_that_looks_like_the_name_of_a_key_is_a_cmid(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_log, "HOPES", 0)
    assert await say(other, "names_1") == [3]
    assert await say(one, "names_1") == [3]


# ── several servers ──────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── answers that are lost ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("entry", [EntryType.MESSAGE_SENT, EntryType.MEMBER_JOINED, EntryType.ROOM_CREATED])
async def test_a_commit_whose_answer_is_lost_is_found_and_not_made_twice(
    place: Place, postgres: Postgres, entry: EntryType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TcpProxy(postgres.port) as proxy, opened(place, proxy.port) as store:
        await create(store)
        await say(store, "a")
        _swallow_the_commit(proxy, store, monkeypatch)
        if entry is EntryType.MESSAGE_SENT:
            runs: list[int] = []
            assert await say(store, "b", runs=runs) == [4]
            assert len(runs) == 1
        elif entry is EntryType.MEMBER_JOINED:
            await write(store, made(ROOM, 4, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))
        else:
            await create(store, "rm_2")

        assert not proxy.swallow
        assert await say(store, "c") == [5 if entry is not EntryType.ROOM_CREATED else 4]
        assert (await store.log.page(ROOM, limit=1)).last_seq == await store.value(
            f"SELECT count(*) FROM entries WHERE room_id = '{ROOM}'"
        )
        assert await store.value("SELECT count(*) FROM rooms WHERE kind = ''") == 0


def _swallow_the_commit(proxy: TcpProxy, store: StoreUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose the answer to the next COMMIT, or to the next append that is a commit by itself."""
    database = store.database
    assert isinstance(database, PostgresDatabase)
    call = database.call

    async def lost_call(sql: str, *values: object) -> object:
        proxy.swallow = lost.pop() if lost else False
        return await call(sql, *values)

    execute = asyncpg.Connection.execute

    async def lost_execute(self: object, query: str, *values: object, **more: object) -> object:
        if query == "COMMIT" and lost:
            proxy.swallow = lost.pop()
        return await execute(self, query, *values, **more)

    lost = [True]
    monkeypatch.setattr(database, "call", lost_call)
    monkeypatch.setattr(asyncpg.Connection, "execute", lost_execute)


@pytest.mark.parametrize("locked", [True, False], ids=["with locks", "at once"])
@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_when_nobody_knows_what_became_of_a_commit_nothing_of_it_stays_in_memory(
    one: StoreUnderTest, other: StoreUnderTest, postgres: Postgres, how: str, monkeypatch: pytest.MonkeyPatch, *, locked: bool
) -> None:
    """Else who did not join after all could write, once another server has appended as much as was lost."""
    looking = asyncio.Event()

    async def end_before_the_commit(_log: object, transaction: PostgresTransaction, _tried: object) -> None:
        pid = (await transaction.fetch("SELECT pg_backend_pid()"))[0][0]
        postgres.sql(f"SELECT pg_terminate_backend({pid})")

    async def lose(_database: object, _sql: str, *_values: object) -> None:
        raise postgres_pool.AnswerLost

    async def look(_log: object, _entries: object) -> set[str]:
        looking.set()
        if how == "cancelled":
            await asyncio.Event().wait()
        raise asyncpg.DataCorruptedError

    async def is_member(store: StoreUnderTest, user: str) -> bool:
        async def work(tx: LogTransaction) -> bool:
            await tx.load([ROOM], [], [])
            state = tx.room(ROOM)
            assert state is not None
            tx.append(made(ROOM, state.last_seq + 1, EntryType.MESSAGE_SENT, device="dev_2", cmid="2", body="x"))
            return user in state.members

        return await store.log.commit(work, store.log.lane(ROOM))

    await say(one, "a")
    with monkeypatch.context() as patch:
        if locked:
            patch.setattr(postgres_log, "HOPES", 0)
            patch.setattr(postgres_log.PostgresLog, "_finish", end_before_the_commit)
        else:
            patch.setattr(PostgresDatabase, "call", lose)
        patch.setattr(postgres_log.PostgresLog, "_look_for", look)
        joining = asyncio.create_task(write(one, made(ROOM, 4, EntryType.MEMBER_JOINED, member="usr_eve", role="member")))
        async with asyncio.timeout(5):
            await looking.wait()
        if how == "cancelled":
            joining.cancel()
        await asyncio.wait({joining})
    assert joining.cancelled() if how == "cancelled" else isinstance(joining.exception(), asyncpg.DataCorruptedError)

    assert await say(other, "b") == [4]
    assert not await is_member(one, "usr_eve")


async def test_a_database_that_may_only_be_read_is_one_to_come_back_to(
    one: StoreUnderTest, place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby answers so until it has taken over."""
    monkeypatch.setattr(postgres_log, "DECIDE_S", 0.5)
    await say(one, "a")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'securechat'"
    postgres.sql(f"ALTER DATABASE {place.name} SET default_transaction_read_only = on")
    postgres.sql(end)
    with pytest.raises(Unavailable):
        await say(one, "b")
    postgres.sql(f"ALTER DATABASE {place.name} RESET default_transaction_read_only")
    postgres.sql(end)

    assert await say(one, "b") == [4]


async def test_a_commit_that_was_not_made_is_made_once(one: StoreUnderTest, place: Place, postgres: Postgres) -> None:
    """The server ends the connection before it did anything."""
    await say(one, "a")
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'securechat'")

    assert await say(one, "b") == [4]
    assert await texts(one) == ["text a", "text b"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])  # Fast as `pg_ctl restart`, immediate, killed.
@pytest.mark.slow
async def test_under_restarts_of_the_server_everything_acknowledged_is_there_once(
    one: StoreUnderTest, postgres: Postgres, number: int
) -> None:
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def talk() -> None:
        count = 0
        while not stop.is_set():
            try:
                await say(one, f"c{count}")
            except Unavailable:
                continue  # The client sends it again, with the same cmid.
            acknowledged.append(f"text c{count}")
            count += 1

    talking = asyncio.create_task(talk())
    for goal in (30, 60):
        await until(lambda goal=goal: len(acknowledged) >= goal, 60)  # type: ignore[misc]
        await asyncio.to_thread(postgres.restart, number)
    await until(lambda: len(acknowledged) >= 90, 60)
    stop.set()
    await talking

    assert await texts_all(one) == acknowledged


async def texts_all(store: StoreUnderTest) -> list[str]:
    rows = await store.database.read("SELECT body FROM entries WHERE type = 'message.sent' ORDER BY seq")
    return [row[0] for row in rows]


async def test_a_database_that_does_not_answer_ends_in_time_and_nothing_stays_in_memory(
    place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide_s, command_s, connect_s = 2.2, 2.0, 0.3
    monkeypatch.setattr(postgres_log, "DECIDE_S", decide_s)
    monkeypatch.setattr(postgres_pool, "CONNECT_S", connect_s)
    monkeypatch.setitem(postgres_pool.OPTIONS, "timeout", connect_s)
    monkeypatch.setitem(postgres_pool.OPTIONS, "command_timeout", command_s)
    async with TcpProxy(postgres.port) as proxy, opened(place, proxy.port) as store:
        await create(store)
        await say(store, "a")
        proxy.vanish()
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable) as caught:
            await say(store, "b")
        assert asyncio.get_running_loop().time() - began < decide_s + command_s - 0.4  # One after the other would be too long.
        assert caught.value.retry_after_ms
        with pytest.raises(Unavailable):
            await store.accounts.account(user_id="usr_ana")
        proxy.come_back()
        assert isinstance(store.database, PostgresDatabase)
        while store.database.pool.refusal() is not None:
            await asyncio.sleep(0.01)

        assert await say(store, "c", "b") in ([4, 5], [5, 4])
        assert sorted(await texts(store)) == ["text a", "text b", "text c"]


async def test_who_is_the_victim_of_a_deadlock_tries_again(one: StoreUnderTest, place: Place, postgres: Postgres) -> None:
    await create(one, "rm_2")
    lock = "SELECT id FROM rooms WHERE id = $1 FOR UPDATE"
    outside = await asyncpg.connect(postgres.url(place.name))
    try:
        async with outside.transaction():
            await outside.execute("SET LOCAL deadlock_timeout = '30s'")  # The other one is to find it.
            await outside.fetch(lock, "rm_2")
            join = {"member": "usr_bob", "role": "member"}
            both = asyncio.create_task(
                write(one, made(ROOM, 3, EntryType.MEMBER_JOINED, **join), made("rm_2", 3, EntryType.MEMBER_JOINED, **join))
            )
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            while not await outside.fetchval(waits):
                await asyncio.sleep(0.01)
            await outside.fetch(lock, ROOM)
        await both
    finally:
        await outside.close()

    assert postgres.sql("SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = current_database()", place.name) == "t"
    assert [(await one.log.page(room, limit=1)).last_seq for room in (ROOM, "rm_2")] == [3, 3]


async def test_a_serialization_failure_is_tried_again(one: StoreUnderTest, place: Place, postgres: Postgres) -> None:
    postgres.sql(
        "CREATE SEQUENCE tried; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tried') < 3 THEN RAISE serialization_failure; END IF; RETURN NEW; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION fail()",
        place.name,
    )
    try:
        assert await say(one, "a") == [3]
        assert postgres.sql("SELECT last_value FROM tried", place.name) == "3"
    finally:
        postgres.sql("DROP TRIGGER fail ON entries; DROP FUNCTION fail; DROP SEQUENCE tried", place.name)


async def test_a_cancelled_command_leaves_no_connection_in_the_middle(one: StoreUnderTest) -> None:
    for _ in range(15):
        task = asyncio.create_task(one.database.read("SELECT pg_sleep(3)"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
    assert await asyncio.gather(*(one.database.read("SELECT 1") for _ in range(20))) == [[(1,)]] * 20


async def test_what_takes_too_long_and_a_full_pool_are_unavailable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pool, "CONNECT_S", 0.2)
    monkeypatch.setitem(
        postgres_pool.OPTIONS, "server_settings", postgres_pool.OPTIONS["server_settings"] | {"statement_timeout": "500"}
    )
    async with opened(place) as store:
        busy = [asyncio.create_task(store.database.read("SELECT pg_sleep(5)")) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await store.database.read("SELECT 1")
        answers = await asyncio.gather(*busy, return_exceptions=True)
        assert {(type(each), getattr(each, "retry_after_ms", None)) for each in answers} == {(Unavailable, postgres_pool.RETRY_MS)}
        assert await store.database.read("SELECT 1") == [(1,)]


async def test_113_a_transaction_that_is_left_open_is_ended_and_its_connection_comes_back(
    place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = postgres_pool.OPTIONS["server_settings"]
    assert int(options["idle_in_transaction_session_timeout"]) <= 10_000
    monkeypatch.setitem(postgres_pool.OPTIONS, "server_settings", options | {"idle_in_transaction_session_timeout": "300"})
    async with opened(place) as store:
        await create(store)
        assert isinstance(store.database, PostgresDatabase)
        for _ in range(10):  # Every connection that there may be.
            leaked = await (await store.database.pool.driver).acquire()
            await leaked.execute("BEGIN; SELECT * FROM rooms FOR SHARE")
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        async with asyncio.timeout(5):
            while await asyncio.to_thread(postgres.sql, left, place.name) != "0":
                await asyncio.sleep(0.02)

        assert await store.database.read("SELECT count(*) FROM rooms") == [(1,)]
        assert await store.database.read("SHOW idle_in_transaction_session_timeout") == [("300ms",)]


async def test_115_a_database_that_loses_commits_in_a_power_cut_is_refused(postgres: Postgres) -> None:
    database = postgres.new_database()
    postgres.sql(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with pytest.raises(Shutdown, match=r"synchronous_commit is off\. Switch it on"):
        await open_postgres(postgres.url(database))
    postgres.sql(f"ALTER DATABASE {database} SET synchronous_commit = on")

    await (await open_postgres(postgres.url(database))).close()


# ── the schema ───────────────────────────────────────────────────────────────────────────────────────────────────────

ROOM_OWNED = {"rooms": "id", "members": "room_id", "entries": "room_id", "reactions": "room_id", "room_keys": "room_id"}
USER_OWNED = {
    "users": "id", "devices": "user_id", "blocks": "user_id", "commands": "user_id", "reads": "user_id", "totp": "user_id",
    "passkeys": "user_id", "recovery_codes": "user_id", "externals": "user_id",
}  # fmt: skip
BY_KEY = {
    "names": "key", "invites": "code", "links": "token_hash", "codes": "hash", "subscriptions": "id", "dead_letters": "subscription_id",
}  # fmt: skip
NOT_SPREAD = {
    "settings", "audit", "org_keys", "storage_jobs", "apps", "alembic_version", "buckets", "audit_pending", "audit_taken",
}  # fmt: skip


async def test_every_key_contains_the_column_that_its_table_is_spread_by(one: StoreUnderTest) -> None:
    keys = await one.database.read(
        "SELECT c.relname, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " WHERE i.indisunique AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
    )
    spread = ROOM_OWNED | USER_OWNED | BY_KEY

    assert {table for table, _ in keys} == spread.keys() | NOT_SPREAD
    for table, definition in keys:
        columns = re.findall(r"\w+", definition.split("(", 1)[1].split(")", 1)[0])
        assert table in NOT_SPREAD or spread[table] in columns, definition


async def test_tables_of_rooms_and_users_have_sixteen_hash_partitions(one: StoreUnderTest) -> None:
    rows = await one.database.read(
        "SELECT p.partrelid::regclass::text, pg_get_partkeydef(p.partrelid),"
        " (SELECT count(*) FROM pg_inherits h WHERE h.inhparent = p.partrelid) FROM pg_partitioned_table p"
    )

    assert {row[0]: (row[1], row[2]) for row in rows} == {
        table: (f"HASH ({column})", 16) for table, column in (ROOM_OWNED | USER_OWNED).items()
    }
