"""Blocks in memory: what was changed elsewhere, or is not known since a command failed, holds here in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from securechat.auth.accounts import AccountService
from securechat.domain.ports import BLOCKS
from securechat.errors import Unavailable
from securechat.server.supervision import Supervisor
from support.waiting import until

SOON_S = 3.0


class Store:
    def __init__(self) -> None:
        self.stored: dict[str, list[str]] = {}
        self.failures: list[Exception] = []

    async def blocks(self, user_id: str) -> list[str]:
        if self.failures:
            raise self.failures.pop()
        return self.stored.get(user_id, [])

    async def every_block(self) -> dict[str, list[str]]:
        return self.stored

    async def setting(self, _key: str) -> str:
        return "SecureChat"

    async def set_block(self, user_id: str, blocked: str, *, on: bool) -> None:
        assert on
        self.stored.setdefault(user_id, []).append(blocked)


class Bus:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.heard: dict[str, Callable[[str], None]] = {}

    def on_stale(self, kind: str, hear: Callable[[str], None]) -> None:
        self.heard[kind] = hear

    def invalidate(self, kind: str, key: str) -> None:
        self.told.append((kind, key))


class World:
    def __init__(self) -> None:
        self.store, self.bus, nothing = Store(), Bus(), cast("Any", MagicMock())
        self.accounts = AccountService(
            cast("Any", self.store), nothing, nothing, cast("Any", self.bus), nothing, nothing, nothing, nothing, nothing, nothing
        )

    async def holds(self) -> None:
        await until(lambda: self.accounts.is_blocked("ana", "eve"), SOON_S)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    found = World()
    supervisor = Supervisor(lambda *_: None)
    supervisor.supervise("blocks", found.accounts.keep_fresh)
    yield found
    supervisor.cancel()


@pytest.mark.parametrize("failure", [Unavailable("away", retry_after_ms=1), OSError("could not open file")], ids=["known", "raw"])
async def test_a_block_that_could_not_be_read_once_is_read_soon(world: World, failure: Exception) -> None:
    world.bus.heard[BLOCKS]("")  # All are read again: the next time that all are is a while away.
    await asyncio.sleep(0.15)
    world.store.stored["ana"] = ["eve"]
    world.store.failures = [failure]
    world.bus.heard[BLOCKS]("ana")

    await world.holds()


async def test_a_block_that_is_stored_and_cannot_be_read_back_is_told_and_holds(world: World) -> None:
    world.store.failures = [Unavailable("away", retry_after_ms=1)]
    with pytest.raises(Unavailable):
        await world.accounts._set_block("ana", "eve", on=True)

    assert world.bus.told == [(BLOCKS, "ana")]
    await world.holds()
