"""Finding people, on each database: the store and the domain say the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from securechat.auth.accounts import AccountService
from securechat.bus.local import LocalBus
from securechat.domain.accounts import Role, User, fits
from securechat.domain.commands import BotCommand
from securechat.domain.entries import EntryType
from securechat.domain.ids import new_id
from support.logs import create, made, write
from support.stores import Place, StoreUnderTest

PEOPLE = [
    ("ana", "Ana Ruiz"),
    ("ana.ruiz-garcia", "Someone Else"),
    ("bob", "Bob van der Ana-Berg"),
    ("carol", "Carol 100% O'Neil"),
    ("dan_ruiz", "Čeněk Straße"),
    ("mariana", "Zoë ! Lee"),
]
FOUND = {
    "": ["ana", "ana.ruiz-garcia", "bob", "carol", "dan_ruiz", "mariana"],
    "ana": ["ana", "ana.ruiz-garcia", "bob"],
    "ruiz": ["ana", "ana.ruiz-garcia", "dan_ruiz"],
    "RUIZ AN": ["ana", "ana.ruiz-garcia"],
    "gar": ["ana.ruiz-garcia"],
    "der ber": ["bob"],
    "dan_ruiz": ["dan_ruiz"],
    "ana.": ["ana", "ana.ruiz-garcia", "bob"],
    "čen": ["dan_ruiz"],
    "strasse": ["dan_ruiz"],
    "100%": ["carol"],
    "%": [],
    "!": ["mariana"],
    "iana": [],
    "o'n": ["carol"],
    ". _": ["ana", "ana.ruiz-garcia", "bob", "carol", "dan_ruiz", "mariana"],
}


@pytest.fixture
async def stores(users_place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await users_place.open()
    yield found
    await found.database.close()


async def make_people(stores: StoreUnderTest) -> list[User]:
    people = [User(id=f"usr_{name}", username=name, display_name=shown) for name, shown in PEOPLE]
    for each in people:
        await stores.accounts.create_user(each, None, 1)
    return people


async def test_people_are_found_by_the_beginning_of_any_word_of_their_names(stores: StoreUnderTest) -> None:
    people = await make_people(stores)
    for query, names in FOUND.items():
        found = await stores.accounts.find_users(query=query, limit=10)
        assert [user.username for user in found] == names, query
        assert [user.username for user in people if fits(user, query)] == names, query


async def test_who_has_exactly_this_username_comes_first(stores: StoreUnderTest) -> None:
    await make_people(stores)
    await stores.accounts.create_user(User(id="usr_aa", username="aa", display_name="Mariana Bob"), None, 1)

    assert [user.username for user in await stores.accounts.find_users(query="mariana", limit=2)] == ["mariana", "aa"]
    assert [user.username for user in await stores.accounts.find_users(query="bob", limit=1)] == ["bob"]


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_everybody_is_listed_page_by_page(stores: StoreUnderTest, limit: int) -> None:
    await make_people(stores)
    names: list[str] = []
    while page := await stores.accounts.find_users(after=names[-1] if names else "", limit=limit):
        names += [user.username for user in page]

    assert names == sorted(name for name, _ in PEOPLE)


async def test_blocks_that_other_servers_changed_are_read_again_also_those_that_ended(stores: StoreUnderTest) -> None:
    await make_people(stores)
    for user, blocked in (("usr_ana", "usr_bob"), ("usr_ana", "usr_carol"), ("usr_bob", "usr_ana")):
        await stores.accounts.set_block(user, blocked, on=True)
    here, anything = LocalBus(), cast("Any", None)
    service = AccountService(
        stores.accounts, anything, anything, here, anything, new_id, anything, str, lambda: False, anything
    )  # fmt: skip
    await service.load()
    assert service.is_blocked("usr_ana", "usr_bob")
    assert service.is_blocked("usr_bob", "usr_ana")
    await stores.accounts.set_block("usr_bob", "usr_ana", on=False)
    await stores.accounts.set_block("usr_ana", "usr_bob", on=False)
    await service.load()

    assert not service.is_blocked("usr_ana", "usr_bob")
    assert not service.is_blocked("usr_bob", "usr_ana")
    assert service.is_blocked("usr_ana", "usr_carol")


async def test_what_a_locked_bot_answered_to_is_not_offered_until_it_is_unlocked(stores: StoreUnderTest) -> None:
    for name in ("roller", "poller"):
        await stores.accounts.create_user(User(id=f"usr_{name}", username=name, display_name=name, role=Role.BOT), None, 1)
        await stores.accounts.set_commands(f"usr_{name}", [BotCommand(name=name[:4], description="d")])
    await create(stores, "rm_a")
    joined = [
        made("rm_a", 3 + place, EntryType.MEMBER_JOINED, member=f"usr_{name}", role="member")
        for place, name in enumerate(("roller", "poller"))
    ]
    await write(stores, *joined)

    async def offered() -> list[str]:
        return [each.name for each in await stores.accounts.commands("rm_a")]

    assert await offered() == ["poll", "roll"]
    await stores.accounts.update_user("usr_roller", disabled_at=5)
    assert await offered() == ["poll"]
    await stores.accounts.update_user("usr_roller", enable=True)
    assert await offered() == ["poll", "roll"]
