"""Rooms and users move between three PostgreSQL servers while people talk and show their tokens; whoever moves them is killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import httpx2 as httpx
import pytest

from securechat.rest.routes import BASE
from securechat.store.buckets import bucket_of
from securechat.store.copying import copy_database
from securechat.store.postgres import read_all
from securechat.store.shards import HOME
from support import checker
from support.checker import Row
from support.fault_world import World, assert_none
from support.history import digest
from support.postgres import Postgres, running
from support.server_process import CONFIG

SHARDS = ("east", "west")
KILLS = 8
TOKENS = 2


@pytest.fixture(scope="module")
def databases() -> Iterator[dict[str, str]]:
    """Name → address of an empty database on a server of its own."""
    with ExitStack() as stack:
        servers: dict[str, Postgres] = {name: stack.enter_context(running()) for name in (HOME, *SHARDS)}
        yield {name: server.url(server.new_database()) for name, server in servers.items()}


class Operator:
    """`securechat db shards` in a process of its own."""

    def __init__(self, world: World, databases: dict[str, str]) -> None:
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("SECURECHAT_")} | {
            "SECURECHAT_DATABASE_URL": databases[HOME],
            "SECURECHAT_DATABASE_SHARDS": json.dumps({name: databases[name] for name in SHARDS}),
            "SECURECHAT_DATA_DIR": str(world.server.root),
        }

    async def begin(self, *arguments: str, group: Sequence[str] = ("shards",)) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "securechat", "db", *group, *arguments, env=self._environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def run(self, *arguments: str) -> str:
        return await self._end(await self.begin(*arguments))

    async def db(self, *arguments: str) -> str:
        return await self._end(await self.begin(*arguments, group=()))

    async def _end(self, process: asyncio.subprocess.Process) -> str:
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()


class Tokens:
    """Shows the tokens of some accounts all the time, each of them in another bucket."""

    def __init__(self, world: World) -> None:
        self._url = f"https://localhost:{world.server.port}{BASE}/me"
        self._verify = world.tls()
        self.bots = [world.bot(number) for number in range(TOKENS)]
        self.statuses: Counter[int] = Counter()
        self._stop = asyncio.Event()

    async def show(self) -> None:
        async with httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=20) as client:
            while not self._stop.is_set():
                for bot in self.bots:
                    answer = await client.get(self._url, headers={"Authorization": f"Bearer {bot.token}"})
                    self.statuses[answer.status_code] += 1

    async def until(self, more: int) -> None:
        goal = self.statuses.total() + more
        async with asyncio.timeout(30):
            while self.statuses.total() < goal:
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()


async def read_rows(databases: dict[str, str]) -> list[Row]:
    sql = "SELECT room_id, seq, type, user_id, cmid, body, extra::json->>'member' FROM entries"
    found = [row for url in databases.values() for row in await read_all(url, sql)]
    return [
        Row(room, seq, kind, user, cmid or "", digest(body), member or "")
        for room, seq, kind, user, cmid, body, member in sorted(found, key=lambda row: row[:2])
    ]


@pytest.mark.alone
@pytest.mark.timeout(240)
async def test_rooms_move_under_load_and_the_mover_is_killed(world: World, databases: dict[str, str]) -> None:
    operator = Operator(world, databases)
    await copy_database(world.server.database, databases[HOME])
    world.server.database.rename(world.folder / "away.db")
    shards = {name: databases[name] for name in SHARDS}
    world.server._config.write_text(json.dumps(CONFIG | {"database_url": databases[HOME], "database_shards": shards}))
    for name in SHARDS:
        assert name in await operator.run("add", name)
    await world.start(talkers=4, listeners=1, readers=1)
    tokens = Tokens(world)
    showing = asyncio.create_task(tokens.show())
    buckets = [str(bucket_of(each)) for each in (*world.rooms, *(bot.user for bot in tokens.bots))]
    pauses: list[int] = []

    async def move(to: str) -> None:
        told = await operator.run("move", "--to", to, *[part for each in buckets for part in ("--bucket", each)], "--json")
        found = [json.loads(each) for each in _objects(told)]
        assert {each["target"] for each in found} == {to}
        pauses.extend(each["pause_ms"] for each in found if "pause_ms" in each)

    for kill in range(KILLS):
        to = (*SHARDS, HOME)[kill % 3]
        await world.acknowledges(30)
        process = await operator.begin("move", "--to", to, "--bucket", buckets[kill % len(buckets)])
        await asyncio.wait({asyncio.create_task(process.wait())}, timeout=world.rng.uniform(0.6, 2.0))
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await world.acknowledges(30)
        await tokens.until(10)
        if kill % 2:
            await move(to)
    await move("west")
    await world.acknowledges(50)
    assert (await operator.db("status")).count("up to date") == 3
    assert "as before" in await operator.db("migrate")
    listed = {each["name"]: each for each in json.loads(await operator.run("list", "--json"))}
    assert set(map(int, buckets)) == set(listed["west"]["buckets"]) == set(listed["west"]["user_buckets"])
    assert listed["west"]["users"] >= TOKENS
    tokens.stop()
    await showing
    await world.quiet()
    await world.leave()
    await world.server.terminate(15)

    rows = await read_rows(databases)
    assert_none(checker.check(world.history.records(), rows))
    places = [{row[0] for row in await read_all(url, "SELECT id FROM rooms")} for url in databases.values()]
    assert set(world.rooms) <= places[2]
    assert sum(map(len, places)) == len(set().union(*places))
    assert tokens.statuses.keys() <= {200, 503}, "a token that holds did not"
    assert tokens.statuses[200] > 100
    devices = [{row[0] for row in await read_all(url, "SELECT id FROM devices")} for url in databases.values()]
    assert sum(map(len, devices)) == len(set().union(*devices))
    refused = sum(record.op == "send" and record.phase == "fail" for record in world.history.records())
    print(
        f"{KILLS} kills, {world.history.acknowledged} acknowledged, {refused} refused, pauses of {sorted(pauses)} ms, {tokens.statuses}"
    )


def _objects(text: str) -> list[str]:
    """Cut what `--json` printed, one object after the other."""
    found, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        found.append(rest[:end])
        rest = rest[end:].strip()
    return found
