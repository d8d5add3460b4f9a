"""Rooms move between three PostgreSQL servers while people talk, and whoever moves them is killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

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
    buckets = [str(bucket_of(room)) for room in world.rooms]
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
        if kill % 2:
            await move(to)
    await move("west")
    await world.acknowledges(50)
    assert (await operator.db("status")).count("up to date") == 3
    assert "as before" in await operator.db("migrate")
    listed = {each["name"]: each for each in json.loads(await operator.run("list", "--json"))}
    assert set(map(int, buckets)) == set(listed["west"]["buckets"])
    await world.quiet()
    await world.leave()
    await world.server.terminate(15)

    rows = await read_rows(databases)
    assert_none(checker.check(world.history.records(), rows))
    places = [{row[0] for row in await read_all(url, "SELECT id FROM rooms")} for url in databases.values()]
    assert set(world.rooms) <= places[2]
    assert sum(map(len, places)) == len(set().union(*places))
    refused = sum(record.op == "send" and record.phase == "fail" for record in world.history.records())
    print(f"{KILLS} kills, {world.history.acknowledged} acknowledged, {refused} refused, pauses of {sorted(pauses)} ms")


def _objects(text: str) -> list[str]:
    """Cut what `--json` printed, one object after the other."""
    found, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        found.append(rest[:end])
        rest = rest[end:].strip()
    return found
