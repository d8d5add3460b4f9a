"""What every `OAuthStore` promises, and what a migration does to sessions that were there before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from securechat.domain.accounts import Device, User
from securechat.domain.audit import AuditEvent
from securechat.domain.ports import AppRecord, CodeRecord, ExternalRecord, PasskeyRecord, ScopedDevice
from securechat.errors import Conflict, NameTaken
from securechat.store.migrate import HEAD, current, migrate
from securechat.store.oauth import KEPT_MS
from support.stores import Place, StoreUnderTest

ANA, BOB = "usr_ana", "usr_bob"
EVENT = AuditEvent(action="test.event")
APP = AppRecord("app_1", "Poll bot", None, ["https://app.example/"], ["profile"], False, ANA, 1)  # noqa: FBT003 - a record
CODE = CodeRecord("h1", APP.id, ["profile"], 1_000, ANA, "https://app.example/", "challenge", decision="yes")


@pytest.fixture
async def stores(users_place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await users_place.open()
    yield found
    await found.database.close()


async def add_user(stores: StoreUnderTest, user_id: str, password: str | None = "hash") -> None:
    await stores.accounts.create_user(User(id=user_id, username=user_id[4:], display_name="x"), password, 1)


async def recorded(stores: StoreUnderTest) -> int:
    return await stores.value("SELECT coalesce(max(n), 0) FROM audit")


def external(external_id: str, user_id: str = ANA, subject: str = "s", issuer: str = "https://i") -> ExternalRecord:
    return ExternalRecord(external_id, user_id, issuer, subject, "name", 1, 0)


def device(device_id: str, user_id: str = ANA, app: str = APP.id) -> ScopedDevice:
    return ScopedDevice(
        device_id, user_id, "Poll bot", app, ["profile"], 5, 5, refresh_hash=f"r{device_id}", refresh_family=f"f{device_id}"
    )


async def test_an_account_at_a_provider_opens_one_account(stores: StoreUnderTest) -> None:
    await add_user(stores, ANA)
    assert await stores.oauth.add_external(external("e1"), EVENT)
    assert await recorded(stores) == 1
    assert not await stores.oauth.add_external(external("e2", BOB), EVENT)
    assert await recorded(stores) == 1, "what did not happen is not remembered"
    assert await stores.oauth.add_external(external("e3", BOB, issuer="https://j"), EVENT)

    found = await stores.oauth.external("https://i", "s")
    assert found is not None
    assert found.user_id == ANA
    assert await stores.oauth.external("https://i", "S") is None
    await stores.oauth.use_external(ANA, "e1", 9)
    assert [each.last_used_at for each in await stores.oauth.externals(ANA)] == [9]


async def test_registering_adds_account_and_link_or_neither(stores: StoreUnderTest) -> None:
    await add_user(stores, BOB)
    ana = User(id=ANA, username="ana", display_name="Ana")
    await stores.oauth.register_external(ana, external("e1"), 1, EVENT)
    with pytest.raises(NameTaken):
        await stores.oauth.register_external(replace_user("usr_x", "bob"), external("e2", "usr_x", "t"), 1, EVENT)
    with pytest.raises(Conflict):
        await stores.oauth.register_external(replace_user("usr_y", "yan"), external("e3", "usr_y"), 1, EVENT)

    assert await recorded(stores) == 1
    assert await stores.accounts.account(user_id="usr_y") is None
    assert await stores.oauth.external("https://i", "t") is None


def replace_user(user_id: str, name: str) -> User:
    return User(id=user_id, username=name, display_name=name)


async def test_the_last_way_in_stays(stores: StoreUnderTest) -> None:
    await add_user(stores, ANA, None)
    await stores.oauth.add_external(external("e1"), EVENT)
    await stores.oauth.add_external(external("e2", subject="t"), EVENT)
    assert await stores.oauth.count_ways_in(ANA) == 2
    removed = await asyncio.gather(*(stores.oauth.remove_external(ANA, each, EVENT) for each in ("e1", "e2")))

    assert sorted(removed) == [False, True]
    await stores.factors.add_passkey(PasskeyRecord("p", ANA, "Key", b"c", 0, 1, 0))
    (left,) = await stores.oauth.externals(ANA)
    assert not await stores.oauth.remove_external(BOB, left.id, EVENT), "another's"
    assert await stores.oauth.remove_external(ANA, left.id, EVENT)


async def test_a_code_is_used_once_and_its_session_comes_with_it(stores: StoreUnderTest) -> None:
    await add_user(stores, ANA)
    await stores.oauth.add_app(APP, EVENT)
    await stores.oauth.add_code(CODE, 1, EVENT)
    before = await recorded(stores)
    used = await asyncio.gather(*(stores.oauth.use_code("h1", device(f"d{number}"), EVENT) for number in range(4)))

    assert sorted(used) == [False, False, False, True]
    assert await recorded(stores) == before + 1
    (session,) = await stores.oauth.scoped_devices(ANA)
    code = await stores.oauth.code("h1")
    assert code is not None
    assert (code.used_at, code.device_id) == (5, session.id)
    known = await stores.accounts.device(session.id)
    assert known is not None
    assert (known.app, known.scopes) == (APP.id, frozenset({"profile"}))
    assert await stores.accounts.devices(ANA) == [], "an app is not listed among one's devices"


async def test_codes_that_ended_long_ago_are_forgotten(stores: StoreUnderTest) -> None:
    await stores.oauth.add_code(CODE, 1, None)
    await stores.oauth.add_code(replace(CODE, hash="h2"), CODE.expires_at + KEPT_MS, None)
    assert await stores.oauth.code("h1") is not None
    await stores.oauth.add_code(replace(CODE, hash="h3"), CODE.expires_at + KEPT_MS + 1, None)
    assert await stores.oauth.code("h1") is None


async def test_a_device_waits_for_one_decision(stores: StoreUnderTest) -> None:
    waiting = replace(CODE, user_id="", decision="", user_code="typed", redirect_uri="", challenge="")
    await stores.oauth.add_code(waiting, 1, None)
    await stores.oauth.add_code(replace(CODE, hash="h2"), 1, None)
    assert await stores.oauth.waiting_code("typed", 1_000) is None, "it ended"
    assert await stores.oauth.waiting_code("", 1) is None
    assert (await stores.oauth.waiting_code("typed", 999)) == waiting
    await stores.oauth.poll_code("h1", 7)
    decided = await asyncio.gather(*(stores.oauth.decide_code("h1", ANA, approve=yes, event=EVENT) for yes in (True, False)))

    assert sorted(decided) == [False, True]
    found = await stores.oauth.code("h1")
    assert found is not None
    assert (found.decision, found.user_id, found.polled_at) == ("yes" if decided[0] else "no", ANA, 7)
    assert await stores.oauth.waiting_code("typed", 1) is None


async def test_ending_an_app_ends_its_sessions_only(stores: StoreUnderTest) -> None:
    for user in (ANA, BOB):
        await add_user(stores, user)
        await stores.accounts.create_device(
            Device(id=f"own_{user}", name="x", created_at=1, last_seen_at=1), user, refresh_hash="r"
        )
    await stores.oauth.add_app(APP, EVENT)
    for user, name in ((ANA, "a1"), (ANA, "a2"), (BOB, "b1")):
        await stores.oauth.add_scoped_device(device(name, user), EVENT)
    await stores.oauth.add_scoped_device(device("a3", app="app_2"), EVENT)
    await stores.oauth.add_scoped_device(replace(device("a4", app=""), token_hash="t", expires_at=9), EVENT)

    assert sorted(await stores.oauth.end_app(ANA, APP.id, 8, EVENT)) == ["a1", "a2"]
    before = await recorded(stores)
    assert await stores.oauth.end_app(ANA, APP.id, 8, EVENT) == []
    assert await recorded(stores) == before
    assert await stores.oauth.remove_app(APP.id, 8, EVENT) == [(BOB, "b1")]
    assert await stores.oauth.remove_app(APP.id, 8, EVENT) is None
    assert await stores.oauth.apps() == []
    left = await stores.oauth.scoped_devices(ANA)
    assert {each.id: (each.app, each.expires_at) for each in left} == {"a3": ("app_2", None), "a4": ("", 9)}
    assert len(await stores.accounts.devices(ANA)) == len(await stores.accounts.devices(BOB)) == 1


async def test_sessions_from_before_stay_a_persons_own(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    migrate(place.path, "0006")
    old = apsw.Connection(str(place.path))
    old.execute(
        "INSERT INTO users (id, username, display_name, name_key, role, password_hash, created_at) VALUES ('usr_ana', 'ana', 'Ana', 'ana', 'owner', 'h', 1)"
    )
    old.execute(
        "INSERT INTO devices (id, user_id, name, address, created_at, last_seen_at, refreshed_at, refresh_family, refresh_hash) VALUES ('dev_1', 'usr_ana', 'x', '', 1, 1, 1, 'f', 'r')"
    )
    old.close()
    found = await place.open()

    assert current(place.path) == HEAD
    device_ = await found.accounts.device_by_family("f")
    assert device_ is not None
    assert (device_.app, device_.scopes, device_.expires_at) == (None, None, None)
    assert [each.id for each in await found.accounts.devices(ANA)] == ["dev_1"]
    await found.database.close()
