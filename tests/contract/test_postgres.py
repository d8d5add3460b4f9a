"""What is only true of PostgreSQL: one round trip per commit, and how its tables are spread."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from securechat.domain.entries import Edited, EntryType
from securechat.domain.ports import LogTransaction
from securechat.errors import Conflict
from securechat.store import postgres_log
from securechat.store.database import Row
from securechat.store.lanes import Lane
from securechat.store.postgres import PostgresDatabase, translated
from securechat.store.postgres_sql import STATE
from support.logs import ROOM, create, made, opened, say, say_everywhere, write
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest
from support.tcp_proxy import TcpProxy


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Place:
    return Place(tmp_path, lambda: postgres)


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
