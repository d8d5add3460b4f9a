"""F6, F17, F18: full disks, no file descriptors left, little memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from support.cluster_load import FULL, Load
from support.cluster_verdict import STORE_AWAY, judge, readings, tell_latency
from support.cluster_world import Cluster
from support.fault_report import FaultReport
from support.postgres import Postgres
from support.redis import RedisNode
from support.server_process import TESTS, eventually_async
from support.small_disk import fill, in_group, little_memory, small_disk

pytestmark = [pytest.mark.alone, pytest.mark.faults, pytest.mark.timeout(300)]
FEW: Final = Load(30, 8, 30)


@pytest.fixture
def small_postgres() -> Iterator[Postgres]:
    # Not below pytest's folder, which PostgreSQL's own user may not enter.
    with tempfile.TemporaryDirectory(prefix="sc-disk-") as place, small_disk(Path(place), mode="0777") as disk:
        folder = disk / "pg"
        folder.mkdir()
        found = Postgres(folder)
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
async def on_small_disk(tmp_path: Path, small_postgres: Postgres, redis: RedisNode) -> AsyncIterator[Cluster]:
    (tmp_path / "run").mkdir()
    made = Cluster(tmp_path / "run", "small disk", small_postgres, redis, FEW)
    try:
        yield made
    finally:
        try:
            await made.leave()
        finally:
            made.clean_up()


async def test_f6_postgresql_has_no_disk_left(on_small_disk: Cluster, fault: FaultReport) -> None:
    """The disk of PostgreSQL is full for 10 s"""
    cluster = on_small_disk
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(4)
    before = await readings(cluster)
    cluster.refusing()
    disk = cluster.postgres.folder.parent
    filler = await asyncio.to_thread(fill, disk)
    # What is on the disk already may be written over: sends go on until more is needed.
    answers = -1

    async def stands_still() -> bool:
        nonlocal answers
        now, answers_then = cluster.history.acknowledged, answers
        answers = now
        await asyncio.sleep(2)
        return answers_then == now

    await eventually_async(stands_still, 60, "the disk is full")
    stored = cluster.history.acknowledged
    refused_audit = await _is_refused(cluster, "bot.revoke", user=cluster.victims[2].user)
    alive = [(await each.process.answers("/healthz"))[0] for each in cluster.servers]
    ready = [(await each.process.answers("/readyz"))[0] for each in cluster.servers]
    await cluster.for_a_while(5)
    acknowledged = cluster.history.acknowledged - stored
    filler.unlink()
    freed = time.monotonic()
    restarted = not cluster.postgres.runs
    if restarted:
        await asyncio.to_thread(cluster.postgres.start)
    await cluster.acknowledges(1, 60)
    recovered = time.monotonic() - freed
    timing = await judge(cluster, fault, before, expected=("disk", "space", *STORE_AWAY))
    fault.told("acknowledged, and stored, in what room was left", acknowledged)  # I1 says that it is.
    fault.at_least("servers alive", alive.count(200), 2)
    fault.told("servers ready", ready.count(200))
    fault.at_least("act without a record refused", float(refused_audit), 1)
    fault.at_most("first acknowledgement after", recovered, 15.0, "s")
    fault.told("PostgreSQL had to be started again", float(restarted))
    fault.told("refused for now", timing.refused)
    fault.conclude()


async def _is_refused(cluster: Cluster, op: str, **fields: str) -> bool:
    try:
        await cluster.servers[0].process.ask(op, **fields)
    except AssertionError as refused:
        return "unavailable" in str(refused)
    return False


async def test_f6_logs_have_no_disk_left(cluster: Cluster, fault: FaultReport) -> None:
    """The disk with the data folder of one server, its logs and checkpoints, is full for 10 s"""
    with small_disk(cluster.folder / "server1", mib=8, mode="0700") as disk:
        await cluster.start()
        cluster.talk.start()
        await cluster.for_a_while(3)
        before = await readings(cluster)
        filler = await asyncio.to_thread(fill, disk)
        answers = cluster.history.acknowledged
        for _ in range(20):
            await cluster.servers[1].process.answers("/api/v1/nothing")
        await cluster.for_a_while(10)
        went_on = cluster.history.acknowledged - answers
        alive = (await cluster.servers[1].process.answers("/healthz"))[0]
        filler.unlink()
        timing = await judge(cluster, fault, before, expected=("space", "Logging error", "No space"))
        fault.at_least("acknowledged meanwhile", went_on, 100)
        fault.at_least("alive", float(alive == 200), 1)
        fault.at_most("refused", timing.refused, 0)
        tell_latency(fault, timing)
        fault.conclude()
        cluster.clean_up()


@pytest.mark.parametrize("cluster", [{"load": FEW}], indirect=True, ids=["256"])
async def test_f17_no_file_descriptors_left(cluster: Cluster, fault: FaultReport) -> None:
    """One server may open few files, and more connections come than that"""
    await cluster.start(prefix=["prlimit", "--nofile=256"])
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    one = cluster.servers[0].process
    strangers = []
    log = one.output.stat().st_size
    cpu, began = one.cpu_s(), time.monotonic()
    acknowledged = cluster.history.acknowledged
    for _ in range(400):
        plain = socket.socket()
        plain.setblocking(False)  # noqa: FBT003 - the name of the argument is nobody's to give
        with contextlib.suppress(BlockingIOError):
            plain.connect(("127.0.0.1", one.http_port))
        strangers.append(plain)
    await cluster.for_a_while(6)
    used = (one.cpu_s() - cpu) / (time.monotonic() - began)
    lines = (one.output.read_bytes()[log:]).count(b"\n")
    health, _ = await one.answers("/healthz")
    went_on = cluster.history.acknowledged - acknowledged
    for plain in strangers:
        plain.close()
    closed = time.monotonic()

    async def accepts() -> bool:
        return (await one.answers("/healthz"))[0] == 200

    await eventually_async(accepts, 20, "it takes connections again")
    again = time.monotonic() - closed
    timing = await judge(cluster, fault, before, expected=("open files",))
    fault.at_most("CPU", 100 * used, 60, "% of a core")
    fault.at_most("lines in the log", lines, 30)
    fault.at_least("answers /healthz meanwhile", float(health == 200), 1)
    fault.at_least("acknowledged meanwhile", went_on, 60)
    fault.at_most("takes connections after", again, 2.0, "s")
    fault.at_most("refused", timing.refused, 0)
    fault.conclude()


@pytest.fixture
def group() -> Iterator[Path]:
    with little_memory(f"securechat-{os.getpid()}", 256) as made:
        yield made


async def test_f18_little_memory_and_a_flood(group: Path, cluster: Cluster, fault: FaultReport) -> None:
    """Both servers together have 256 MiB, and one gets a flood of garbage and noise"""
    cluster.settings["rates"] = {}
    await cluster.start(prefix=in_group(group))
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    one = cluster.servers[0].process
    acknowledged, began = cluster.history.acknowledged, time.monotonic()
    flood = await _flood(one.http_port, cluster.people.outsiders[0].token)
    per_s = (cluster.history.acknowledged - acknowledged) / (time.monotonic() - began)
    peak = int((group / "memory.max_usage_in_bytes").read_text()) / 2**20
    timing = await judge(cluster, fault, before)
    fault.told("memory of both at most", peak, "MiB")
    fault.at_most("servers that ended", sum(each.process.exit_status is not None for each in cluster.servers), 0)
    fault.at_least("acknowledged meanwhile", per_s, cluster.load.per_s / 4, "/s")
    fault.told("pieces of garbage", flood)
    tell_latency(fault, timing)
    fault.conclude()


async def _flood(port: int, token: str) -> int:
    count = 40_000 if FULL else 10_000
    command: list[Any] = [sys.executable, "-m", "support.garbage", port, token, 1, count, 200, 4_000]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env=dict(os.environ, PYTHONPATH=str(TESTS)), stdout=asyncio.subprocess.PIPE
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return count
