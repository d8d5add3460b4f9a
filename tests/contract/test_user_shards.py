"""What hangs off users, on three PostgreSQL servers: what crosses them, names, and a database that is down."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from securechat.domain.accounts import Device, Role, User
from securechat.domain.ports import AppRecord, CodeRecord
from securechat.errors import Conflict, NameTaken, Unavailable
from securechat.store.buckets import user_bucket_of
from securechat.store.moving_users import TABLES
from securechat.store.postgres import PostgresTransaction
from securechat.store.spread_users import SpreadUsers
from support.logs import opened
from support.postgres import Postgres
from support.spread_people import (
    ANA,
    BOB,
    EVENT,
    ZOE,
    add_user,
    alive,
    everything,
    external,
    log_in,
    passkey,
    records,
    scoped,
    shards_of,
)
from support.stores import Place, StoreUnderTest

pytestmark = pytest.mark.slow


# ── what crosses databases ───────────────────────────────────────────────────────────────────────────────────────────


async def test_what_hangs_off_users_lies_where_their_buckets_are_and_they_are_at_home(spread_one: StoreUnderTest) -> None:
    for user in (ANA, BOB, ZOE):
        await everything(spread_one, user)
    home, first, second = spread_one.database.parts
    for part, user in ((home, BOB), (first, ANA), (second, ZOE)):
        for table in TABLES:
            assert await part.read(f"SELECT DISTINCT user_id FROM {table}") == [(user,)], table
        assert len(await part.read("SELECT 1 FROM users")) == (3 if part is home else 0)
        assert len(await part.read("SELECT 1 FROM names")) == (9 if part is home else 0)
    assert await spread_one.accounts.every_block() == {user: {"usr_x"} for user in (ANA, BOB, ZOE)}
    assert [each.action for each in await records(spread_one)] == ["session.create", "test.event"] * 3


async def test_a_session_is_found_by_whatever_names_it(spread_one: StoreUnderTest) -> None:
    for user in (ANA, BOB, ZOE):
        assert await log_in(spread_one, user, user)
        await spread_one.accounts.set_block(user, "usr_x", on=True)
        token = replace(scoped(f"t{user}", user), token_hash=f"t{user}")
        await spread_one.oauth.add_scoped_device(token, EVENT)
        for by in (
            {"device_id": f"dev_{user}"},
            {"device_id": f"dev_{user}", "user_id": user},
            {"token_hash": f"t{user}"},
        ):
            found = await spread_one.accounts.session(**by, blocks=True)
            assert found is not None
            assert (found.user.id, found.device.user_id, found.blocked) == (user, user, ["usr_x"])
        family = await spread_one.accounts.device_by_family(f"f{user}")
        assert family is not None
        assert family.user_id == user
    assert await spread_one.accounts.session(device_id=f"dev_{ANA}", user_id=BOB) is None


async def waits_for_a_lock(store: StoreUnderTest, task: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(10):
        while not await store.database.parts[0].read("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert not task.done(), "it waited for nothing"
            await asyncio.sleep(0.01)


class Paused:
    """Stops one who stores something, right after a statement and before the commit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
        self.is_there, self.go_on = asyncio.Event(), asyncio.Event()
        fetch = PostgresTransaction.fetch

        async def paused(transaction: PostgresTransaction, sql: str, *values: object) -> list[Any]:
            rows = await fetch(transaction, sql, *values)
            if sql.startswith(statement) and not self.is_there.is_set():
                self.is_there.set()
                await self.go_on.wait()
            return rows

        monkeypatch.setattr(PostgresTransaction, "fetch", paused)


@pytest.mark.parametrize("change", ["password", "disabled", "passkey"])
async def test_what_ends_all_sessions_ends_one_that_is_being_opened(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The password was right when it was compared; the device is stored in another database than the password changes in."""
    await spread_one.factors.add_passkey(passkey("key", ANA))
    paused = Paused(monkeypatch, "INSERT INTO devices")
    opening = asyncio.create_task(log_in(spread_one, ANA, "late", passkey="key"))
    await paused.is_there.wait()

    async def end() -> None:
        if change == "password":
            await spread_other.accounts.update_user(ANA, password_hash="new")
        elif change == "disabled":
            await spread_other.accounts.update_user(ANA, disabled_at=2)
        else:
            await spread_other.factors.clear_factors(ANA)
        await spread_other.accounts.revoke_devices(ANA, None, 2)

    ending = asyncio.create_task(end())
    await waits_for_a_lock(spread_other, ending)
    paused.go_on.set()
    await asyncio.gather(opening, ending)

    assert not await alive(spread_one, ANA, "late")
    assert not await log_in(spread_one, ANA, "later", passkey="key")


async def test_the_user_is_locked_until_the_device_is_stored(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest, second: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before the commit in the other database: what ends all sessions does not see the device yet."""
    commits, go_on = asyncio.Event(), asyncio.Event()
    execute = asyncpg.Connection.execute

    async def paused(connection: Any, sql: str, *rest: Any, **more: Any) -> Any:
        here = sql == "COMMIT" and not commits.is_set() and int(await connection.fetchval("SHOW port")) == second.port
        if here:
            commits.set()
            await go_on.wait()
        return await execute(connection, sql, *rest, **more)

    monkeypatch.setattr(asyncpg.Connection, "execute", paused)
    opening = asyncio.create_task(log_in(spread_one, ANA, "late"))
    await commits.wait()

    async def end() -> None:
        await spread_other.accounts.update_user(ANA, disabled_at=2)
        await spread_other.accounts.revoke_devices(ANA, None, 2)

    ending = asyncio.create_task(end())
    await waits_for_a_lock(spread_other, ending)
    go_on.set()
    await asyncio.gather(opening, ending)
    assert not await alive(spread_one, ANA, "late")


async def test_who_lost_the_lock_on_the_user_is_given_no_session(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the lock guarded may have changed: a device may be stored, of which nobody has the secret."""
    paused = Paused(monkeypatch, "INSERT INTO devices")
    opening = asyncio.create_task(log_in(spread_one, ANA, "late"))
    await paused.is_there.wait()
    idle = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    assert await spread_other.database.parts[0].read(idle) == [(True,)]
    await spread_other.accounts.update_user(ANA, password_hash="new")
    await spread_other.accounts.revoke_devices(ANA, None, 2)
    paused.go_on.set()

    with pytest.raises(Unavailable):
        await opening


async def test_a_code_opens_one_session_and_none_of_an_app_that_is_removed(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spread_one.oauth.add_app(AppRecord("app_1", "App", None, [], [], False, BOB, 1), EVENT)  # noqa: FBT003 - a record
    for code in ("h1", "h2"):
        await spread_one.oauth.add_code(CodeRecord(code, "app_1", ["profile"], 1_000, ANA, "", "", decision="yes"), 1, None)
    opened = await asyncio.gather(
        *(store.oauth.use_code("h1", scoped(f"{at}", ANA), EVENT) for at, store in enumerate((spread_one, spread_other)))
    )
    assert sorted(opened) == [False, True]
    for user in (BOB, ZOE):
        await spread_one.oauth.add_scoped_device(scoped(user, user), EVENT)
    paused = Paused(monkeypatch, "INSERT INTO devices")
    opening = asyncio.create_task(spread_one.oauth.use_code("h2", scoped("late", ANA), EVENT))
    await paused.is_there.wait()
    removing = asyncio.create_task(spread_other.oauth.remove_app("app_1", 9, EVENT))
    await waits_for_a_lock(spread_other, removing)
    paused.go_on.set()

    assert await opening
    ended = await removing
    assert ended is not None
    assert {user for user, _ in ended} == {ANA, BOB, ZOE}
    assert (ANA, "dev_late") in ended
    assert not await alive(spread_one, ANA, "late")
    assert await spread_one.value("SELECT count(*) FROM devices WHERE revoked_at IS NULL") == 0


async def test_without_shards_nothing_is_asked_more(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    spread_place = await asyncio.to_thread(Place, tmp_path, lambda: postgres)
    asked: list[str] = []

    def told(name: str) -> None:
        method = getattr(asyncpg.Connection, name)

        async def tell(connection: Any, sql: str, *rest: Any, **more: Any) -> Any:
            asked.append(sql.partition(" ")[0])
            return await method(connection, sql, *rest, **more)

        monkeypatch.setattr(asyncpg.Connection, name, tell)

    async with opened(spread_place) as store:
        await add_user(store, ANA)
        for name in ("execute", "fetch"):
            told(name)
        device = Device(id="dev_a", name="D", created_at=1, last_seen_at=1)
        assert await store.accounts.create_device(device, ANA, refresh_hash="r", refresh_family="f", password_hash="hash")
        assert asked == ["BEGIN", "SELECT", "INSERT", "COMMIT"]
        asked.clear()
        assert await store.accounts.session(user_id=ANA, device_id="dev_a", blocks=True) is not None
        assert await store.accounts.device_by_family("f") is not None
        assert asked == ["SELECT", "SELECT"]
        asked.clear()
        assert await store.accounts.rotate_refresh(ANA, "dev_a", "r", "s", 2, "")
        assert await store.accounts.revoke_devices(ANA, None, 3) == ["dev_a"]
        assert asked == ["BEGIN", "UPDATE", "COMMIT"] * 2


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_passkey_and_an_account_at_a_provider_are_of_one_user_over_all_databases(
    spread_one: StoreUnderTest, spread_other: StoreUnderTest
) -> None:
    users = list(zip((ANA, BOB, ZOE), (spread_one, spread_other, spread_one), strict=True))
    added = await asyncio.gather(*(store.factors.add_passkey(passkey("key", user)) for user, store in users))
    assert sorted(added) == [False, False, True]
    linked = await asyncio.gather(*(store.oauth.add_external(external(f"e{user}", user), EVENT) for user, store in users))
    assert sorted(linked) == [False, False, True]
    found, known = await spread_other.factors.passkey("key"), await spread_one.oauth.external("https://i", "s")
    assert found is not None
    assert known is not None
    assert (found.user_id, known.user_id) == (users[added.index(True)][0], users[linked.index(True)][0])
    mine = known.user_id
    twice = await asyncio.gather(*(spread_one.oauth.add_external(external(f"{at}", mine, "t"), EVENT) for at in range(3)))
    assert sorted(twice) == [False, False, True]
    assert await spread_one.oauth.remove_external(mine, f"{twice.index(True)}", EVENT)
    for user, store in users:
        assert not await store.factors.add_passkey(passkey("key", user))
        assert not await store.oauth.add_external(external(f"again{user}", user), EVENT)
    assert len(await records(spread_one)) == 3
    assert await spread_one.value("SELECT count(*) FROM passkeys") == await spread_one.value("SELECT count(*) FROM externals") == 1


async def test_whoever_was_interrupted_after_claiming_a_name_can_go_on_and_so_can_others(
    spread_one: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Unavailable

    for user in (ANA, ZOE):
        with monkeypatch.context() as patch:
            patch.setattr(SpreadUsers, "transactions", interrupted)
            for add in (
                spread_one.factors.add_passkey(passkey("key", ANA)),
                spread_one.oauth.add_external(external("e", ANA), EVENT),
            ):
                with pytest.raises(Unavailable):
                    await add
        assert await spread_one.value("SELECT count(*) FROM names WHERE kind <> 'username'") == 2
        assert await spread_one.factors.passkey("key") is None
        assert await spread_one.oauth.external("https://i", "s") is None
        assert await spread_one.factors.add_passkey(passkey("key", user))
        assert await spread_one.oauth.add_external(external("e", user), EVENT)
        assert not await spread_one.factors.add_passkey(passkey("key", BOB))
        assert not await spread_one.oauth.add_external(external("e2", BOB), EVENT)
        found = await spread_one.factors.passkey("key")
        assert found is not None
        assert found.user_id == user
        assert await spread_one.factors.remove_passkey(user, "key")
        assert await spread_one.oauth.remove_external(user, "e", EVENT)
    assert await spread_one.value("SELECT count(*) FROM names WHERE kind <> 'username'") == 0


async def test_an_account_at_a_provider_whose_unlinking_was_interrupted_opens_a_new_account(
    spread_one: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(SpreadUsers, "transactions", interrupted)
        with pytest.raises(Unavailable):
            await spread_one.oauth.add_external(external("e", ANA), EVENT)
    new = User(id="usr_new", username="new", display_name="New", role=Role.MEMBER)

    await spread_one.oauth.register_external(new, external("e", new.id), 1, EVENT)

    found = await spread_one.oauth.external("https://i", "s")
    assert found is not None
    assert found.user_id == new.id
    late = User(id="usr_late", username="late", display_name="Late", role=Role.MEMBER)
    with pytest.raises(Conflict):
        await spread_one.oauth.register_external(late, external("e3", late.id), 1, EVENT)
    assert await spread_one.accounts.account(user_id=late.id) is None


async def test_a_row_without_its_name_is_nobodys_way_in(spread_one: StoreUnderTest) -> None:
    """Two people lost their locks at once, or an account was not made to the end."""
    assert await spread_one.factors.add_passkey(passkey("key", BOB))
    for user in (ANA, ZOE):
        async with spread_one.database.users.transaction(user) as own:
            await own.execute("INSERT INTO passkeys VALUES ('key', ?, 'Key', ?, 0, 1, 0)", (user, b"thief"))
    found = await spread_one.factors.passkey("key")
    assert found is not None
    assert found.user_id == BOB
    neighbour = next(
        f"usr_n{number}" for number in range(20) if shards_of(spread_one).place_of(user_bucket_of(f"usr_n{number}")) == 0
    )
    async with spread_one.database.users.transaction(BOB) as own:
        await own.execute("UPDATE passkeys SET user_id = ? WHERE user_id = ?", (neighbour, BOB))
    assert await spread_one.factors.passkey("key") is None, "the name is Bob's, the row beside it is not"
    async with spread_one.database.users.transaction(BOB) as own:
        await own.execute("UPDATE passkeys SET user_id = ? WHERE user_id = ?", (BOB, neighbour))
    assert await spread_one.factors.remove_passkey(BOB, "key")
    assert await spread_one.factors.passkey("key") is None


async def test_registering_with_a_provider_can_be_repeated_wherever_it_ended(
    spread_one: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = asyncpg.Connection.execute
    first, spread_other = (
        next(
            f"usr_n{number}"
            for number in range(20)
            if shards_of(spread_one).place_of(user_bucket_of(f"usr_n{number}")) == spread_place
        )
        for spread_place in (1, 2)
    )
    user = User(id=first, username="new", display_name="New")

    for end in (1, 2):  # At the commit in the shard, or at the one at home, which comes after it.
        count = itertools.count(1)

        async def dying(connection: Any, sql: str, *rest: Any, end: int = end, count: Any = count, **more: Any) -> Any:
            if sql == "COMMIT" and next(count) == end:
                connection.terminate()
            return await commit(connection, sql, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "execute", dying)
            with pytest.raises(Unavailable):
                await spread_one.oauth.register_external(user, external("e1", user.id, "new"), 1, EVENT)
        assert await spread_one.oauth.external("https://i", "new") is None
        assert await spread_one.accounts.account(username="new") is None
    again = User(id=spread_other, username="new", display_name="New")
    await spread_one.oauth.register_external(again, external("e2", spread_other, "new"), 1, EVENT)
    found = await spread_one.oauth.external("https://i", "new")
    assert found is not None
    assert found.user_id == spread_other
    with pytest.raises(NameTaken):
        await spread_one.oauth.register_external(user, external("e3", user.id, "newer"), 1, EVENT)
    third = User(id=user.id, username="newer", display_name="New")
    with pytest.raises(Conflict):
        await spread_one.oauth.register_external(third, external("e3", user.id, "new"), 1, EVENT)
    assert await spread_one.accounts.account(username="newer") is None
    assert len(await records(spread_one)) == 1


# ── what is down ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_database_that_does_not_answer_ends_nobodys_session(spread_one: StoreUnderTest, third: Postgres) -> None:
    for user in (ANA, BOB, ZOE):
        assert await log_in(spread_one, user, user)
    assert await spread_one.accounts.revoke_devices(ZOE, f"dev_{ZOE}", 50) == [f"dev_{ZOE}"]
    assert await log_in(spread_one, ZOE, "again")
    await asyncio.to_thread(third.stop)
    try:
        for user in (ANA, BOB):
            assert await alive(spread_one, user, user)
            assert await spread_one.accounts.device_by_family(f"f{user}") is not None
            assert await spread_one.accounts.rotate_refresh(user, f"dev_{user}", f"r{user}", "next", 2, "")
        assert await spread_one.accounts.revoke_devices(ANA, None, 60) == [f"dev_{ANA}"]
        for asked in (
            spread_one.accounts.device_by_family("fagain"),
            spread_one.accounts.session(token_hash="t"),
            spread_one.accounts.session(user_id=ZOE, device_id="dev_again"),
            spread_one.accounts.rotate_refresh(ZOE, "dev_again", "ragain", "next", 2, ""),
            spread_one.accounts.revoke_devices(ZOE, None, 60),
            spread_one.accounts.every_block(),
            spread_one.accounts.update_user(ZOE, password_hash="new"),
            log_in(spread_one, ZOE, "more"),
        ):
            with pytest.raises(Unavailable):
                await asked
        account = await spread_one.accounts.account(user_id=ZOE)
        assert account is not None
        assert account.password_hash == "hash", "it would be changed, and her sessions would go on"
        assert await spread_one.accounts.update_user(ZOE, disabled_at=1)
        assert await spread_one.accounts.update_user(ZOE, enable=True)
        assert await spread_one.factors.ended_since(50) == [(ANA, f"dev_{ANA}")]
        assert await spread_one.factors.ended_since(70) == [(ANA, f"dev_{ANA}")], "until all answer, nothing is forgotten"
    finally:
        await asyncio.to_thread(third.start)
    async with asyncio.timeout(5):
        while True:
            with suppress(Unavailable):
                if await alive(spread_one, ZOE, "again"):
                    break
            await asyncio.sleep(0.02)
    assert sorted(await spread_one.factors.ended_since(70)) == [(ANA, f"dev_{ANA}"), (ZOE, f"dev_{ZOE}")]
    assert await spread_one.factors.ended_since(70) == []
