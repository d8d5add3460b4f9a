from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from securechat.store.buckets import bucket_of, user_bucket_of
from support.logs import create, opened
from support.postgres import Postgres, running
from support.spread_people import PEOPLE, add_user
from support.stores import Place, StoreUnderTest


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for all contract tests, each with a database of its own."""
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def second() -> Iterator[Postgres]:
    """Another server, for rooms."""
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def third() -> Iterator[Postgres]:
    """And another one."""
    with running() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a store is kept, on each database."""
    return place_on(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("shards", marks=pytest.mark.slow)])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """As `place`, and on two servers of which the second one has the rooms that the tests make: for what is about rooms."""
    return place_on(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("spread", marks=pytest.mark.slow)])
def users_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """As `place`, and on three servers, none of which has all users that the tests make: for what is about users."""
    return place_on(request, tmp_path)


@pytest.fixture
async def one(place: Place) -> AsyncIterator[StoreUnderTest]:
    """The store of a server, with a room."""
    async with opened(place) as store:
        await create(store)
        yield store


@pytest.fixture
async def other(place: Place, one: StoreUnderTest) -> AsyncIterator[StoreUnderTest]:
    """That of another server, on the same database."""
    async with opened(place) as store:
        yield store


@pytest.fixture
async def spread_place(tmp_path: Path, postgres: Postgres, second: Postgres, third: Postgres) -> Place:
    """Three servers of PostgreSQL; each has another one of `PEOPLE`."""
    found = await asyncio.to_thread(Place, tmp_path, lambda: postgres)
    return await found.spread(second, third)


@pytest.fixture
async def spread_one(spread_place: Place) -> AsyncIterator[StoreUnderTest]:
    """As `one`, with these people."""
    assert [(user_bucket_of(user) + 1) % 3 for user in PEOPLE] == [1, 0, 2]
    async with opened(spread_place) as store:
        for user in PEOPLE:
            await add_user(store, user)
        yield store


@pytest.fixture
async def spread_other(spread_place: Place, spread_one: StoreUnderTest) -> AsyncIterator[StoreUnderTest]:
    """As `other`."""
    async with opened(spread_place) as store:
        yield store


def place_on(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return where a store is kept, as the parameter says."""
    if request.param == "sqlite":
        return Place(folder, None)
    found = Place(folder, lambda: request.getfixturevalue("postgres"))
    if request.param == "shards":
        assert bucket_of("rm_1") % 2 == 0
        asyncio.run(found.spread(request.getfixturevalue("second")))
    if request.param == "spread":
        assert [(user_bucket_of(user) + 1) % 3 for user in ("usr_ana", "usr_bob")] == [1, 0]
        asyncio.run(found.spread(request.getfixturevalue("second"), request.getfixturevalue("third")))
    return found
