"""Rooms in several PostgreSQL servers: a bucket is moved while people write, read, and whoever moves it dies at any point."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securechat.domain.accounts import User
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import BotCommand
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import AuditQuery, LogTransaction
from securechat.errors import Conflict, NameTaken, Shutdown, Unavailable
from securechat.store import handing_over, sharded_log
from securechat.store import moving as moving_module
from securechat.store.buckets import ABSENT, AWAY, BUCKETS, bucket_of
from securechat.store.moving import move
from securechat.store.postgres import PostgresTransaction, open_postgres, read_all
from securechat.store.session_locks import ServerLocks
from securechat.store.sharded_log import ShardedLog
from securechat.store.shards import HOME, SHARD, ShardedDatabase, add, open_sharded
from support.logs import appending, founding, made, opened
from support.mover_death import Death, Killed
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest
from support.waiting import until

pytestmark = pytest.mark.slow

DEATHS = 30
ROOM, AT_HOME = "rm_1", "rm_2"
"""One in shard1, one at home."""


@pytest.fixture
async def place(tmp_path: Path, postgres: Postgres, second: Postgres) -> Place:
    found = await asyncio.to_thread(Place, tmp_path, lambda: postgres)
    return await found.spread(second)


@pytest.fixture
async def one(place: Place) -> AsyncIterator[StoreUnderTest]:
    async with opened(place) as store:
        for room in (ROOM, AT_HOME):
            await create(store, room)
        yield store


@pytest.fixture
async def other(place: Place, one: StoreUnderTest) -> AsyncIterator[StoreUnderTest]:
    async with opened(place) as store:
        yield store


async def write(store: StoreUnderTest, *entries: Entry, event: AuditEvent | None = None) -> None:
    await store.log.commit(appending(*entries, event=event))


async def create(store: StoreUnderTest, room: str, name: str = "x", kind: str = "private") -> None:
    await write(store, *founding(room, name, kind))


async def say(store: StoreUnderTest, room: str, cmid: str) -> int:
    async def work(tx: LogTransaction) -> int:
        await tx.load([room], [(room, "dev_1", cmid)], [])
        earlier, state = tx.sent((room, "dev_1", cmid)), tx.room(room)
        if earlier is not None:
            return earlier.seq
        assert state is not None, "the room is not there"
        seq = state.last_seq + 1
        tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body=f"text {cmid}"))
        tx.mark_read("usr_ana", room, seq, back=False)
        return seq

    return await store.log.commit(work)


def test_python_and_postgresql_agree_on_buckets(postgres: Postgres) -> None:
    rooms = [f"rm_{number}" for number in range(300)] + ["", "rm_é", "a\\b\\\\"]
    texts = ", ".join(f"'{each}'" for each in rooms)
    told = postgres.sql(
        f"SELECT string_agg(securechat_bucket(id)::text, ' ' ORDER BY n) FROM unnest(ARRAY[{texts}]) WITH ORDINALITY AS w (id, n)",
        postgres.emptied(),
    )

    assert told == " ".join(str(bucket_of(room)) for room in rooms)


# ── what crosses databases ───────────────────────────────────────────────────────────────────────────────────────────


async def test_rooms_lie_where_their_buckets_are(one: StoreUnderTest) -> None:
    assert isinstance(one.database, ShardedDatabase)
    home, shard = one.database.parts
    for part, room in ((home, AT_HOME), (shard, ROOM)):
        for table, column in (("rooms", "id"), ("entries", "room_id"), ("members", "room_id")):
            assert await part.read(f"SELECT DISTINCT {column} FROM {table}") == [(room,)]


async def test_names_of_public_rooms_are_unique_over_all_databases(one: StoreUnderTest, other: StoreUnderTest) -> None:
    rooms = [f"rm_n{number}" for number in range(6)]
    assert len({bucket_of(room) % 2 for room in rooms}) == 2
    done = await asyncio.gather(
        *(create(store, room, "Ops", "public") for store, room in zip([one, other] * 3, rooms, strict=True)), return_exceptions=True
    )

    assert sorted(type(each) is NameTaken for each in done) == [False, *[True] * 5]
    winner = rooms[[each is None for each in done].index(True)]
    assert await one.log.lookup("usr_bob", "ops") == [winner]
    await write(one, made(winner, 3, EntryType.ROOM_UPDATED, name="Dev"))
    await create(other, rooms[0] if winner != rooms[0] else rooms[1], "Ops", "public")
    assert await one.value("SELECT count(*) FROM names WHERE kind = 'room'") == 2


async def test_a_name_that_was_claimed_in_vain_is_free(one: StoreUnderTest) -> None:
    """Whoever claimed it died before the room was stored, or after it had got another name."""
    await create(one, "rm_3", "Dev", "public")
    for number, (owner, name) in enumerate((("rm_gone", "ops"), ("rm_3", "old"), (AT_HOME, "private"))):
        await one.database.parts[0].read(f"INSERT INTO names (kind, key, owner) VALUES ('room', '{name}', '{owner}') RETURNING 1")
        await create(one, f"rm_n{number}", name, "public")
    with pytest.raises(NameTaken):
        await create(one, "rm_4", "Dev", "public")


async def test_a_room_that_does_not_get_its_name_leaves_none_behind(one: StoreUnderTest) -> None:
    rooms = [f"rm_n{number}" for number in range(9) if bucket_of(f"rm_n{number}") % 2 == 0][:2]
    await create(one, "rm_3", "Zoo", "public")
    with pytest.raises(NameTaken):  # The first gets its name, the second does not, and both are undone.
        await write(
            one,
            *(
                made(room, 1, EntryType.ROOM_CREATED, kind="public", name=name)
                for room, name in zip(rooms, ("Free", "Zoo"), strict=True)
            ),
        )
    assert await one.value("SELECT count(*) FROM names WHERE kind = 'room'") == 1


async def test_two_rooms_that_exchange_names_in_one_batch_are_told_and_wait_for_nobody(one: StoreUnderTest) -> None:
    rooms = [f"rm_n{number}" for number in range(9) if bucket_of(f"rm_n{number}") % 2 == 0][:2]
    for room, name in zip(rooms, ("Ops", "Dev"), strict=True):
        await create(one, room, name, "public")
    async with asyncio.timeout(3):
        with pytest.raises(NameTaken):
            await write(
                one, *(made(room, 3, EntryType.ROOM_UPDATED, name=name) for room, name in zip(rooms, ("x", "Ops"), strict=True))
            )
    await write(one, made(rooms[0], 3, EntryType.ROOM_UPDATED, name="x"))
    await write(one, made(rooms[1], 3, EntryType.ROOM_UPDATED, name="Ops"))
    assert await one.log.lookup("usr_bob", "ops") == [rooms[1]]
    assert await one.value("SELECT count(*) FROM names WHERE kind = 'room'") == 2


async def test_two_rooms_in_two_databases_that_exchange_names_hold_nobody_up_for_long(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other, and no database sees both: everybody else who commits would wait with them."""
    at_home = next(f"rm_n{number}" for number in range(9) if bucket_of(f"rm_n{number}") % 2)
    in_shard = next(f"rm_n{number}" for number in range(9) if not bucket_of(f"rm_n{number}") % 2)
    await create(one, at_home, "Ops", "public")
    await create(one, in_shard, "Dev", "public")
    claim, both = sharded_log.ShardLog._claim, asyncio.Barrier(2)

    async def together(self: Any, *arguments: Any) -> None:
        with suppress(asyncio.BrokenBarrierError):  # Broken: this is not the first time.
            await both.wait()
        await both.abort()
        await claim(self, *arguments)

    monkeypatch.setattr(sharded_log.ShardLog, "_claim", together)
    began = asyncio.get_running_loop().time()
    done = await asyncio.gather(
        write(one, made(at_home, 3, EntryType.ROOM_UPDATED, name="Dev")),
        write(other, made(in_shard, 3, EntryType.ROOM_UPDATED, name="Ops")),
        return_exceptions=True,
    )
    assert asyncio.get_running_loop().time() - began < 3
    assert all(each is None or isinstance(each, (NameTaken, Unavailable)) for each in done), done


async def test_who_is_late_to_give_back_old_names_leaves_the_one_that_the_room_has_now(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(one, ROOM + "p", "Zoo", "public")
    is_stored, go_on = asyncio.Event(), asyncio.Event()
    ended = sharded_log.ShardLog._ended

    async def slowly(self: Any, tried: Any, *, stored: bool) -> None:
        if "dev" in {key for key, _ in tried.claimed}:
            is_stored.set()
            await go_on.wait()
        await ended(self, tried, stored=stored)

    monkeypatch.setattr(sharded_log.ShardLog, "_ended", slowly)
    late = asyncio.create_task(write(one, made(ROOM + "p", 3, EntryType.ROOM_UPDATED, name="Dev")))
    await is_stored.wait()
    await write(other, made(ROOM + "p", 4, EntryType.ROOM_UPDATED, name="Ops"))
    go_on.set()
    await late

    with pytest.raises(NameTaken):
        await create(one, "rm_n1", "Ops", "public")
    await create(one, "rm_n2", "Dev", "public")


async def test_a_name_is_not_taken_from_a_room_that_is_about_to_have_it(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim was in vain once; it wants the name again while another one finds out that it has not got it."""
    await create(one, "rm_3", "Dev", "public")
    await one.database.parts[0].read("INSERT INTO names (kind, key, owner) VALUES ('room', 'ops', 'rm_3') RETURNING 1")
    found_out, go_on = asyncio.Event(), asyncio.Event()
    fetch = PostgresTransaction.fetch

    async def slowly(self: PostgresTransaction, sql: str, *values: object) -> list[Any]:
        if sql.startswith("DELETE FROM names") and not found_out.is_set():
            found_out.set()
            await go_on.wait()
        return await fetch(self, sql, *values)

    monkeypatch.setattr(PostgresTransaction, "fetch", slowly)
    wants = asyncio.create_task(create(one, ROOM + "p", "Ops", "public"))
    await found_out.wait()
    again = asyncio.create_task(write(other, made("rm_3", 3, EntryType.ROOM_UPDATED, name="Ops")))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while not again.done() and not any([(await part.read(waits))[0][0] for part in one.database.parts]):
            await asyncio.sleep(0.01)
    go_on.set()
    done = await asyncio.gather(wants, again, return_exceptions=True)

    assert sorted(type(each) is NameTaken for each in done) == [False, True], done
    assert len(await one.log.lookup("usr_bob", "ops")) == 1


async def test_what_is_remembered_of_a_room_is_in_the_audit_log_at_home_once(
    one: StoreUnderTest, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(one, made(ROOM, 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"), event=AuditEvent(action="a"))

    async def refused(*_: object) -> None:
        raise Unavailable

    monkeypatch.setattr(one.audit, "append", refused)
    await write(one, made(ROOM, 4, EntryType.MEMBER_REMOVED, member="usr_bob"), event=AuditEvent(action="b"))
    assert await one.value("SELECT count(*) FROM audit_pending") == 1
    async with opened(place) as again:
        await say(again, AT_HOME, "c1")

        assert [each.action for each in await again.audit.page(AuditQuery(after=0), limit=9)] == ["a", "b"]
        assert await again.value("SELECT count(*) FROM audit_pending") == await again.value("SELECT count(*) FROM audit_taken") == 0


async def test_what_waits_for_the_audit_log_is_taken_once_also_by_two_who_see_it_at_the_same_time(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(one.log, ShardedLog)
    assert isinstance(other.log, ShardedLog)

    async def later(_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(ShardedLog, "_relay", later)
        joined = made(ROOM, 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member")
        await write(one, joined, event=AuditEvent(action="a"))
    seen, go_on = asyncio.Event(), asyncio.Event()
    slow = other.log._logs[1]
    fetch = slow.database.fetch

    async def paused(sql: str, *values: object) -> list[Any]:
        rows = await fetch(sql, *values)
        seen.set()
        await go_on.wait()
        return rows

    monkeypatch.setattr(slow.database, "fetch", paused)
    behind = asyncio.create_task(slow.relay())
    await seen.wait()
    await one.log._logs[1].relay()
    go_on.set()
    await behind

    assert [each.action for each in await one.audit.page(AuditQuery(after=0), limit=9)] == ["a"]
    assert await one.value("SELECT count(*) FROM audit_pending") == await one.value("SELECT count(*) FROM audit_taken") == 0


async def test_lists_are_of_all_databases(one: StoreUnderTest) -> None:
    for name in ("ana", "bob"):
        await one.accounts.create_user(User(id=f"usr_{name}", username=name, display_name=name.title()), None, 1)
    rooms = [f"rm_n{number}" for number in range(8)]
    for number, room in enumerate(rooms):
        await create(one, room, f"Public {number}", "public")
    await write(
        one,
        made("rm_d", 1, EntryType.ROOM_CREATED, kind="direct", name=""),
        made("rm_d", 2, EntryType.MEMBER_JOINED, member="usr_ana", role="member"),
        made("rm_d", 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"),
    )
    await one.accounts.set_commands("usr_bob", [BotCommand(name="poll", description="d")])

    heads = (await one.log.heads("usr_ana")).rooms
    assert [each.id for each in heads[:9]] == ["rm_d", *rooms]
    assert {each.id for each in heads[9:]} == {ROOM, AT_HOME}
    assert heads[0].peer is not None
    assert heads[0].peer.display_name == "Bob"
    assert await one.log.head("usr_ana", "rm_d") == heads[0]
    found = (await one.log.browse(user_id="usr_bob", query="pub", after="Public 1", limit=4)).rooms
    assert [each.name for each in found] == ["Public 2", "Public 3", "Public 4", "Public 5"]
    assert await one.log.count_rooms("usr_ana") == 11
    assert [(user.username, role) for user, role in await one.log.members("rm_d", limit=9)] == [
        ("ana", "member"),
        ("bob", "member"),
    ]
    assert [each.bot for each in await one.accounts.commands("rm_d")] == ["usr_bob"]


async def test_where_rooms_are_and_who_is_in_them_is_told_of_all_databases(one: StoreUnderTest) -> None:
    await say(one, ROOM, "a")
    for seq, user in ((3, "usr_bob"), (4, "usr_eve")):
        await write(one, made(AT_HOME, seq, EntryType.MEMBER_JOINED, member=user, role="member"))

    assert await one.log.newest([ROOM, AT_HOME, "rm_none"]) == {ROOM: 3, AT_HOME: 4}
    assert await one.log.newest([]) == {}
    assert await one.log.rooms_of(["usr_ana", "usr_bob", "usr_zoe"]) == {"usr_ana": {ROOM, AT_HOME}, "usr_bob": {AT_HOME}}


async def test_of_a_room_that_has_moved_only_the_new_database_counts(one: StoreUnderTest, place: Place) -> None:
    await say(one, ROOM, "a")
    await move(place.urls(), bucket_of(ROOM), HOME)
    await say(one, ROOM, "b")
    await write(one, made(ROOM, 5, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))

    assert await one.log.newest([ROOM]) == {ROOM: 5}
    assert await one.log.rooms_of(["usr_bob"]) == {"usr_bob": {ROOM}}


def is_broken(store: StoreUnderTest) -> bool:
    return not store.log.whole


async def test_a_database_that_does_not_answer_takes_its_own_rooms_away_and_no_others(
    one: StoreUnderTest, second: Postgres
) -> None:
    await one.accounts.create_user(User(id="usr_ana", username="ana", display_name="Ana"), None, 1)
    await create(one, "rm_n1", "Open", "public")
    await create(one, "rm_n2", "Other", "public")
    here = {"rm_n1", "rm_n2", ROOM, AT_HOME}
    lost = {room for room in here if one.database.for_room(room) is not one.database}
    assert 0 < len(lost) < len(here)
    named = {"rm_n1": "Open", "rm_n2": "Other"}
    assert {room.id for room in (await one.log.heads("usr_ana")).rooms} == here
    assert one.log.whole is True
    await asyncio.to_thread(second.stop)
    try:
        for _ in range(3):
            found = await one.log.heads("usr_ana")
            assert ({room.id for room in found.rooms}, found.complete) == (here - lost, False)
        shown = await one.log.browse(user_id="usr_bob", query="", after="", limit=9)
        assert ({room.id for room in shown.rooms}, shown.complete) == (named.keys() - lost, False)
        assert await one.log.newest(here) == dict.fromkeys(here - lost, 2)
        assert await one.log.rooms_of(["usr_ana"]) == {"usr_ana": here - lost}
        assert await one.log.count_rooms("usr_ana") == len(here - lost)
        for room, name in named.items():
            if room in lost:
                with pytest.raises(Unavailable):
                    await one.log.lookup("usr_ana", name)
            else:
                assert await one.log.lookup("usr_ana", name) == [room]
        for read in (one.log.head("usr_ana", ROOM), one.log.page(ROOM, limit=9), say(one, ROOM, "a")):
            with pytest.raises(Unavailable):
                await read
        assert await say(one, AT_HOME, "a") == 3
        assert one.log.refusal(one.log.lane(ROOM)) is not None
        assert one.log.refusal(one.log.lane(AT_HOME)) is None
        assert is_broken(one)
    finally:
        await asyncio.to_thread(second.start)
    async with asyncio.timeout(5):
        while not (await one.log.heads("usr_ana")).complete:
            await asyncio.sleep(0.02)
    assert await say(one, ROOM, "a") == 3


# ── moving ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Talk:
    """People who write to rooms of one bucket and of others, by two servers, and read what is there."""

    def __init__(self, stores: list[StoreUnderTest], rooms: list[str]) -> None:
        self.stores, self.rooms = stores, rooms
        self.acknowledged: dict[str, dict[str, int]] = defaultdict(dict)
        self.stop = asyncio.Event()
        self.refused = 0

    async def talk(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            room, cmid = self.rooms[count % len(self.rooms)], f"t{number}-{count}"
            try:
                self.acknowledged[room][cmid] = await say(self.stores[number % len(self.stores)], room, cmid)
            except Unavailable:
                self.refused += 1
                continue  # Sent again, with the same cmid.
            count += 1

    async def read(self) -> None:
        """What was acknowledged is in every page that is asked for later, and in every list."""
        while not self.stop.is_set():
            for store in self.stores:
                newest = {room: max(self.acknowledged[room].values(), default=0) for room in self.rooms}
                with suppress(Unavailable):
                    heads = {each.id: each for each in (await store.log.heads("usr_ana")).rooms}
                    for room, seq in newest.items():
                        assert heads[room].last_seq >= seq
                        page = await store.log.page(room, limit=3)
                        assert page.last_seq >= seq
                        assert page.entries[-1].seq == page.last_seq
                        head = await store.log.head("usr_ana", room)
                        assert head is not None
                        assert head.last_seq >= seq

    async def check(self, store: StoreUnderTest) -> None:
        """Everything acknowledged is stored once, where it was said to be; nothing is missing in between."""
        for room in self.rooms:
            found: list[Entry] = []
            while page := (await store.log.page(room, after=found[-1].seq if found else 0, limit=200)).entries:
                found += page
            assert [each.seq for each in found] == list(range(1, len(found) + 1))
            sent = {each.cmid: each.seq for each in found if each.cmid is not None}
            assert len(sent) == sum(each.cmid is not None for each in found)
            assert sent == {**sent, **self.acknowledged[room]}
            assert {each.body for each in found if each.cmid} == {f"text {cmid}" for cmid in sent}
            for number in range(4):  # One after the other, so in the order in which they were sent.
                mine = [int(cmid.partition("-")[2]) for cmid in sent if cmid.startswith(f"t{number}-")]
                assert mine == sorted(mine)


@asynccontextmanager
async def talking(stores: list[StoreUnderTest], rooms: list[str]) -> AsyncIterator[Talk]:
    talk = Talk(stores, rooms)
    tasks = [asyncio.create_task(talk.talk(number)) for number in range(4)] + [asyncio.create_task(talk.read())]
    try:
        yield talk
    finally:
        talk.stop.set()
        await asyncio.gather(*tasks)


def rooms_of_bucket(bucket: int, count: int) -> list[str]:
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if bucket_of(f"rm_b{number}") == bucket:
            found.append(f"rm_b{number}")
    return found


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_bucket_moves_there_and_back_while_people_write(place: Place, *, sealed: bool) -> None:
    async with opened(place, sealed=sealed) as one, opened(place, sealed=sealed) as other:
        rooms = [*rooms_of_bucket(7, 3), ROOM]
        for room in rooms:
            await create(one, room)
        pauses = []
        async with talking([one, other], rooms) as talk:
            for to in ("shard1", HOME):
                goal = sum(map(len, talk.acknowledged.values())) + 40
                done = await move(place.urls(), 7, to)
                pauses.append(done.pause_ms)
                assert (done.target, done.rooms) == (to, 3)
                await until(lambda goal=goal: sum(map(len, talk.acknowledged.values())) >= goal, 60)  # type: ignore[misc]
        assert talk.refused == 0
        assert max(pauses) < 3_000
        await talk.check(one)
        await talk.check(other)
        assert isinstance(one.database, ShardedDatabase)
        left = [await part.read("SELECT count(*) FROM entries WHERE securechat_bucket(room_id) = 7") for part in one.database.parts]
        assert left[1] == [(0,)]
        assert await one.log.read_state("usr_ana", rooms[0]) == ((await one.log.page(rooms[0], limit=1)).last_seq, 0)


@pytest.mark.timeout(180)
async def test_whoever_moves_may_die_at_every_statement(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "FENCE_S", 1.0)
    rooms = [*rooms_of_bucket(7, 2), ROOM]
    death = Death(monkeypatch)
    async with opened(place) as one, opened(place) as other:
        for room in rooms:
            await create(one, room)
            await say(one, room, "first")
        await move(place.urls(), 7, "shard1")
        await move(place.urls(), 7, HOME)
        statements = death.count // 2
        to = "shard1"
        async with talking([one, other], rooms) as talk:
            for kill in range(DEATHS):
                at = 2 + kill * statements // DEATHS
                death.left = at
                with suppress(Killed, Shutdown):  # As after a lost connection, where it was in the middle of something.
                    await move(place.urls(), 7, to)
                death.left, death.connections = 10**9, []
                print(f"{asyncio.get_running_loop().time():.2f} dead at {at} of {statements}")
                before = {room: len(talk.acknowledged[room]) for room in rooms}
                await until(lambda before=before: all(len(talk.acknowledged[room]) > before[room] for room in rooms), 60)  # type: ignore[misc]
                if kill % 2:
                    done = await move(place.urls(), 7, to)
                    assert done.target == to
                    to = HOME if to == "shard1" else "shard1"
            await move(place.urls(), 7, to)
        assert statements > DEATHS
        assert talk.refused == 0
        await talk.check(one)
        await talk.check(other)
        assert isinstance(one.database, ShardedDatabase)
        gone = one.database.parts[0 if to == "shard1" else 1]
        for table, column in (("rooms", "id"), ("entries", "room_id"), ("members", "room_id"), ("reads", "room_id")):
            assert await gone.read(f"SELECT count(*) FROM {table} WHERE securechat_bucket({column}) = 7") == [(0,)]


@pytest.mark.parametrize("state", ["fenced", "away", "absent"])
async def test_nobody_writes_to_a_bucket_that_is_not_here(
    one: StoreUnderTest, place: Place, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_log, "WAIT_S", 0.1)
    await say(one, ROOM, "a")  # Now the room is in memory, and the next one would be one statement.
    part, bucket = one.database.for_room(ROOM), bucket_of(ROOM)
    there = place.shards["shard1"]
    row = f"({bucket}, '{state}', 'nowhere', clock_timestamp() + interval '1 hour')"
    await read_all(there, f"INSERT INTO buckets (bucket, state, shard, until) VALUES {row}")

    with pytest.raises(Unavailable):
        await say(one, ROOM, "b")
    with pytest.raises(Unavailable):
        await write(one, made(ROOM, 4, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))
    with pytest.raises(Unavailable):
        await one.log.commit(_mark)
    assert await part.read("SELECT count(*), max(read_seq) FROM entries, reads WHERE reads.room_id = ?", (ROOM,)) == [(3, 3)]
    assert await say(one, AT_HOME, "c") == 3
    if state == "fenced":
        assert (await one.log.page(ROOM, limit=9)).last_seq == 3
    else:
        for read in (one.log.page(ROOM, limit=9), one.log.head("usr_ana", ROOM), one.log.heads("usr_ana")):
            with pytest.raises(Unavailable):
                await read
    await read_all(there, f"UPDATE buckets SET state = 'fenced', until = clock_timestamp() WHERE bucket = {bucket}")
    assert await say(one, ROOM, "b") == 4  # A fence ends by itself.


async def _mark(tx: LogTransaction) -> None:
    tx.mark_read("usr_ana", ROOM, 1, back=True)


async def test_what_changes_behind_the_log_is_found_by_comparing(
    one: StoreUnderTest, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(one, ROOM, "a")
    copied = moving_module.BucketMove._replace

    async def damaging(self: Any, table: str, where: str, values: Any) -> None:
        await copied(self, table, where, values)
        if table == "entries":
            await self._target.execute("UPDATE entries SET body = 'other' WHERE room_id = $1 AND body IS NOT NULL", ROOM)

    with monkeypatch.context() as patch:
        patch.setattr(moving_module.BucketMove, "_replace", damaging)
        with pytest.raises(Conflict, match=f"{ROOM} is not the same"):
            await move(place.urls(), bucket_of(ROOM), HOME)
    assert await say(one, ROOM, "b") == 4
    assert (await move(place.urls(), bucket_of(ROOM), HOME)).target == HOME
    assert [each.body for each in (await one.log.page(ROOM, after=2, limit=9)).entries] == ["text a", "text b"]


async def test_everything_of_a_room_goes_along(one: StoreUnderTest, place: Place) -> None:
    one.sealing.on = True
    await write(one, made(ROOM, 3, EntryType.MEMBER_JOINED, member="usr_bob", role="member"))
    for cmid in ("a", "b", "c"):
        await say(one, ROOM, cmid)
    await write(one, made(ROOM, 7, EntryType.MESSAGE_EDITED, target=4, body="better"))
    await write(one, made(ROOM, 8, EntryType.REACTION_ADDED, target=5, emoji="👍"))
    await write(one, made(ROOM, 9, EntryType.MESSAGE_DELETED, target=6))
    before = await one.log.page(ROOM, limit=20)
    state = await one.log.read_state("usr_ana", ROOM)
    members = await one.database.for_room(ROOM).read("SELECT user_id, role FROM members WHERE room_id = ? ORDER BY 1", (ROOM,))

    await move(place.urls(), bucket_of(ROOM), HOME)
    async with opened(place, sealed=True) as again:
        assert await again.log.page(ROOM, limit=20) == before
        assert await again.log.read_state("usr_ana", ROOM) == state
        assert await again.database.read("SELECT user_id, role FROM members WHERE room_id = ? ORDER BY 1", (ROOM,)) == members
        await write(again, made(ROOM, 10, EntryType.ROOM_ERASED))
        await move(place.urls(), bucket_of(ROOM), "shard1")
        assert [each.body for each in (await again.log.page(ROOM, limit=20)).entries] == [None] * 10
        await again.jobs.erase(ROOM)
        assert await again.value("SELECT count(sealed) FROM entries") == 0


async def test_two_do_not_move_one_bucket_and_jobs_rest_meanwhile(
    one: StoreUnderTest, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(one, ROOM, "a")
    seen: list[type[BaseException] | None] = []
    fence = moving_module.BucketMove._fence

    async def looked(self: Any) -> None:
        for attempt in (move(place.urls(), bucket_of(ROOM), HOME), one.jobs.rotate(messages=False)):
            try:
                await attempt
            except Conflict as error:
                seen.append(type(error))
        await fence(self)

    monkeypatch.setattr(moving_module.BucketMove, "_fence", looked)
    await move(place.urls(), bucket_of(ROOM), HOME)

    assert seen == [Conflict, Conflict]
    await one.jobs.rotate(messages=False)
    with pytest.raises(Conflict, match="storage job"):
        await move(place.urls(), bucket_of(ROOM), "shard1")


async def test_nothing_moves_while_somebody_serves_who_would_not_find_it(one: StoreUnderTest, place: Place) -> None:
    """They would tell people that they are in no such room."""
    server = ServerLocks(place.urls()[HOME], shared=True)
    await server.enter()
    try:
        with pytest.raises(Conflict, match="1 of the servers"):
            await move(place.urls(), bucket_of(ROOM), HOME)
        await server.knows(0)  # One was added since it began.
        with pytest.raises(Conflict, match="1 of the servers"):
            await move(place.urls(), bucket_of(ROOM), HOME)
        await server.knows(1)
        await move(place.urls(), bucket_of(ROOM), HOME)
        await server._end()
        assert await server._try(begins=False)
        await move(place.urls(), bucket_of(ROOM), "shard1")
    finally:
        await server.leave()


async def test_a_job_that_began_while_a_move_prepared_goes_first(
    one: StoreUnderTest, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the target it may be past the rooms that come: they would stay as they are."""
    index = handing_over.index

    async def slowly(*arguments: Any) -> None:
        await index(*arguments)
        await one.jobs.rotate(messages=False)

    monkeypatch.setattr(moving_module, "index", slowly)
    with pytest.raises(Conflict, match="storage job"):
        await move(place.urls(), bucket_of(ROOM), HOME)
    await say(one, ROOM, "a")


async def test_keys_are_not_rotated_when_a_move_begins_meanwhile(
    one: StoreUnderTest, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared already would change in silence."""
    await say(one, ROOM, "a")
    create_key, fence = one.keys.provider.create, moving_module.BucketMove._fence
    copied, rotated = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slowly() -> int:
        asyncio.run_coroutine_threadsafe(copied.wait(), loop).result()
        return create_key()

    async def looked(self: Any) -> None:
        copied.set()
        await rotated.wait()
        await fence(self)

    monkeypatch.setattr(one.keys.provider, "create", slowly)
    monkeypatch.setattr(moving_module.BucketMove, "_fence", looked)
    rotation = asyncio.create_task(one.jobs.rotate(messages=False))
    moving = asyncio.create_task(move(place.urls(), bucket_of(ROOM), HOME))
    try:
        with pytest.raises(Conflict, match="being moved"):
            await rotation
    finally:
        rotated.set()
    await moving


async def test_who_read_long_ago_where_a_bucket_was_going_does_not_let_it_arrive_again(
    place: Place, one: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went there and came back meanwhile. In two databases, it would be written to in both."""
    bucket = bucket_of(AT_HOME)
    assert isinstance(one.database, ShardedDatabase)
    await move(place.urls(), bucket, "shard1")
    await move(place.urls(), bucket, HOME)
    not_plain = ShardedDatabase._not_plain
    old = {HOME: (AWAY, "shard1"), "shard1": (ABSENT, "")}

    async def slowly(part: Any) -> dict[int, tuple[str, str]]:
        return {**await not_plain(part), bucket: old.pop(HOME if part is one.database else "shard1")}

    with monkeypatch.context() as patched:
        patched.setattr(ShardedDatabase, "_not_plain", staticmethod(slowly))
        await one.database.refresh()
    await one.database.refresh()
    assert bucket in one.database.buckets(HOME)
    await say(one, AT_HOME, "c1")


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_shard_is_known_by_more_than_its_address(
    place: Place, one: StoreUnderTest, postgres: Postgres, second: Postgres
) -> None:
    assert isinstance(one.database, ShardedDatabase)
    assert len(one.database.buckets(HOME)) == len(one.database.buckets("shard1")) == BUCKETS // 2

    async def open_with(shards: dict[str, str]) -> None:
        await (await open_sharded(await open_postgres(place.urls()[HOME]), shards, connections=3)).close()

    with pytest.raises(Shutdown, match="database_shards"):
        await open_with({})
    wrong = second.url(await asyncio.to_thread(second.new_database))
    with pytest.raises(Shutdown, match="not that shard"):
        await open_with({"shard1": wrong})
    for url in (place.urls()[HOME], place.urls()["shard1"]):
        with pytest.raises(Conflict, match="empty"):
            await add(one.database.home, "shard2", url)
    await add(one.database.home, "shard2", wrong)
    await add(one.database.home, "shard2", wrong)
    rows = await read_all(wrong, f"SELECT value FROM settings WHERE key = '{SHARD}'")
    assert msgspec.json.decode(rows[0][0])[1] == "shard2"
