"""After a standstill nobody is told anything, and nothing is done, until it is known who may still be here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fuzz.sockets import Server
from securechat.domain.accounts import Role, User
from securechat.domain.commands import Done, Fetch
from securechat.domain.entries import Entry, EntryType
from securechat.domain.limits import LIMITS
from securechat.domain.ports import Signal, Typing
from securechat.domain.secret import Secret
from securechat.gateway import gateway
from securechat.gateway.connection import ClientConnection
from securechat.gateway.fence import STILL_MS, Fence
from securechat.gateway.hub import Hub
from securechat.gateway.session import Known
from securechat.gateway.standing import ENDED_MS, Standing
from securechat.gateway.writer import TurnWriter
from securechat.protocol.codec import Block
from securechat.protocol.frames import Auth, SignalFrame
from support.fakes import ManualClock, principal
from support.running import wait_until_async
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


async def until(condition: Callable[[], bool]) -> None:
    await wait_until_async(condition, "the condition", 5)


async def test_who_beats_is_not_shut_and_a_beat_after_a_standstill_shuts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    fence = Fence(clock)
    monkeypatch.setattr("securechat.gateway.fence.BEAT_S", 0.001)
    clock.forward(STILL_S + 1)  # The server is not there yet.
    beating = asyncio.create_task(fence.beat())
    for _ in range(5):
        clock.forward(STILL_S - 0.1)
        await until(lambda: fence._beat_at == clock.ms)
    assert not fence.check()

    clock.forward(STILL_S + 1)
    assert await fence.shut(60) == 1
    clock.forward(0.1)
    assert fence.check()
    beating.cancel()


async def test_nothing_is_told_until_it_is_open(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    connection.push(BLOCK)
    connection.push_ephemeral(Block([SignalFrame(type="typing.started", room="rm_1", user="usr_bob")]))
    page = asyncio.create_task(connection._write(b"a page of history"))
    await asyncio.sleep(0)
    assert bytes(connection._socket.written) == b""

    world.fence.looked(await world.fence.shut(60))
    connection.go_on()
    await page
    assert b"a secret" in bytes(connection._socket.written)
    assert b"typing" not in bytes(connection._socket.written)
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


class Looks:
    """Stands for `Standing` and the sequencer: says who was asked, and answers when it may."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.answers = asyncio.Event()

    def roles_changed(self, _user_id: str) -> None:
        self.did.append("roles")

    async def look(self) -> None:
        self.did.append("look")
        await self.answers.wait()

    async def sure(self) -> None:
        self.did.append("sure")


def server_of(world: World, standing: Any, hub: Any) -> gateway.Gateway:
    """Return as much of a gateway as looks who may be here."""
    server = gateway.Gateway.__new__(gateway.Gateway)
    server.fence, server.connections, server.standing, server._hub = world.fence, world.connections, standing, hub
    server._log_store = cast("Any", SimpleNamespace(whole=False))
    return server


@pytest.mark.parametrize("answers", [True, False])
async def test_it_opens_when_the_store_has_answered_and_after_a_time_if_it_does_not(
    world: World, connection: ClientConnection, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    looks = Looks()
    if answers:
        looks.answers.set()
    monkeypatch.setattr(gateway, "SHUT_S", 0.01)
    world.stand_still()
    connection.push(BLOCK)
    await server_of(world, looks, SimpleNamespace(follower=looks))._look_behind(await world.fence.shut(60))

    assert looks.did == ["roles", "look", "sure"]
    assert b"a secret" in bytes(connection._socket.written)


async def test_a_look_that_is_under_way_makes_way_for_the_one_that_opens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "STANDING_S", 0.0)
    looks = Looks()
    watching = asyncio.create_task(server_of(world, looks, SimpleNamespace(follower=None)).watch_standing())
    await until(lambda: looks.did == ["look"])
    world.stand_still()
    assert world.fence.check()
    await until(lambda: looks.did == ["look", "roles", "look"])
    looks.answers.set()
    await until(lambda: not world.fence.is_shut)
    watching.cancel()


async def test_a_look_that_breaks_is_told(world: World) -> None:
    async def look() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await server_of(world, SimpleNamespace(look=look), None)._look_ahead()


class Accounts:
    """Everybody is a guest by now."""

    async def users(self, ids: list[str]) -> list[User]:
        return [User(id=each, username="ana", display_name="Ana", role=Role.GUEST) for each in ids]


@pytest.fixture
async def hub(world: World, connection: ClientConnection) -> Hub:
    """A hub, with a writer, and the connection in a room of it."""
    loop = asyncio.get_running_loop()
    found = Hub(loop, world.counters)
    found.attach(connection, "usr_ana", {"rm_1": 0})
    world.mark = TurnWriter(loop, world.fence).mark  # type: ignore[method-assign]
    world.detach = found.detach  # type: ignore[method-assign, assignment]
    return found


async def test_who_has_no_session_any_more_hears_nothing_and_who_has_another_role_has_it_first(
    world: World, connection: ClientConnection, hub: Hub
) -> None:
    gone: list[tuple[str, str]] = []

    async def ended(_since_ms: int) -> list[tuple[str, str]]:
        return gone

    server = server_of(world, Standing(hub, cast("Any", None), cast("Any", Accounts()), ended, world.clock), hub)
    world.stand_still()
    connection.push(BLOCK)
    await until(lambda: world.fence.is_shut)  # By the writer.
    await server._look_behind(await world.fence.shut(60))
    assert connection.principal is not None
    assert connection.principal.role is Role.GUEST
    await until(lambda: b"a secret" in bytes(connection._socket.written))

    connection._socket.written.clear()
    gone.append(("usr_ana", connection.principal.device_id))
    world.stand_still()
    connection.push(BLOCK)
    await until(lambda: world.fence.is_shut)
    await server._look_behind(await world.fence.shut(60))
    await until(lambda: connection._socket.closed_with == 4401)
    assert bytes(connection._socket.written) == b""


async def test_who_was_removed_from_a_room_does_not_hear_who_was_typing_in_it(
    world: World, connection: ClientConnection, hub: Hub
) -> None:
    world.stand_still()
    hub.show(Signal(Typing("rm_1", "usr_bob"), room="rm_1", ephemeral=True))
    await until(lambda: world.fence.is_shut)
    hub.expel("usr_ana", "rm_1")
    world.fence.looked(await world.fence.shut(60))
    connection.go_on()
    await until(lambda: b"room.closed" in bytes(connection._socket.written))
    assert b"typing" not in bytes(connection._socket.written)


async def test_it_shuts_again_before_anybody_went_on(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    connection._conversation.take(Fetch(id="1", room="1"))
    page = asyncio.create_task(connection._write(b"a page of history"))
    await asyncio.sleep(0)
    world.fence.looked(await world.fence.shut(60))
    world.stand_still()
    await asyncio.sleep(0.01)
    assert (world.done, connection._socket.reads, bytes(connection._socket.written)) == ([], False, b"")
    world.fence.looked(await world.fence.shut(60))
    await page
    await until(lambda: world.done == ["1"] and connection._socket.reads)


class Arriving(World):
    """Lets somebody in when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def ready(self, known: Known) -> Any:
        await self.may.wait()
        return await super().ready(known)


@pytest.mark.parametrize("ended", [False, True])
async def test_what_came_behind_auth_keeps_its_order_and_is_not_done_for_who_is_sent_away(*, ended: bool) -> None:
    world = Arriving()
    connection = ClientConnection(world, "192.0.2.1")
    connection.on_ws_connected(cast("Any", Line()))
    for frame in (Auth(id="a", token=Secret("t")), Fetch(id="1", room="1")):
        connection._conversation.take(frame)
    await asyncio.sleep(0.01)
    world.stand_still()
    world.may.set()
    await until(lambda: connection.principal is not None)
    connection._conversation.take(Fetch(id="2", room="2"))
    if ended:
        connection.close(4401, "session ended")
    world.fence.looked(await world.fence.shut(60))
    connection.go_on()
    await asyncio.sleep(0.01)

    assert world.done == ([] if ended else ["1", "2"])
    written = bytes(connection._socket.written)
    assert written.find(b'"hello"') >= 0
    assert (b'"ready"' in written) is not ended


async def test_who_sends_as_much_as_one_may_is_not_sent_away_for_it(world: World, connection: ClientConnection) -> None:
    world.stand_still()
    numbers = [str(number) for number in range(3 * LIMITS.frames_per_message)]  # From one read, which was large before.
    for number in numbers:
        connection._conversation.take(Fetch(id=number, room=number))
    world.fence.looked(await world.fence.shut(60))
    await until(lambda: world.done == numbers)


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
