"""What every `FactorStore` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from securechat.domain.accounts import Device, Role, User
from securechat.domain.ports import FactorStore, PasskeyRecord, TotpRecord
from support.stores import Place, StoreUnderTest

ANA, BOB = "usr_ana", "usr_bob"


@pytest.fixture
async def stores(users_place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await users_place.open()
    yield found
    await found.database.close()


@pytest.fixture
def store(stores: StoreUnderTest) -> FactorStore:
    return stores.factors


def passkey(passkey_id: str, user_id: str, at: int) -> PasskeyRecord:
    return PasskeyRecord(passkey_id, user_id, "Key", b"\x00cose", 0, at, 0)


async def test_there_is_one_authenticator_app_per_user(store: FactorStore) -> None:
    assert await store.totp(ANA) is None
    assert await store.set_totp(ANA, b"sealed", 7, 1)
    assert not await store.set_totp(ANA, b"other", 8, 2)
    assert await store.totp(ANA) == TotpRecord(b"sealed", 7)
    assert await store.totp(BOB) is None
    assert await store.remove_totp(ANA)
    assert not await store.remove_totp(ANA)


async def test_a_step_moves_forward_only_and_for_one_of_many(store: FactorStore) -> None:
    await store.set_totp(ANA, b"sealed", 7, 1)

    assert not await store.use_totp(ANA, 7)
    assert sorted(await asyncio.gather(*(store.use_totp(ANA, 8) for _ in range(5)))) == [False] * 4 + [True]
    assert not await store.use_totp(ANA, 6)
    assert not await store.use_totp(BOB, 9)


async def test_passkeys_have_one_id_and_one_owner(store: FactorStore) -> None:
    assert await store.add_passkey(passkey("a", ANA, 1))
    assert await store.add_passkey(passkey("b", ANA, 2))
    assert not await store.add_passkey(passkey("a", BOB, 3))
    assert [each.id for each in await store.passkeys(ANA)] == ["b", "a"]
    assert await store.passkey("a") == passkey("a", ANA, 1)
    assert await store.passkey("c") is None
    assert not await store.remove_passkey(BOB, "a")
    assert await store.remove_passkey(ANA, "a")
    assert await store.passkeys(BOB) == []


async def test_a_use_is_noted_if_nobody_else_noted_one(store: FactorStore) -> None:
    await store.add_passkey(passkey("a", ANA, 1))

    assert sorted(await asyncio.gather(*(store.use_passkey(ANA, "a", 0, 5, 9) for _ in range(4)))) == [False] * 3 + [True]
    found = await store.passkey("a")
    assert found is not None
    assert (found.sign_count, found.last_used_at) == (5, 9)
    assert not await store.use_passkey(BOB, "a", 5, 6, 10)
    assert await store.use_passkey(ANA, "a", 5, 6, 10)


async def test_a_recovery_code_is_taken_once_and_by_its_owner(store: FactorStore) -> None:
    await store.set_recovery_codes(ANA, ["x", "y"])

    assert not await store.use_recovery_code(BOB, "x")
    assert sorted(await asyncio.gather(*(store.use_recovery_code(ANA, "x") for _ in range(4)))) == [False] * 3 + [True]
    assert await store.count_recovery_codes(ANA) == 1
    await store.set_recovery_codes(ANA, ["z"])
    assert not await store.use_recovery_code(ANA, "y")
    assert await store.count_recovery_codes(ANA) == 1


async def test_a_factor_is_an_app_or_a_passkey_and_clearing_takes_all(store: FactorStore) -> None:
    await store.set_recovery_codes(ANA, ["x"])
    assert not await store.has_factor(ANA)
    await store.add_passkey(passkey("a", ANA, 1))
    assert await store.has_factor(ANA)
    await store.set_totp(ANA, b"sealed", 7, 1)
    await store.set_totp(BOB, b"sealed", 7, 1)
    await store.clear_factors(ANA)
    assert not await store.has_factor(ANA)
    assert (await store.totp(ANA), await store.passkeys(ANA), await store.count_recovery_codes(ANA)) == (None, [], 0)
    assert await store.has_factor(BOB)


async def test_who_logged_in_is_confirmed_and_ended_sessions_are_found(store: FactorStore, stores: StoreUnderTest) -> None:
    accounts = stores.accounts
    await accounts.create_user(User(id=ANA, username="ana", display_name="Ana", role=Role.MEMBER), None, 1)
    for name, refresh in (("dev_a", "hash a"), ("dev_b", "hash b"), ("dev_bot", None)):
        await accounts.create_device(Device(id=name, name="D", created_at=100, last_seen_at=100), ANA, refresh_hash=refresh)

    assert [await store.confirmed_at(ANA, name) for name in ("dev_a", "dev_bot", "dev_x")] == [100, 0, 0]
    await store.confirm(ANA, "dev_a", 200)
    assert [await store.confirmed_at(ANA, name) for name in ("dev_a", "dev_b")] == [200, 100]
    assert await accounts.revoke_devices(ANA, None, 300, keep="dev_a") == ["dev_b", "dev_bot"]
    assert sorted(await store.ended_since(300)) == [(ANA, "dev_b"), (ANA, "dev_bot")]
    assert await store.ended_since(301) == []
