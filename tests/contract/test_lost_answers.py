"""PostgreSQL: answers that are lost, and everything else that goes wrong beside a commit."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from securechat.domain.entries import EntryType
from securechat.domain.ports import LogTransaction
from securechat.errors import Shutdown, Unavailable
from securechat.store import postgres_log, postgres_pool
from securechat.store.postgres import PostgresDatabase, PostgresTransaction, open_postgres
from support.logs import ROOM, create, made, opened, say, texts, write
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest
from support.tcp_proxy import TcpProxy
from support.waiting import until


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Place:
    return Place(tmp_path, lambda: postgres)


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
