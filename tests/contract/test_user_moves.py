"""Buckets of users that move between three PostgreSQL servers while people sign in and out."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from securechat.domain.ports import AppRecord, CodeRecord
from securechat.errors import Conflict, Shutdown, Unavailable
from securechat.store import handing_over, spread_users
from securechat.store import migrate as migrate_module
from securechat.store import postgres as postgres_module
from securechat.store.buckets import ABSENT, USERS, user_bucket_of
from securechat.store.moving import move
from securechat.store.moving_users import TABLES, UserMove
from securechat.store.postgres import migrate_postgres, open_postgres, read_all
from securechat.store.session_locks import KNOWS, ServerLocks
from securechat.store.shards import HOME, ShardedDatabase, open_sharded
from support.logs import opened
from support.mover_death import Death, Killed
from support.postgres import Postgres
from support.spread_people import (
    ANA,
    BOB,
    EVENT,
    add_user,
    alive,
    everything,
    log_in,
    passkey,
    records,
    scoped,
    shards_of,
)
from support.stores import Place, StoreUnderTest
from support.waiting import until

pytestmark = pytest.mark.slow

DEATHS = 12
BUCKET = 7


def users_of_bucket(bucket: int, count: int) -> list[str]:
    names = (f"usr_b{number}" for number in itertools.count())
    return list(itertools.islice((name for name in names if user_bucket_of(name) == USERS + bucket), count))


class Person:
    """Somebody who signs in and out on many devices, by two servers; and a thief, who has their password until they change it.

    What was acknowledged holds: a session that was opened is there, one that ended stays so, a token works once.
    """

    def __init__(self, stores: list[StoreUnderTest], user: str) -> None:
        self.user = user
        self.stores = itertools.cycle(stores)
        self.password = "hash"
        self.refresh: dict[str, str] = {}
        self.ended: set[str] = set()
        self.opened: dict[str, str] = {}
        """Device → password that it was opened with."""
        self.blocked: set[str] = set()
        self.passkeys: set[str] = set()
        self.step = 0
        self.rounds = 0
        self.refused = 0

    async def live(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.once(self.rounds)
            except Unavailable:
                self.refused += 1
            self.rounds += 1

    async def once(self, number: int) -> None:
        name, store, user = f"{self.user}-{number}", next(self.stores), self.user
        assert await log_in(store, user, name, password=self.password)
        self.opened[name], self.refresh[name] = self.password, f"r{name}"
        for _ in range(2):
            new = f"{self.refresh[name]}+"
            assert await next(self.stores).accounts.rotate_refresh(user, f"dev_{name}", self.refresh[name], new, number, "")
            assert not await next(self.stores).accounts.rotate_refresh(user, f"dev_{name}", self.refresh[name], "x", number, "")
            self.refresh[name] = new
        found = await next(self.stores).accounts.device_by_family(f"f{name}")
        assert found is not None
        assert (found.user_id, found.refresh_hash) == (user, self.refresh[name])
        self.step += 1
        if number == 0:
            assert await store.factors.set_totp(user, b"sealed", self.step, 1)
        assert not await store.factors.use_totp(user, self.step - 1)
        assert await next(self.stores).factors.use_totp(user, self.step + 1)
        self.step += 1
        assert await store.factors.add_passkey(passkey(f"key_{name}", user))
        self.passkeys.add(f"key_{name}")
        await store.accounts.set_block(user, name, on=True)
        self.blocked.add(name)
        if number % 2:
            assert await next(self.stores).factors.remove_passkey(user, f"key_{name}")
            self.passkeys.discard(f"key_{name}")
            await next(self.stores).accounts.set_block(user, name, on=False)
            self.blocked.discard(name)
            assert await store.accounts.revoke_devices(user, f"dev_{name}", number) == [f"dev_{name}"]
            self.ended.add(name)
            await self.check_ended(name)
        if number % 4 == 3:
            old, self.password = self.password, f"hash{number}"
            await store.accounts.update_user(user, password_hash=self.password)
            await next(self.stores).accounts.revoke_devices(user, None, number)
            self.ended |= self.refresh.keys()
            for each in sorted(self.refresh)[-3:]:
                await self.check_ended(each)
            assert not await log_in(store, user, f"{name}-old", password=old)
        assert set(await next(self.stores).accounts.blocks(user)) == self.blocked

    async def check_ended(self, name: str) -> None:
        for by in ({"user_id": self.user, "device_id": f"dev_{name}"}, {"device_id": f"dev_{name}"}):
            found = await next(self.stores).accounts.session(**by)  # type: ignore[arg-type]
            assert found is not None
            assert found.device.revoked, f"{name} came back to life"
        assert not await next(self.stores).accounts.rotate_refresh(self.user, f"dev_{name}", self.refresh[name], "x", 1, "")

    async def steal(self, stop: asyncio.Event) -> None:
        """Sign in all the time with the password that was right a moment ago."""
        count = 0
        while not stop.is_set():
            password, name = self.password, f"{self.user}-thief{count}"
            with suppress(Unavailable):
                if await log_in(next(self.stores), self.user, name, password=password):
                    self.opened[name] = password
            count += 1

    async def check(self, store: StoreUnderTest) -> None:
        """Nothing is lost, nothing is there twice, and no session of an older password is alive."""
        count = Counter([row[0] for row in await store.rows(f"SELECT substr(id, 5) FROM devices WHERE user_id = '{self.user}'")])
        assert self.opened.keys() <= count.keys()
        assert max(count.values()) == 1
        for name in self.refresh.keys() & self.ended:
            await self.check_ended(name)
        here = {each.id[4:] for each in await store.accounts.devices(self.user)}
        assert {self.opened[name] for name in here & self.opened.keys()} <= {self.password}
        assert not here & self.ended
        assert {name for name in self.refresh.keys() - self.ended if self.opened[name] == self.password} <= here
        assert {each.id for each in await store.factors.passkeys(self.user)} == self.passkeys
        totp = await store.factors.totp(self.user)
        assert totp is not None
        assert totp.last_step == self.step


@asynccontextmanager
async def living(stores: list[StoreUnderTest], users: list[str]) -> AsyncIterator[list[Person]]:
    people = [Person(stores, user) for user in users]
    for each in people:
        await add_user(stores[0], each.user)
    stop = asyncio.Event()
    tasks = [asyncio.create_task(work(stop)) for each in people for work in (each.live, each.steal)]
    try:
        yield people
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def check(people: list[Person], stores: list[StoreUnderTest]) -> None:
    for each in people:
        assert each.refused == 0
        for store in stores:
            await each.check(store)
    told = Counter(record.device for record in await records(stores[0]) if record.action == "session.create")
    assert max(told.values()) == 1
    assert {f"dev_{name}" for each in people for name in each.opened} <= told.keys()
    stored = {row[0] for row in await stores[0].rows("SELECT id FROM devices")}
    assert told.keys() == stored


async def test_a_bucket_moves_there_and_back_while_people_sign_in_and_out(spread_place: Place) -> None:
    async with opened(spread_place) as spread_one, opened(spread_place) as spread_other:
        users = [*users_of_bucket(BUCKET, 2), *users_of_bucket(BUCKET + 1, 1)]
        pauses = []
        async with living([spread_one, spread_other], users) as people:
            for to in ("shard1", "shard2", "shard1"):
                goals = [each.rounds + 3 for each in people]
                await until(lambda goals=goals: all(each.rounds >= goal for each, goal in zip(people, goals, strict=True)), 60)  # type: ignore[misc]
                done = await move(spread_place.urls(), USERS + BUCKET, to)
                if done.source != to:
                    pauses.append(done.pause_ms)
                    assert (done.target, done.of) == (to, "users")
            goals = [each.rounds + 3 for each in people]
            await until(lambda: all(each.rounds >= goal for each, goal in zip(people, goals, strict=True)), 60)
        assert max(pauses) < 3_000
        print(f"pauses of {pauses} ms, {sum(each.rounds for each in people)} rounds")
        await check(people, [spread_one, spread_other])
        assert BUCKET in shards_of(spread_one).user_buckets("shard1")


@pytest.mark.timeout(240)
async def test_whoever_moves_users_may_die_at_every_statement(spread_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "FENCE_S", 1.0)
    users = [*users_of_bucket(BUCKET, 2), *users_of_bucket(BUCKET + 1, 1)]
    places = ["shard1", "shard2", HOME]
    for each in places:  # Once for the indexes that a move makes.
        await move(spread_place.urls(), USERS + BUCKET, each)
    death = Death(monkeypatch)
    async with opened(spread_place) as spread_one, opened(spread_place) as spread_other:
        async with living([spread_one, spread_other], users) as people:
            for each in places:
                await move(spread_place.urls(), USERS + BUCKET, each)
            statements = death.count // 3
            to = places[0]
            for kill in range(DEATHS):
                at = 2 + kill * statements // DEATHS
                death.left = at
                with suppress(Killed, Shutdown):  # As after a lost connection, where it was in the middle of something.
                    await move(spread_place.urls(), USERS + BUCKET, to)
                death.left, death.connections = 10**9, []
                print(f"{asyncio.get_running_loop().time():.2f} dead at {at} of {statements}")
                goals = [each.rounds + 1 for each in people]
                await until(lambda goals=goals: all(each.rounds >= goal for each, goal in zip(people, goals, strict=True)), 60)  # type: ignore[misc]
                if kill % 2:
                    assert (await move(spread_place.urls(), USERS + BUCKET, to)).target == to
                    to = places[(places.index(to) + 1) % 3]
            await move(spread_place.urls(), USERS + BUCKET, to)
        assert statements > DEATHS
        await check(people, [spread_one, spread_other])
        for name, part in zip(places[2:] + places[:2], spread_one.database.parts, strict=True):
            for table in TABLES:
                left = await part.read(f"SELECT count(*) FROM {table} WHERE securechat_bucket(user_id) = {BUCKET}")
                assert name == to or left == [(0,)]


@pytest.mark.parametrize("state", ["fenced", "away", "absent"])
async def test_nobody_writes_for_a_user_who_is_not_here(
    spread_one: StoreUnderTest, spread_place: Place, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spread_users, "WAIT_S", 0.1)
    monkeypatch.setattr(spread_users, "CHANGE_S", 0.1)
    await everything(spread_one, ANA)
    bucket, there = user_bucket_of(ANA), spread_place.shards["shard1"]
    before = await spread_one.rows("SELECT * FROM devices")
    row = f"({bucket}, '{state}', 'nowhere', clock_timestamp() + interval '1 hour')"
    await read_all(there, f"INSERT INTO buckets (bucket, state, shard, until) VALUES {row}")
    await spread_one.oauth.add_app(AppRecord("app_1", "App", None, [], [], False, BOB, 1), EVENT)  # noqa: FBT003 - a record
    await spread_one.oauth.add_code(CodeRecord("h1", "app_1", ["profile"], 1_000, ANA, "", "", decision="yes"), 1, None)

    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: log_in(spread_one, ANA, "b"),
        lambda: spread_one.accounts.rotate_refresh(ANA, f"dev_{ANA}", f"r{ANA}", "x", 2, ""),
        lambda: spread_one.accounts.revoke_devices(ANA, None, 2),
        lambda: spread_one.accounts.set_block(ANA, "usr_y", on=True),
        lambda: spread_one.accounts.set_commands(ANA, []),
        lambda: spread_one.factors.add_passkey(passkey("other", ANA)),
        lambda: spread_one.factors.use_passkey(ANA, f"key_{ANA}", 0, 1, 2),
        lambda: spread_one.factors.remove_passkey(ANA, f"key_{ANA}"),
        lambda: spread_one.factors.remove_totp(ANA),
        lambda: spread_one.factors.use_totp(ANA, 9),
        lambda: spread_one.factors.use_recovery_code(ANA, "x"),
        lambda: spread_one.factors.set_recovery_codes(ANA, []),
        lambda: spread_one.factors.clear_factors(ANA),
        lambda: spread_one.factors.confirm(ANA, f"dev_{ANA}", 9),
        lambda: spread_one.oauth.use_external(ANA, f"ext_{ANA}", 9),
        lambda: spread_one.oauth.remove_external(ANA, f"ext_{ANA}", EVENT),
        lambda: spread_one.oauth.use_code("h1", scoped("c", ANA), EVENT),
        lambda: spread_one.oauth.add_scoped_device(scoped("d", ANA), EVENT),
        lambda: spread_one.oauth.end_app(ANA, "", 9, EVENT),
        lambda: spread_one.oauth.remove_app("app_1", 9, EVENT),
    ]
    for write in writes:
        with pytest.raises(Unavailable):
            await write()
    assert await spread_one.rows("SELECT * FROM devices") == before
    assert await spread_one.value("SELECT count(*) FROM passkeys") == await spread_one.value("SELECT count(*) FROM blocks") == 1
    assert await spread_one.value("SELECT count(*) FROM apps") == 1
    assert await log_in(spread_one, BOB, "b")
    if state == "fenced":
        assert await alive(spread_one, ANA, ANA)
    else:
        for read in (
            alive(spread_one, ANA, ANA),
            spread_one.accounts.device_by_family(f"f{ANA}"),
            spread_one.accounts.every_block(),
        ):
            with pytest.raises(Unavailable):
                await read
    await read_all(there, f"UPDATE buckets SET state = 'fenced', until = clock_timestamp() WHERE bucket = {bucket}")
    assert await log_in(spread_one, ANA, "b")  # A fence ends by itself.


async def test_a_copy_that_is_not_complete_yet_is_never_read(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest, spread_place: Place
) -> None:
    """The target has the session as it was before it ended; who guesses that the user is there already is told otherwise."""
    await everything(spread_one, ANA)
    there = spread_place.shards["shard2"]
    columns = "id, user_id, name, address, created_at, last_seen_at, refreshed_at, refresh_family, refresh_hash"
    stale = f"INSERT INTO devices ({columns}) VALUES ('dev_{ANA}', '{ANA}', 'D', '', 1, 1, 1, 'f{ANA}', 'r{ANA}')"
    await read_all(there, stale)
    assert await spread_one.accounts.revoke_devices(ANA, None, 2) == [f"dev_{ANA}"]
    shards_of(spread_other)._places[user_bucket_of(ANA)] = 2

    assert not await alive(spread_other, ANA, ANA)
    shards_of(spread_other)._places[user_bucket_of(ANA)] = 2
    assert not await spread_other.accounts.rotate_refresh(ANA, f"dev_{ANA}", f"r{ANA}", "x", 3, "")
    found = await spread_other.accounts.device_by_family(f"f{ANA}")
    assert found is not None
    assert found.revoked
    await move(spread_place.urls(), user_bucket_of(ANA), "shard2")
    assert not await alive(spread_one, ANA, ANA)
    assert not await alive(spread_other, ANA, ANA)


async def test_everything_of_a_user_goes_along(spread_one: StoreUnderTest, spread_place: Place) -> None:
    await everything(spread_one, ANA)
    shards = shards_of(spread_one)
    before = {table: await shards.parts[1].read(f"SELECT * FROM {table}") for table in TABLES}
    assert all(before.values())

    done = await move(spread_place.urls(), user_bucket_of(ANA), "shard2")
    assert (done.bucket, done.of, done.source, done.target) == (user_bucket_of(ANA) - USERS, "users", "shard1", "shard2")
    assert done.rows == sum(map(len, before.values()))
    for table in TABLES:
        assert await shards.parts[2].read(f"SELECT * FROM {table}") == before[table]
        assert await shards.parts[1].read(f"SELECT * FROM {table}") == []
    assert await alive(spread_one, ANA, ANA)
    found = await spread_one.factors.passkey(f"key_{ANA}")
    assert found is not None


async def test_what_changes_behind_a_move_is_found_by_comparing(
    spread_one: StoreUnderTest, spread_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await everything(spread_one, ANA)
    replaced = UserMove._replace

    async def damaging(self: Any, table: str, where: str, values: Any) -> None:
        await replaced(self, table, where, values)
        if table == "devices":
            await self._target.execute("UPDATE devices SET revoked_at = 5")

    with monkeypatch.context() as patch:
        patch.setattr(UserMove, "_replace", damaging)
        with pytest.raises(Conflict, match="not the same"):
            await move(spread_place.urls(), user_bucket_of(ANA), HOME)
    assert await alive(spread_one, ANA, ANA)
    assert await log_in(spread_one, ANA, "b")
    await move(spread_place.urls(), user_bucket_of(ANA), HOME)
    assert await alive(spread_one, ANA, ANA)
    assert await alive(spread_one, ANA, "b")


async def test_no_user_moves_while_a_server_of_the_release_before_runs_and_none_starts_later(
    spread_one: StoreUnderTest, spread_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look for everybody at home, and tell those who moved that their sessions have ended."""
    home = spread_place.urls()[HOME]
    await read_all(home, "COMMENT ON TABLE alembic_version IS 'serves 0010'")
    old = await asyncpg.connect(home)
    await old.execute("SELECT pg_advisory_lock_shared($1, $2)", KNOWS, 2)
    server = ServerLocks(home, shared=True)
    await server.enter()
    await server.knows(2)
    with pytest.raises(Conflict, match="1 of the servers"):
        await move(spread_place.urls(), user_bucket_of(ANA), HOME)
    for module in (migrate_module, postgres_module):
        monkeypatch.setattr(module, "HEAD", "0010")
    assert await migrate_postgres(home) == "0014"
    await old.close()
    async with asyncio.timeout(10):
        while True:
            with suppress(Conflict):
                await move(spread_place.urls(), user_bucket_of(ANA), HOME)
                break
            await asyncio.sleep(0.02)
    await server.leave()
    with pytest.raises(Shutdown, match="newer version"):
        await migrate_postgres(home)


async def test_rooms_that_moved_before_users_could_leave_users_at_home(
    postgres: Postgres, second: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation of the release before, with rooms in a shard."""
    with monkeypatch.context() as patch:
        for module in (migrate_module, postgres_module):
            patch.setattr(module, "HEAD", "0010")
        places = {}
        for name, server in ((HOME, postgres), ("shard1", second)):
            places[name] = server.url(await asyncio.to_thread(server.new_database))
            await migrate_postgres(places[name])
    await read_all(places[HOME], "INSERT INTO settings VALUES ('shards', '[\"str_1\",[\"shard1\"]]')")
    await read_all(places["shard1"], "INSERT INTO settings VALUES ('shard', '[\"str_1\",\"shard1\"]')")
    for name, numbers in ((HOME, "0, 99"), ("shard1", "100, 255")):
        absent = f"INSERT INTO buckets SELECT each, '{ABSENT}', '' FROM generate_series({numbers}) AS each"
        await read_all(places[name], absent)
    found = await open_sharded(await open_postgres(places[HOME]), {"shard1": places["shard1"]}, connections=5)
    try:
        assert isinstance(found, ShardedDatabase)
        assert (found.buckets("shard1"), found.user_buckets("shard1")) == (list(range(100)), [])
        assert len(found.user_buckets(HOME)) == 256
    finally:
        await found.close()
