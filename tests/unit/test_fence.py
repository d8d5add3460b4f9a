"""After a standstill nobody is told anything, and nothing is done, until it is known who may still be here."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fuzz.sockets import Server
from securechat.domain.commands import Done, Fetch
from securechat.domain.entries import Entry, EntryType
from securechat.gateway import gateway
from securechat.gateway.connection import ClientConnection
from securechat.gateway.fence import STILL_MS, Fence
from securechat.gateway.standing import ENDED_MS, Standing
from securechat.protocol.codec import Block
from support.fakes import ManualClock, principal
from unit.test_connection import Socket

STILL_S = STILL_MS / 1_000
BLOCK = Block([Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=1, at=1, user="usr_bob", body="a secret")])


class World(Server):
    """A server whose fence the test shuts."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.fence = Fence(self.clock)
        self.done: list[str] = []

    def stand_still(self) -> None:
        self.clock.forward(STILL_S + 1)

    def mark(self, connection: ClientConnection) -> None:
        self.fence.check()
        connection.flush()

    def dispatch(self, _who: Any, command: Any, _address: str, done: Any) -> None:
        self.done.append(command.room)
        done(Done())

    def detach(self, *_values: object) -> None:
        """Nobody was attached."""


class Line(Socket):
    """Also notes whether it is read."""

    reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def connection(world: World) -> ClientConnection:
    found = ClientConnection(world, "192.0.2.1")
    found.on_ws_connected(cast("Any", Line()))
    found.principal = principal("ana")
    found._socket.written.clear()
    return found


async def test_it_shuts_by_itself_and_opens_once_somebody_looked_after_the_last_standstill() -> None:
    clock = ManualClock()
    fence = Fence(clock)
    clock.forward(STILL_S)
    assert not fence.check()
    clock.forward(0.1)
    assert fence.check()
    first = await fence.shut(60)
    clock.forward(STILL_S + 1)
    assert fence.check()

    assert not fence.looked(first), "it stood still again while somebody looked"
    assert fence.check()
    assert fence.looked(await fence.shut(60))
    assert not fence.check()
    await fence.opened()
    assert await fence.shut(0) == 0
    assert not fence.looked(0)


async def test_who_beats_is_not_shut_and_a_beat_after_a_standstill_shuts() -> None:
    clock = ManualClock()
    fence = Fence(clock)
    beating = asyncio.create_task(fence.beat())
    await asyncio.sleep(0)
    clock.forward(STILL_S + 1)
    fence._beat()
    clock.forward(0.1)
    assert fence.check()
    beating.cancel()


async def test_nothing_is_told_until_it_is_open(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    connection.push(BLOCK)
    connection.push_ephemeral(BLOCK)
    page = asyncio.create_task(connection._write(b"a page of history"))
    await asyncio.sleep(0)
    assert bytes(connection._socket.written) == b""

    world.fence.looked(await world.fence.shut(60))
    connection.go_on()
    await page
    assert bytes(connection._socket.written).count(b"a secret") == 2
    assert bytes(connection._socket.written).endswith(b"a page of history")


async def test_who_is_sent_away_meanwhile_was_not_told(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    connection.push(BLOCK)
    page = asyncio.create_task(connection._write(b"a page of history"))
    await asyncio.sleep(0)
    connection.close(4401, "session ended")
    world.fence.looked(await world.fence.shut(60))
    connection.go_on()
    await page
    assert bytes(connection._socket.written) == b""
    assert connection._socket.closed_with == 4401


async def test_too_much_for_the_queue_is_not_told_either(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    large = Block([Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=1, at=1, user="usr_bob", body="s" * 60_000)])
    for _ in range(40):
        connection.push(large)
    assert bytes(connection._socket.written) == b""
    assert connection._socket.closed_with == 4008


async def test_what_is_asked_waits_in_its_order_and_is_not_done_for_who_is_sent_away(
    world: World, connection: ClientConnection
) -> None:
    world.stand_still()
    for room in ("1", "2"):
        connection._conversation.take(Fetch(id=room, room=room))
    assert (world.done, connection._socket.reads, connection.idle) == ([], False, False)
    world.fence.looked(await world.fence.shut(60))
    connection._conversation.take(Fetch(id="3", room="3"))  # From the same bytes: behind the others.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (world.done, connection._socket.reads, connection.idle) == (["1", "2", "3"], True, True)

    world.stand_still()
    connection._conversation.take(Fetch(id="4", room="4"))
    connection.close(4401, "session ended")
    world.fence.looked(await world.fence.shut(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.done == ["1", "2", "3"]


class Store:
    """Says who ended, or never answers; and everybody is sure at once."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.did: list[str] = []

    async def look(self) -> None:
        self.did.append("look")
        if not self.answers:
            await asyncio.Event().wait()

    async def sure(self) -> None:
        self.did.append("sure")


@pytest.mark.parametrize("answers", [True, False])
async def test_it_opens_when_the_store_has_answered_and_after_a_time_if_it_does_not(
    world: World, connection: ClientConnection, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    store = Store(answers=answers)
    monkeypatch.setattr(gateway, "SHUT_S", 0.01)
    server = gateway.Gateway.__new__(gateway.Gateway)
    server.fence, server.connections, server.standing = world.fence, world.connections, cast("Any", store)
    server._hub = cast("Any", SimpleNamespace(follower=store))
    world.stand_still()
    connection.push(BLOCK)
    await server._look_behind(await world.fence.shut(60))

    assert store.did == (["look", "sure"] if answers else ["look"])
    assert b"a secret" in bytes(connection._socket.written)


async def test_sessions_that_ended_while_the_machine_slept_are_looked_for() -> None:
    clock, asked = ManualClock(), []

    async def ended(since_ms: int) -> list[tuple[str, str]]:
        asked.append(clock.now_ms() - since_ms)
        return []

    nobody = cast("Any", None)
    standing = Standing(nobody, nobody, nobody, ended, clock)
    await standing._close_ended()
    clock.ms += 3_600_000  # Time of day only: other clocks stand still with the machine.
    await standing._close_ended()
    clock.ms -= 7_200_000
    await standing._close_ended()
    assert asked == [ENDED_MS, ENDED_MS + 3_600_000, ENDED_MS]
