"""A real server of whose databases one is down: what goes on, what is refused and how soon, how it shows, and that it heals."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from securechat.store.buckets import bucket_of, user_bucket_of
from support.postgres import Postgres, running
from support.running import SECURECHAT, RunningServer, clean_environment, wait_until_async
from support.stores import Place

RED_S = 2.0
BACK_S = 5.0


class World:
    """A server whose rooms are in two PostgreSQL servers, and a member of a room in each."""

    def __init__(self, folder: Path, home: Postgres, shard: Postgres) -> None:
        self.home, self.shard = home, shard
        place = asyncio.run(Place(folder, lambda: home).spread(shard))
        self.settings = {"database_url": home.url(place.name), "database_shards": place.shards}
        self.server = RunningServer(folder / "server", settings=self.settings).start()
        rooms: dict[bool, str] = {}
        while len(rooms) < 2:
            room = self.server.room(f"room {time.monotonic_ns()}")
            rooms.setdefault(bucket_of(room) % 2 == 0, room)
        self.at_home, self.at_shard = rooms[False], rooms[True]
        self.token = self._token()

    def _token(self) -> str:
        """Make a member of both rooms whose own rows are at home: what is at the shard is away with it."""
        for number in itertools.count():
            made = self.server.operator().perform(c.BotCreate(username=f"bot{number}", rooms=[self.at_home, self.at_shard]))
            if user_bucket_of(made.user.id) % 2:
                return str(made.token)
        raise AssertionError

    def ready(self) -> tuple[int, Any]:
        answer = httpx.get(f"{self.server.url}/readyz", trust_env=False, timeout=5)
        return answer.status_code, answer.json()

    def metric(self, name: str, dependency: str) -> float:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.server.data / "admin.sock")), timeout=20) as http:
            text = http.get("http://admin/metrics").text
        found = re.search(rf'^securechat_{name}{{dependency="{dependency}"}} ([0-9.]+)$', text, re.MULTILINE)
        assert found, text
        return float(found[1])

    def doctor(self) -> list[dict[str, str]]:
        command = [SECURECHAT, "doctor", "--json", "--data", str(self.server.data), "--config", str(self.server.config)]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False, timeout=60)
        found: list[dict[str, str]] = json.loads(done.stdout)
        return [each for each in found if each["name"] in {"database", "shard", "dependency"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running() as home, running() as shard:
        found = World(tmp_path_factory.mktemp("degraded"), home, shard)
        yield found
        found.server.stop()


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[ChatClient]:
    async with ChatClient(world.server.url, world.token, pins=PinStore(None)) as client:
        yield client


def send(world: World, room: str) -> tuple[int, Any, float]:
    began = time.monotonic()
    body = {"cmid": str(time.monotonic_ns()), "body": "hi"}
    answer = httpx.post(
        f"{world.server.url}/api/v1/rooms/{room}/messages", json=body, headers={"Authorization": f"Bearer {world.token}"},
        trust_env=False, timeout=20,
    )  # fmt: skip
    return answer.status_code, answer.json(), time.monotonic() - began


def rooms_of(world: World) -> Any:
    return world.server.request("GET", "/rooms", None, world.token)


@pytest.mark.alone
async def test_a_shard_that_is_down_takes_its_rooms_away_and_nothing_else(world: World) -> None:
    async with connected(world) as client:
        await client.rooms[world.at_shard].send("before")
        world.shard.stop(signal.SIGKILL)
        await wait_until_async(lambda: "database shard1" in world.ready()[1]["degraded"], "it shows", RED_S)
        status, told = world.ready()
        assert (status, told["ready"]) == (200, True)
        assert {name: each["state"] for name, each in told["dependencies"].items()} == {"database": "up", "database shard1": "down"}
        assert ":" not in told["dependencies"]["database shard1"]["reason"]  # No addresses for everybody.
        assert world.metric("breaker_state", "database shard1") > 0
        assert world.metric("breaker_opens_total", "database shard1") == 1
        found = await asyncio.to_thread(world.doctor)
        assert [each["state"] for each in found] == ["ok", "fail", "warn"], found
        assert "shard1" in found[1]["text"]

        status, problem, took = send(world, world.at_shard)
        assert (status, problem["code"], took < 1) == (503, "unavailable", True)
        assert problem["retry_after_ms"]
        assert send(world, world.at_home)[0] < 300
        listed = rooms_of(world)
        assert ([room["id"] for room in listed["rooms"]], listed["complete"]) == ([world.at_home], False)
        assert client.connects == 1  # Who is connected stays.
        async with connected(world) as late:
            assert set(late.rooms) == {world.at_home}
            waiting = asyncio.create_task(client.rooms[world.at_shard].send("meanwhile"))
            await asyncio.to_thread(world.shard.start)
            began = time.monotonic()
            await asyncio.wait_for(waiting, BACK_S)
            assert time.monotonic() - began < BACK_S
            await wait_until_async(lambda: set(late.rooms) == {world.at_home, world.at_shard}, "the rest comes")
            assert late.connects == 2
        assert client.connects == 1
        await wait_until_async(lambda: "database shard1" not in world.ready()[1]["degraded"], "it shows")
        assert rooms_of(world)["complete"]


@pytest.mark.alone
async def test_a_client_that_comes_again_keeps_the_rooms_that_cannot_be_had(world: World) -> None:
    async with connected(world) as client:
        await client.rooms[world.at_shard].send("before")
        seen = dict(client.seen)
        world.shard.stop(signal.SIGKILL)
        await wait_until_async(lambda: "database shard1" in world.ready()[1]["degraded"], "it shows", RED_S)
        assert client._transport is not None
        await client._transport.close()
        await wait_until_async(lambda: client.connects == 2, "it came again")
        assert set(client.rooms) == {world.at_home, world.at_shard}
        assert client.seen[world.at_shard] == seen[world.at_shard]
        await asyncio.to_thread(world.shard.start)
        await wait_until_async(lambda: client.connects == 3, "it was asked to come again")
        await client.rooms[world.at_shard].send("after")


@pytest.mark.alone
async def test_without_its_database_a_server_is_not_ready_lives_refuses_at_once_and_heals(world: World) -> None:
    async with connected(world) as client:
        with world.home.hanging():
            began = time.monotonic()
            await wait_until_async(lambda: world.ready()[0] == 503, "it is not ready", RED_S)
            assert time.monotonic() - began < RED_S
            assert httpx.get(f"{world.server.url}/healthz", trust_env=False, timeout=1).status_code == 200
            for _ in range(20):
                status, problem, took = send(world, world.at_home)
                assert (status, problem["code"], took < 0.5) == (503, "unavailable", True)
            assert world.ready()[1]["dependencies"]["database"]["state"] == "down"
            waiting = asyncio.create_task(client.rooms[world.at_home].send("meanwhile"))
            await asyncio.sleep(0)
        began = time.monotonic()
        await wait_until_async(lambda: world.ready()[0] == 200, "it is ready again", BACK_S)
        await asyncio.wait_for(waiting, BACK_S)
        print(f"back in {time.monotonic() - began:.2f} s")
        assert send(world, world.at_home)[0] < 300
        assert client.connects == 1
