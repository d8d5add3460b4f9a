"""F8, F10, F19, F20: clocks that jump, servers that are told to stop, settings that change, names that nobody answers for."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import pytest

from securechat.store.migrate import HEAD
from support.certificates import Files
from support.clocks import move
from support.cluster_load import FULL
from support.cluster_verdict import STORE_AWAY, judge, longest_wait, readings, tell_latency
from support.cluster_world import Cluster, Server
from support.fault_report import FaultReport, percentile
from support.older import Older, before_the_newest_migration
from support.raw_client import RawClient, Refused
from support.server_process import FREE
from support.small_disk import resolver, with_resolver
from support.twins import Twins
from support.watch import Watch

pytestmark = [pytest.mark.alone, pytest.mark.faults, pytest.mark.timeout(300)]
JUMPS: Final = (300.0, -300.0, 3_600.0, -3_600.0, 0.0)
RATE: Final = {"burst": 30, "per_s": 3}
STOPPED: Final = frozenset({"draining", "unavailable"})


async def test_f8_clocks_that_jump(cluster: Cluster, fault: FaultReport) -> None:
    """The clock of one server goes 5 minutes ahead, back, an hour ahead, back, and slowly off; then that of the other one"""
    cluster.settings["rates"] = FREE | {"message": RATE}
    clock = cluster.folder / "clock"
    move(clock, 0)
    await cluster.start("--clock", str(clock))  # The same file for both; the second one is given its own below.
    one, two = cluster.servers
    still = cluster.folder / "still"
    move(still, 0)
    await two.process.kill()
    await two.process.start("--clock", str(still))
    await cluster.until(lambda: all(client.ready.is_set() for client in cluster.clients))
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    closes = sum(len(client.closes) for client in cluster.clients)
    greedy = cluster.stranger(cluster.people.readers[0], one, "greedy")
    await greedy.start()
    taken = [await _take(greedy, cluster.people.rooms[0], 60)]
    for moved in (clock, still):
        for seconds in JUMPS:
            move(moved, seconds)
            if moved == clock and seconds == JUMPS[0]:
                taken.append(await _take(greedy, cluster.people.rooms[0], 30))
                await cluster.for_a_while(3)
                taken.append(await _take(greedy, cluster.people.rooms[0], 30))
            await cluster.for_a_while(2)
        for step in range(50):  # A second that is smeared.
            move(moved, step / 50)
            await asyncio.sleep(0.02)
    # A token of a clock that is within the leeway holds at the other server, too.
    person = await Twins.sign_in(cluster, 0)
    await person.start()
    for seconds in (45.0, 0.0, -45.0, 0.0):
        move(clock, seconds)
        await asyncio.sleep(0.1)
        await person.refresh()
    timing = await judge(cluster, fault, before)
    cut = sum(len(client.closes) for client in cluster.clients if client.may_end is False) - closes
    at_first, at_once, later = taken
    fault.told("jumps", 2 * len(JUMPS))
    fault.at_most("connections closed, besides those that came with new tokens", cut, 2 * person.refreshed)
    fault.at_most("messages taken of a burst of 60 with a limit of 30", at_first, 40)
    fault.at_most("taken just after a jump", at_once, 8)
    fault.at_least("taken 3 s later", later, 5)
    tell_latency(fault, timing)
    fault.conclude()


async def _take(client: RawClient, room: str, count: int) -> int:
    """Send as fast as one can, and return how many were taken."""

    async def send(number: int) -> bool:
        try:
            await client.command("message.send", room=room, cmid=f"{client.next_cmid()}-{number}", body="greedy")
        except Refused as refused:
            if refused.code != "rate_limited":
                raise
            return False
        return True

    return sum(await asyncio.gather(*(send(number) for number in range(count))))


@pytest.mark.parametrize("hangs", [False, True], ids=["", "while PostgreSQL hangs"])
async def test_f10_a_server_is_told_to_stop(cluster: Cluster, fault: FaultReport, *, hangs: bool) -> None:
    """SIGTERM of one of two servers, and a new one in its place"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    one, two = cluster.servers
    there = [client for client in cluster.clients if client.url == one.url]
    drains = [client.drains for client in there]
    cluster.refusing()
    async with Watch([one], every_s=0.02) as watch:
        began = time.monotonic()
        if hangs:
            with cluster.postgres.hanging():
                assert await one.process.terminate(25) == 0
                took = time.monotonic() - began
        else:
            assert await one.process.terminate(25) == 0
            took = time.monotonic() - began
    not_ready = min(at - began for at, status in watch.seen[0].ready if at > began and status != 200)
    closed = sorted(
        record.t_mono - began
        for record in cluster.history.records()
        if record.op == "closed" and record.client in {client.name for client in there} and record.t_mono > began
    )  # fmt: skip
    await cluster.until(lambda: all(client.ready.is_set() for client in there), 30, "all are at the other one")
    await one.process.start()
    await cluster.acknowledges(50)
    timing = await judge(cluster, fault, before, expected=STORE_AWAY if hangs else ())
    refused = [
        record.code
        for record in cluster.history.records()
        if record.op == "send" and record.phase == "fail" and record.code not in STOPPED
    ]
    outages = sorted(each for client in there for each in client.outages)
    told = sum(client.drains > count for client, count in zip(there, drains, strict=True))
    fault.at_most("not ready after", not_ready, 2.0 if hangs else 0.5, "s")
    fault.at_most("ended after", took, 25.0, "s")
    fault.at_least("told to come back", 100 * told / len(there), 95, "%")
    fault.told("first closed after", closed[0], "s")
    fault.told("last closed after", closed[-1], "s")
    fault.at_most("refused for good", len(refused), 0)
    fault.at_most("reconnected p99", percentile(outages, 0.99), took + 10 if hangs else 5.0, "s")
    tell_latency(fault, timing)
    assert two.process.starts == 1
    fault.conclude()


async def test_f10_servers_are_upgraded_one_by_one(cluster: Cluster, fault: FaultReport) -> None:
    """Two servers of before the newest migration; it is done under load, and then one after the other is replaced by this version"""
    older = before_the_newest_migration(cluster.folder / "older")
    cluster.source = older.source
    await cluster.start()
    cluster.talk.start()
    assert _schema(cluster) == older.head
    await cluster.for_a_while(3)
    before = await readings(cluster)
    cluster.refusing()
    assert await asyncio.to_thread(_migrate, cluster) == 0
    assert _schema(cluster) == HEAD > older.head
    await cluster.acknowledges(100)
    outages_before = {client.name: len(client.outages) for client in cluster.clients}
    spoke = []
    for number, server in enumerate(cluster.servers):
        assert await server.process.terminate(25) == 0
        server.process.source = None
        await server.process.start()
        await cluster.both_serve()
        await cluster.all_heard()
        await cluster.all_back()
        await cluster.acknowledges(100)
        spoke.append(await _older_client(cluster, older, server, f"upgrade {number}"))
    timing = await judge(cluster, fault, before)
    refused = [
        record.code
        for record in cluster.history.records()
        if record.op == "send" and record.phase == "fail" and record.code not in STOPPED
    ]
    outages = sorted(each for client in cluster.clients for each in client.outages[outages_before[client.name] :])
    fault.at_least("messages of the older client library that came back", sum(spoke), 2)
    fault.at_most("refused for good", len(refused), 0)
    fault.at_most("reconnected p99", percentile(outages, 0.99), 5.0, "s")
    tell_latency(fault, timing)
    fault.conclude()


def _schema(cluster: Cluster) -> str:
    return cluster.postgres.sql("SELECT version_num FROM alembic_version", cluster.database)


def _migrate(cluster: Cluster) -> int:
    """Bring the database to the schema of this version with the command line, and return its exit status."""
    command = [sys.executable, "-m", "securechat", "db", "migrate", "--config", str(cluster.servers[0].process.config)]
    return subprocess.run([*command, "--data", str(cluster.servers[0].process.root)], check=False).returncode


async def _older_client(cluster: Cluster, older: Older, server: Server, text: str) -> bool:
    """Return whether the client library of before sends to a server of now, and gets it back."""
    reader = cluster.people.readers[0]
    said = await older.talk(server.url.replace("ws", "http", 1), reader.token, cluster.people.rooms[0], text)
    return said.split(maxsplit=1) == [str(older.source), f"{text}\n"]


async def test_f19_settings_keys_and_certificates_change(cluster: Cluster, fault: FaultReport) -> None:
    """SIGHUP with other settings, a new certificate and a new key of access tokens, and with broken ones"""
    files = Files(cluster.folder / "certificates")
    files.good("localhost")
    cluster.settings |= files.settings
    await cluster.start()
    person = await Twins.sign_in(cluster, 0)
    await person.start()
    one, two = cluster.servers
    sealed = [_over_tls(cluster, server, files) for server in cluster.servers]
    await asyncio.gather(*(client.start() for client in sealed))
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    closes = sum(len(client.closes) for client in cluster.clients)
    good = {server.process: server.process.config.read_text() for server in cluster.servers}
    broken: list[Callable[[], object]] = [
        lambda: [process.config.write_text("{ no json") for process in good],
        lambda: [process.config.write_text(json.dumps({"max_connections": -1})) for process in good],
        lambda: files.write(b"no certificate", b"no key"),
    ]
    problems = 0.0
    for turn in range(6 if FULL else 2):
        for spoil in broken:
            spoil()
            await _hang_up(cluster)
            problems = max(problems, await one.process.metric("certificate_problem"))
            for process, text in good.items():
                process.config.write_text(json.dumps(json.loads(text) | {"max_pending": 600 + turn}))
            files.good("localhost")
            await _hang_up(cluster)
        await one.process.ask("token.key.rotate")
        shutil.copytree(one.process.root / "keys", two.process.root / "keys", dirs_exist_ok=True)
        await cluster.for_a_while(2)
        await person.refresh()
    repaired = [await server.process.metric("certificate_problem") for server in cluster.servers]
    timing = await judge(cluster, fault, before, expected=("configuration refused", "certificate"))
    cut = sum(len(client.closes) for client in cluster.clients if not client.may_end) - closes - 2 * person.refreshed
    logs = "".join(server.process.output.read_text() for server in cluster.servers)
    fault.at_most("connections closed", max(cut, 0), 0)
    fault.at_least("broken settings refused", logs.count("configuration refused"), 4)
    fault.at_least("broken certificate told by the metric", problems, 1)
    fault.at_most("told after it was repaired", max(repaired), 0)
    fault.at_least("new tokens", person.refreshed, 2)
    fault.at_most("refused", timing.refused, 0)
    tell_latency(fault, timing)
    fault.conclude()


def _over_tls(cluster: Cluster, server: Server, files: Files) -> RawClient:
    bot = cluster.people.members[0][0]
    name = f"{bot.name} over TLS at {server.process.port}"
    client = RawClient(
        name, server.process.tls_url, bot.token, cluster.history, tls=ssl.create_default_context(cafile=str(files.ca.path)),
        from_start=cluster.people.members[0][1],
    )  # fmt: skip
    cluster.clients.append(client)
    return client


async def _hang_up(cluster: Cluster) -> None:
    for server in cluster.servers:
        server.process.signal(signal.SIGHUP)
    await cluster.for_a_while(1.2)


@pytest.mark.parametrize(("how", "seconds"), [("silent", 30), ("failing", 15)])
async def test_f20_names_that_nobody_answers_for(
    cluster: Cluster, fault: FaultReport, tmp_path: Path, how: Literal["silent", "failing"], seconds: int
) -> None:
    """The resolver does not help for some seconds, and all connections to PostgreSQL and Redis are reset in that time"""
    cluster.store_host = "store.test"
    async with resolver() as names:
        await cluster.start(prefix=with_resolver(tmp_path / "resolv.conf"))
        cluster.talk.start()
        await cluster.for_a_while(3)
        before = await readings(cluster)
        asked = names.asked
        assert asked > 0, "the servers ask somebody else"
        cluster.refusing()
        closes = sum(len(client.closes) for client in cluster.members)
        began = time.monotonic()
        async with Watch(cluster.servers) as watch:
            names.trouble = how
            for server in cluster.servers:
                await server.database.cut()
                await server.bus.cut()
            await cluster.for_a_while(seconds)
            names.trouble = ""
            answered = time.monotonic()
            await cluster.acknowledges(1, 60)
            recovered = time.monotonic() - answered
            await cluster.both_serve(60)
        cut = sum(len(client.closes) for client in cluster.members) - closes
        timing = await judge(cluster, fault, before, expected=STORE_AWAY, within_s=60)
    lag = sorted(each for seen in watch.seen for each in seen.lag_s)
    fault.at_most("loop lag p99", 1_000 * percentile(lag, 0.99), 100, "ms")
    fault.at_least("alive", 100 * min(seen.was_alive() for seen in watch.seen), 100, "%")
    fault.at_most("connections closed", cut, 0)
    fault.at_most("first acknowledgement after", recovered, 35.0, "s")
    fault.at_most("longest without an answer", longest_wait(cluster.history.records(), began), 10.0, "s")
    fault.told("refused for now", timing.refused)
    fault.conclude()
