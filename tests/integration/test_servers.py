"""Two real servers on PostgreSQL and Redis, with people on both: they are one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from support.ports import free_port
from support.postgres import Postgres
from support.postgres import running as running_postgres
from support.redis import RedisNode, one_node
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment, wait_until
from support.waiting import until

BUS_KEY = "0123456789abcdef0123456789abcdef"
HEALED_S = 2.5
"""Two seconds, and what it takes to be told."""


class Person:
    """Somebody on one connection, who keeps everything as it came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Any] = []
        self.close_code = 0
        self._ids = itertools.count(1)
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for message in self.socket:
                self.frames += json.loads(message)
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code or 0

    async def ask(self, op: str, **fields: Any) -> Any:
        frame_id = f"c{next(self._ids)}"
        await self.socket.send(json.dumps([{"op": op, "id": frame_id, **fields}]))
        await until(lambda: self.answer(frame_id))
        found = self.answer(frame_id)
        assert found["op"] != "error", found
        return found.get("data", found)

    def answer(self, frame_id: str) -> Any:
        return next((each for each in self.frames if each.get("id") == frame_id), None)

    def seqs(self, room: str) -> list[int]:
        return [each["seq"] for each in self.frames if each["op"] == "event" and each["room"] == room]

    def bodies(self, room: str) -> list[str]:
        return [each["body"] for each in self.frames if each["op"] == "event" and each["room"] == room and "body" in each]

    def signals(self, kind: str) -> list[Any]:
        return [each for each in self.frames if each["op"] == "signal" and each["type"] == kind]

    async def close(self) -> None:
        await self.socket.close()
        await self._task


@contextlib.asynccontextmanager
async def connected(server: RunningServer, token: str) -> AsyncIterator[Person]:
    url = server.url.replace("http", "ws", 1) + "/gateway"
    async with connect(
        url, subprotocols=[Subprotocol("securechat.v1.clear")], compression=None, proxy=None, max_size=None
    ) as socket:
        person = Person(socket)
        await person.socket.send(json.dumps([{"op": "auth", "id": "auth", "token": token}]))
        await until(lambda: any(each["op"] in {"ready", "error"} for each in person.frames))
        assert any(each["op"] == "ready" for each in person.frames), person.frames
        try:
            yield person
        finally:
            await person.close()


class World:
    """Two servers, PostgreSQL, Redis; Ana, who owns everything, and others."""

    def __init__(self, folder: Path, postgres: Postgres, redis: RedisNode) -> None:
        self.postgres = postgres
        self.redis = redis
        self.settings = {
            "database_url": postgres.url(postgres.new_database()), "redis_url": redis.url, "bus_key": BUS_KEY,
        }  # fmt: skip
        self.one = RunningServer(folder / "one", settings=self.settings).start()
        shutil.copytree(self.one.data / "keys", folder / "two" / "keys")
        self.two = RunningServer(folder / "two", settings=self.settings).start()
        self._numbers = itertools.count(1)
        self.one.set_up("owner")

    def account(self) -> tuple[str, str]:
        """Make an account and sign it in on the first server; return (user id, token)."""
        name = f"user{next(self._numbers)}"
        user = self.one.operator().perform(c.UserCreate(username=name, password=Secret(PASSWORD))).user.id
        return user, str(self.one.post("/sessions", {"username": name, "password": PASSWORD})["access_token"])

    def room(self, *members: str) -> str:
        made = self.one.operator().perform(c.RoomCreate(name=f"room {next(self._numbers)}", kind="private", members=list(members)))
        return str(made.id)

    def remove(self, room: str, user: str) -> None:
        self.one.operator().perform(c.MemberRemove(room=room, user=user))

    def stop(self) -> None:
        for server in (self.one, self.two):
            server.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_postgres() as postgres, one_node() as redis:
        found = World(tmp_path_factory.mktemp("servers"), postgres, redis)
        yield found
        found.stop()


async def test_everybody_sees_one_order_wherever_they_are_and_whoever_commits(world: World) -> None:
    (ana, ana_token), (bob, bob_token) = world.account(), world.account()
    room = world.room(ana, bob)
    async with connected(world.one, ana_token) as one, connected(world.two, bob_token) as two:
        first = max(each["last_seq"] for each in next(f for f in one.frames if f["op"] == "ready")["rooms"])

        async def say(person: Person) -> None:
            for number in range(60):
                await person.ask("message.send", room=room, cmid=f"c{number}", body=f"{number}")

        await asyncio.gather(say(one), say(two))
        expected = list(range(first + 1, first + 121))
        await until(lambda: len(one.seqs(room)) >= 120 and len(two.seqs(room)) >= 120)
        assert one.seqs(room) == two.seqs(room) == expected
        assert one.bodies(room) == two.bodies(room)


async def test_joining_leaving_and_removal_hold_at_the_other_server(world: World) -> None:
    (ana, ana_token), (bob, bob_token) = world.account(), world.account()
    room = world.room(ana)
    async with connected(world.one, ana_token) as one, connected(world.two, bob_token) as two:
        await one.ask("message.send", room=room, cmid="c1", body="before")
        await one.ask("member.add", room=room, user=bob)
        await until(lambda: two.signals("room.opened"))
        await two.ask("message.send", room=room, cmid="c1", body="hello")
        await until(lambda: "hello" in one.bodies(room))
        await asyncio.to_thread(world.remove, room, bob)
        await until(lambda: two.signals("room.closed"))
        await one.ask("message.send", room=room, cmid="c2", body="secret")
        await one.ask("member.add", room=room, user=bob)
        await until(lambda: len(two.signals("room.opened")) == 2)
        await one.ask("message.send", room=room, cmid="c3", body="again")
        await until(lambda: "again" in two.bodies(room))
        assert two.bodies(room) == ["hello", "again"]
        await two.ask("room.leave", room=room)
        await until(lambda: any(each.get("type") == "member.left" for each in one.frames))


async def test_presence_typing_and_read_markers_travel(world: World) -> None:
    (ana, ana_token), (bob, bob_token) = world.account(), world.account()
    room = world.room(ana, bob)

    def seen(person: Person, user: str) -> str:
        return "".join(each["presence"].get(user, "") for each in person.signals("presence.changed"))

    async with connected(world.one, ana_token) as one, connected(world.two, ana_token) as other:
        async with connected(world.two, bob_token) as two:
            await until(lambda: seen(one, bob) == "online" and seen(other, bob) == "online")
            await until(lambda: seen(two, ana).startswith("online"))
            members = (await one.ask("member.list", room=room))["members"]
            assert {each["user"]["id"]: each["presence"] for each in members} == {ana: "online", bob: "online"}
            await two.ask("typing.start", room=room)
            await until(lambda: [each["user"] for each in one.signals("typing.started")] == [bob])
            sent = await two.ask("message.send", room=room, cmid="c1", body="read me")
            await one.ask("read.mark", room=room, seq=sent["seq"])
            await until(lambda: [each["read_seq"] for each in other.signals("read.updated")] == [sent["seq"]])
            assert not two.signals("read.updated")
        await until(lambda: seen(one, bob) == "onlineoffline" and seen(other, bob) == "onlineoffline")
    async with connected(world.two, bob_token) as two, connected(world.one, ana_token) as one:
        await until(lambda: seen(one, bob) == "online")  # It was there before: the first thing that is shown.


async def refused(person: Person, room: str) -> str:
    """Send until it is refused, as soon as the other server's word is here; return the code."""
    for number in range(200):
        frame = {"op": "message.send", "id": f"m{number}", "room": room, "cmid": f"m{number}", "body": "hi"}
        await person.socket.send(json.dumps([frame]))
        await until(partial(person.answer, frame["id"]))
        answer = person.answer(frame["id"])
        if answer["op"] == "error":
            return str(answer["code"])
    raise AssertionError("it was never refused")


async def test_a_session_that_is_ended_a_role_and_a_block_hold_everywhere_at_once(world: World) -> None:
    (ana, ana_token), (bob, bob_token) = world.account(), world.account()
    async with connected(world.two, ana_token) as two, connected(world.two, bob_token) as three:
        world.one.operator().perform(c.UserRole(user=ana, role="admin"))
        await until(lambda: two.signals("user.updated"))
        assert (await two.ask("invite.create", rooms=[], uses=1, expires_s=60))["code"]
        world.one.request("PUT", f"/blocks/{bob}", None, ana_token)
        direct = (await two.ask("room.direct", user=bob))["id"]
        await until(lambda: three.signals("room.opened"))
        assert await refused(three, direct) == "forbidden"
        began = time.monotonic()
        world.one.operator().perform(c.UserDisable(user=ana))
        await until(lambda: two.close_code == 4401)
        assert time.monotonic() - began < 1.0
        world.two.request("GET", "/me", None, ana_token, status=401)


@pytest.mark.timeout(180)
async def test_whatever_redis_does_everything_arrives_once_within_two_seconds(world: World) -> None:
    (ana, ana_token), (bob, bob_token), (eve, eve_token) = world.account(), world.account(), world.account()
    room = world.room(ana, bob)
    async with (
        connected(world.one, ana_token) as one,
        connected(world.two, bob_token) as two,
        connected(world.two, eve_token) as eve_s,
    ):
        sent: list[tuple[int, float]] = []
        late: list[float] = []
        stopping = asyncio.Event()

        async def talk() -> None:
            for number in itertools.count():
                if stopping.is_set():
                    return
                answer = await one.ask("message.send", room=room, cmid=f"c{number}", body=f"{number}")
                sent.append((answer["seq"], time.monotonic()))
                await asyncio.sleep(0.01)

        async def watch() -> None:
            place = 0
            while not stopping.is_set() or place < len(sent):
                if place < len(sent):
                    have = set(two.seqs(room)[-200:])
                    while place < len(sent) and sent[place][0] in have:
                        late.append(time.monotonic() - sent[place][1])
                        place += 1
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(talk()), asyncio.create_task(watch())]

        async def goes_on(more: int = 40) -> None:
            count = len(late)
            await until(lambda: len(late) > count + more, 20)

        await goes_on()
        await asyncio.to_thread(world.redis.ask, "FLUSHALL")
        await asyncio.to_thread(world.redis.ask, "CLIENT", "KILL", "TYPE", "pubsub")
        await goes_on()
        await asyncio.to_thread(world.redis.kill)
        await goes_on()
        assert _degraded(world.two) == ["redis"]
        assert _metric(world.two, "limits_shared") == 0
        # What happens while Redis is down is found in the database: also that somebody joined or was removed.
        began = time.monotonic()
        await one.ask("member.add", room=room, user=eve)
        await until(lambda: eve_s.signals("room.opened"))
        assert time.monotonic() - began < HEALED_S
        began = time.monotonic()
        await asyncio.to_thread(world.remove, room, eve)
        await until(lambda: eve_s.signals("room.closed"))
        assert time.monotonic() - began < HEALED_S
        await asyncio.to_thread(world.redis.start)
        await until(lambda: _degraded(world.two) == [] == _degraded(world.one))
        await goes_on()
        await until(lambda: _metric(world.two, "limits_shared") == 1)
        world.one.post("/sessions", {"username": "owner", "password": "wrong one"}, status=401)  # That is told at once.
        await until(lambda: world.redis.ask("KEYS", "{securechat:*}:limit:*"))
        await asyncio.to_thread(world.redis.pause)
        await goes_on(10)
        await asyncio.to_thread(world.redis.resume)
        await until(lambda: _degraded(world.two) == [] == _degraded(world.one))
        await goes_on()
        stopping.set()
        await asyncio.gather(*tasks)
        first = two.seqs(room)[0]
        assert two.seqs(room) == list(range(first, two.seqs(room)[-1] + 1)) == one.seqs(room)
        assert max(late) < HEALED_S, sorted(late)[-10:]


def _degraded(server: RunningServer) -> list[str]:
    return list(server.request("GET", "/../../readyz")["degraded"])


@pytest.mark.timeout(120)
def test_a_server_that_would_break_the_others_does_not_start(world: World, tmp_path: Path) -> None:
    alone = {"database_url": world.settings["database_url"]}
    assert "one of the two has no redis_url" in _refused(tmp_path / "alone", alone)
    shutil.copytree(world.one.data / "keys", tmp_path / "other" / "keys")
    (tmp_path / "other" / "keys" / "refresh-tokens.key").write_bytes(b"k" * 32)
    said = _refused(tmp_path / "other", world.settings)
    assert "keys of this server are not those of the others: refresh-tokens.key." in said


def _refused(data: Path, settings: dict[str, str], *flags: str) -> str:
    config = data.parent / "config.json"
    config.write_text(json.dumps({**settings, "port": free_port(), "http_port": free_port()}))
    command = [SECURECHAT, "serve", "--data", str(data), "--config", str(config), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=60, check=False)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.timeout(120)
def test_one_leads_and_when_it_ends_the_other_does(world: World) -> None:
    leads = [_metric(server, "bus_leads") for server in (world.one, world.two)]
    assert sorted(leads) == [0, 1]
    leader, other = (world.one, world.two) if leads[0] else (world.two, world.one)
    leader.stop()
    wait_until(lambda: _metric(other, "bus_leads") == 1 and _metric(other, "bus_servers") == 1, "the other one leads")
    leader.start()
    wait_until(lambda: _metric(other, "bus_servers") == _metric(leader, "bus_servers") == 2, "they hear each other")
    assert _metric(leader, "bus_leads") == 0


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_server_that_stops_tells_everybody_at_once_and_lets_them_go_a_few_at_a_time(world: World) -> None:
    people = 40
    room = world.room()
    tokens = [world.one.bot(f"leaving{number}", room) for number in range(people)]
    async with contextlib.AsyncExitStack() as stack:
        everybody = [await stack.enter_async_context(connected(world.two, token)) for token in tokens]
        told: dict[Person, float] = {}
        closed: dict[Person, float] = {}
        answered = 0

        async def talk(person: Person) -> None:
            nonlocal answered
            for number in itertools.count():
                frame = {"op": "message.send", "id": f"m{number}", "room": room, "cmid": f"m{number}", "body": "hi"}
                try:
                    await person.socket.send(json.dumps([frame]))
                except ConnectionClosed:
                    return
                await until(lambda frame_id=f"m{number}": person.answer(frame_id) or person.close_code)  # type: ignore[misc]
                answer = person.answer(f"m{number}")
                assert answer is None or answer["op"] == "reply", answer
                answered += answer is not None

        async def watch() -> None:
            while len(closed) < people:
                for person in everybody:
                    if person not in told and any(each["op"] == "drain" for each in person.frames[-50:]):
                        told[person] = time.monotonic()
                    if person not in closed and person.close_code:
                        closed[person] = time.monotonic()
                await asyncio.sleep(0.005)

        talking = [asyncio.create_task(talk(person)) for person in everybody[:10]]
        await until(lambda: answered > 20)
        began = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(world.two.stop))
        async with asyncio.timeout(15):
            await watch()
        assert await stopping == 0
        took = time.monotonic() - began
        await asyncio.gather(*talking)
    frames = [next(each for each in person.frames if each["op"] == "drain") for person in everybody]
    assert {person.close_code for person in everybody} == {4000}
    assert len(told) == people
    assert max(told.values()) - began < 1.0
    spread = max(closed.values()) - min(closed.values())
    print(
        f"told within {max(told.values()) - began:.2f} s, let go over {spread:.2f} s, ended after {took:.2f} s, {answered} answered"
    )
    assert 1.0 < spread < 3.0  # Twenty a second.
    assert {frame["within_ms"] for frame in frames} == {2_000}
    assert len({frame["after_ms"] for frame in frames}) > people / 2
    assert took < 8
    world.two.start()


@pytest.mark.timeout(120)
async def test_several_workers_on_one_port_are_one_server(world: World, tmp_path: Path) -> None:
    settings = {**world.settings, "database_url": world.postgres.url(world.postgres.new_database())}
    server = await asyncio.to_thread(RunningServer(tmp_path / "data", "--workers", "2", settings=settings).start)
    try:
        assert "workers 2" in server.banner
        assert server.process is not None
        wait_until((server.data / "admin-1.sock").exists, "the second worker is there")
        wait_until(
            lambda: _metric(server, "bus_servers") == _metric(server, "bus_servers", "admin-1.sock") == 2, "they hear each other"
        )
        room = server.room("ops")
        tokens = [server.bot(f"bot{number}", room) for number in range(12)]
        async with contextlib.AsyncExitStack() as stack:
            bots = [await stack.enter_async_context(connected(server, token)) for token in tokens]
            shares = [_metric(server, "connections", socket) for socket in ("admin.sock", "admin-1.sock")]
            assert sum(shares) == 12
            assert min(shares) > 0
            for number, bot in enumerate(bots):
                await bot.ask("message.send", room=room, cmid=f"c{number}", body=f"{number}")
            await until(lambda: all(len(bot.bodies(room)) == 12 for bot in bots))
            assert len({tuple(bot.seqs(room)[-12:]) for bot in bots}) == 1
            before = _children(server)
            os.kill(before[1], signal.SIGKILL)
            await until(lambda: len([bot for bot in bots if bot.close_code]) == shares[1])
            await until(lambda: len(now := _children(server)) == 2 and now[0] == before[0])
        wait_until(lambda: _answers(server, "admin-1.sock"), "the second worker is there again")
        children = _children(server)
        assert await asyncio.to_thread(server.stop) == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)
    finally:
        server.stop()
    alone = tmp_path / "alone"
    assert "--workers needs database_url and redis_url" in _refused(alone, {}, "--workers", "2")


def _children(server: RunningServer) -> list[int]:
    assert server.process is not None
    pid = server.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _answers(server: RunningServer, name: str) -> bool:
    """Return whether a worker is there, and hears the other. Its socket may be there before it, and go before it comes."""
    with socket.socket(socket.AF_UNIX) as trying:
        if trying.connect_ex(str(server.data / name)):
            return False
    try:
        return _metric(server, "bus_servers", name) == 2
    except httpx.TransportError:
        return False


def _metric(server: RunningServer, name: str, door: str = "admin.sock") -> float:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / door)), timeout=20) as http:
        text = http.get("http://admin/metrics").text
    found = re.search(rf"^securechat_{name} ([0-9.e+-]+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])
