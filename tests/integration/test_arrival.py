"""A client that comes while things happen: the store may wait between any two of its answers, and nothing is missed or heard too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, STRANGER
from securechat.domain.secret import Secret
from securechat.errors import Forbidden, Unavailable
from securechat.protocol.frames import CloseCode
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import LoginRequired
from securechat.server.wiring import Parts
from support.in_process import serving
from support.raw_socket import RawSocket
from support.running import PASSWORD


class World:
    """A server in this process, whose store waits where a test says."""

    def __init__(self, parts: Parts, port: int) -> None:
        self.parts = parts
        self.url = f"http://localhost:{port}"
        self.perform = parts.dispatcher.perform
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def bot(self, name: str, *rooms: str) -> tuple[str, str]:
        found = await self.perform(OPERATOR, c.BotCreate(username=name, rooms=list(rooms)), "")
        return found.user.id, found.token

    async def room(self, name: str) -> str:
        return str((await self.perform(OPERATOR, c.RoomCreate(name=name, kind="public"), "")).id)

    def wait_after(self, owner: Any, name: str) -> None:
        """Let the next answer of a method be known to the store, and to nobody else until the test says so."""
        original = getattr(owner, name)

        async def waits(*arguments: Any, **more: Any) -> Any:
            found = await original(*arguments, **more)
            setattr(owner, name, original)
            self.reached.set()
            await self.go_on.wait()
            return found

        setattr(owner, name, waits)

    async def arrive(self, token: str, meanwhile: Callable[[], Awaitable[Any]]) -> ChatClient:
        """Connect, and do something while the server reads what `ready` will say."""
        client = ChatClient(self.url, token)
        coming = asyncio.create_task(client.__aenter__())
        await asyncio.wait_for(self.reached.wait(), 5)
        await meanwhile()
        self.go_on.set()
        await asyncio.wait_for(coming, 5)
        return client


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path / "data") as (parts, port):
        yield World(parts, port)


async def heard(client: ChatClient, count: int) -> list[str]:
    """Return the next texts."""
    found: list[str] = []
    events = client.events()
    while len(found) < count:
        body = getattr(await asyncio.wait_for(anext(events), 5), "body", None)
        found += [] if body is None else [str(body)]
    return found


async def test_what_is_said_while_the_rooms_are_read_is_heard(world: World) -> None:
    room = await world.room("ops")
    _, token = await world.bot("one", room)
    _, other = await world.bot("two", room)
    async with ChatClient(world.url, other) as speaker:
        world.wait_after(world.parts.gateway._log_store, "heads")
        client = await world.arrive(token, lambda: speaker.rooms[room].send("meanwhile"))
        await speaker.rooms[room].send("after")

        assert await heard(client, 2) == ["meanwhile", "after"]
        await client.__aexit__(None, None, None)


async def test_who_is_removed_while_the_rooms_are_read_hears_nothing_that_is_said_after_it(world: World) -> None:
    room = await world.room("ops")
    bot, token = await world.bot("one", room)
    _, other = await world.bot("two", room)
    async with ChatClient(world.url, other) as speaker:

        async def meanwhile() -> None:
            await world.perform(OPERATOR, c.MemberRemove(room=room, user=bot), "")
            await speaker.rooms[room].send("secret")

        world.wait_after(world.parts.gateway._log_store, "heads")
        client = await world.arrive(token, meanwhile)
        await speaker.rooms[room].send("secret")
        (connection,) = world.parts.hub.connections_of(bot)

        assert connection not in world.parts.hub._rooms[room]
        await client.__aexit__(None, None, None)


async def test_who_is_brought_into_a_room_meanwhile_hears_it(world: World) -> None:
    room = await world.room("ops")
    bot, token = await world.bot("one")
    _, other = await world.bot("two", room)
    async with ChatClient(world.url, other) as speaker:

        async def meanwhile() -> None:
            await world.perform(OPERATOR, c.MemberAdd(room=room, user=bot), "")
            await speaker.rooms[room].send("hello")

        world.wait_after(world.parts.gateway._log_store, "heads")
        client = await world.arrive(token, meanwhile)
        assert await heard(client, 1) == ["hello"]
        await client.__aexit__(None, None, None)


Meanwhile = Callable[[World, str, str], Awaitable[Any]]


async def ended(world: World, user: str, _device: str) -> None:
    await world.perform(OPERATOR, c.BotRotate(user=user), "")


async def ended_elsewhere(world: World, _user: str, device: str) -> None:
    """As another server on the same database would: nobody tells this one."""
    await world.parts.auth._accounts.revoke_devices(_user, device, int(time.time() * 1_000))


@pytest.mark.parametrize(
    ("end", "owner", "method"),
    [
        (ended, "auth", "holder"), (ended_elsewhere, "auth", "holder"), (ended, "auth", "session"), (ended, "log_store", "heads"),
    ],
)  # fmt: skip
async def test_040_a_session_that_ends_while_its_client_comes_in_is_not_let_in(
    world: World, end: Meanwhile, owner: str, method: str
) -> None:
    room = await world.room("ops")
    bot, token = await world.bot("one", room)
    (device,) = await world.parts.auth._accounts.devices(bot)
    world.wait_after(getattr(world.parts.gateway, f"_{owner}"), method)
    client = ChatClient(world.url, token)
    coming = asyncio.create_task(client.start())
    await asyncio.wait_for(world.reached.wait(), 5)
    await end(world, bot, device.id)
    world.go_on.set()

    with pytest.raises(LoginRequired):
        await asyncio.wait_for(coming, 5)
    assert world.parts.hub.connections_of(bot) == []
    await client.close()


@pytest.mark.parametrize(("owner", "method"), [("auth", "holder"), ("auth", "session"), ("log_store", "heads")])
async def test_070_a_role_that_changes_while_its_owner_comes_in_holds_from_the_start(world: World, owner: str, method: str) -> None:
    await world.perform(OPERATOR, c.UserCreate(username="chief", role="admin", password=Secret(PASSWORD)), "")
    session = await world.perform(STRANGER, c.SessionCreate(username="chief", password=Secret(PASSWORD)), "127.0.0.1")
    world.wait_after(getattr(world.parts.gateway, f"_{owner}"), method)

    async def meanwhile() -> None:
        await world.perform(OPERATOR, c.UserRole(user=session.user.id, role="guest"), "")

    client = await world.arrive(session.access_token, meanwhile)
    with pytest.raises(Forbidden):
        await client.call(c.UserList())
    await client.__aexit__(None, None, None)


async def test_who_catches_up_while_the_store_refuses_comes_back_for_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await world.room("ops")
    _, token = await world.bot("one", room)
    _, other = await world.bot("two", room)
    async with ChatClient(world.url, other) as speaker:
        for text in ("a", "b", "c"):
            await speaker.rooms[room].send(text)
        store = world.parts.gateway._log_store
        page, refusals = store.page, [Unavailable("The disk is full.", retry_after_ms=1)]

        async def refuses(*arguments: Any, **more: Any) -> Any:
            if refusals:
                raise refusals.pop()
            return await page(*arguments, **more)

        monkeypatch.setattr(store, "page", refuses)
        raw = await RawSocket.open(int(world.url.rpartition(":")[2]))
        assert (await raw.authenticate(token, {room: 0}))["op"] == "ready"
        assert await raw.closed(5) == CloseCode.OVERLOADED
        raw.end()
        await raw.gone()
        refusals.append(Unavailable("The disk is full.", retry_after_ms=1))
        async with ChatClient(world.url, token, resume={room: 0}) as client:
            assert await heard(client, 3) == ["a", "b", "c"]
            assert (await client.rooms[room].send("d")).seq
        assert not refusals
