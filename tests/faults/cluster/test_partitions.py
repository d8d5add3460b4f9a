"""F5, F7, F13, F14, F16: ways that are silent or slow, caches that are empty, servers that stand still."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import pytest

from support.access_checker import NO_BUS
from support.cluster_load import FULL
from support.cluster_verdict import STORE_AWAY, judge, longest_wait, readings, tell_latency
from support.cluster_world import Cluster, Server, insist
from support.fault_report import USUAL_MS, FaultReport, Timing, percentile
from support.proxy_process import Way
from support.receiver import Receiver
from support.watch import Watch

pytestmark = [pytest.mark.alone, pytest.mark.faults, pytest.mark.timeout(300)]
SILENT_S: Final = 15.0 if FULL else 8.0
MIB: Final = 2**20
ROUNDS: Final = 6 if FULL else 2
SPAN_S: Final = 6.0 if FULL else 3.0
UNSEEN_MS: Final = 4.0 if FULL else 30.0
"""One turn of the kernel's scheduler is no difference; in the short form, of a few messages, several are none."""

PARTITIONS: Final[dict[str, Callable[[Sequence[Server]], list[tuple[Way, bool]]]]] = {
    "PostgreSQL, both ways": lambda servers: [(each.database, True) for each in servers],
    "PostgreSQL, its answers only": lambda servers: [(each.database, False) for each in servers],
    "PostgreSQL and one server": lambda servers: [(servers[0].database, True)],
    "Redis, both ways": lambda servers: [(each.bus, True) for each in servers],
    "Redis, its messages only": lambda servers: [(each.bus, False) for each in servers],
    "Redis and one server": lambda servers: [(servers[0].bus, True)],
}


@pytest.mark.parametrize("where", list(PARTITIONS))
async def test_f5_a_way_that_is_silent(cluster: Cluster, fault: FaultReport, where: str) -> None:
    """Nothing passes between the servers and a store, and nobody is told"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    if where.startswith("PostgreSQL"):
        cluster.refusing()
    ways = PARTITIONS[where](cluster.servers)
    began = time.monotonic()
    async with Watch(cluster.servers) as watch:
        for way, up in ways:
            await way.hold(up=up)
        await cluster.for_a_while(SILENT_S)
        for way, _ in ways:
            await way.heal()
        healed = time.monotonic()
        there = [client for client in cluster.members if client.url == cluster.servers[0].url]
        answers = sum(client.answers for client in there)
        await cluster.until(lambda: sum(client.answers for client in there) > answers, 30)
        recovered = time.monotonic() - healed
        await cluster.both_serve()
    timing = await judge(cluster, fault, before, expected=STORE_AWAY)
    history = cluster.history.records()
    lag = sorted(each for seen in watch.seen for each in seen.lag_s)
    fault.at_most("longest without an answer", longest_wait(history, began), 10.0, "s")
    fault.at_most("recovered after", recovered, 10.0, "s")
    fault.at_most("loop lag p99", 1_000 * percentile(lag, 0.99), 100, "ms")
    fault.at_most("most that waited", max(each for seen in watch.seen for each in seen.waiting), 1_000)
    fault.at_least("alive", 100 * min(seen.was_alive() for seen in watch.seen), 100, "%")
    if where.startswith("Redis"):
        during = Timing.of(history, began, healed)
        fault.at_most("send→ack p99 meanwhile", 1_000 * percentile(during.ack, 0.99), USUAL_MS, "ms")
        fault.at_most("send→delivered at most meanwhile", during.delivered[-1], 4.0, "s")
        fault.at_most("refused", timing.refused, 0)
    fault.told("refused for now", timing.refused)
    fault.conclude()


SLOW_COMMITS: Final = ("ALTER SYSTEM SET commit_delay = 100000", "ALTER SYSTEM SET commit_siblings = 0")
QUICK_COMMITS: Final = ("ALTER SYSTEM RESET commit_delay", "ALTER SYSTEM RESET commit_siblings")


async def have(cluster: Cluster, settings: Sequence[str]) -> None:
    """Change settings of PostgreSQL while it runs."""
    for each in (*settings, "SELECT pg_reload_conf()"):
        await asyncio.to_thread(cluster.postgres.sql, each)


FAR: Final = "the way is 200 ms ± 100 long"


@pytest.mark.parametrize("how", [FAR, "each commit takes 100 ms"])
async def test_f7_a_slow_database(cluster: Cluster, fault: FaultReport, how: str) -> None:
    """PostgreSQL is slow"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    began = time.monotonic()
    async with Watch(cluster.servers) as watch:
        if how.startswith("the way"):
            for server in cluster.servers:
                await server.database.set(latency_s=0.1, jitter_s=0.05)  # Each way: a round trip is twice as long.
        else:
            await have(cluster, SLOW_COMMITS)
        await cluster.for_a_while(20 if FULL else 8)
        if how.startswith("the way"):
            for server in cluster.servers:
                await server.database.heal()
        else:
            await have(cluster, QUICK_COMMITS)
    healed = time.monotonic()
    await cluster.for_a_while(10)
    normal = time.monotonic()
    await cluster.for_a_while(3)
    timing = await judge(cluster, fault, before, expected=STORE_AWAY)
    history = cluster.history.records()
    during = Timing.of(history, began, healed)
    fault.at_most("send→ack p99 meanwhile", percentile(during.ack, 0.99), 5.0, "s")
    fault.at_most("send→ack p99, 10 s after", 1_000 * percentile(Timing.of(history, normal, normal + 3).ack, 0.99), USUAL_MS, "ms")
    fault.at_most("memory grew by", max(max(seen.rss) - seen.rss[0] for seen in watch.seen) / MIB, 20, "MiB")
    fault.at_most("most that waited", max(each for seen in watch.seen for each in seen.waiting), 1_000)
    fault.told("refused for now", timing.refused)
    fault.conclude()


async def test_f13_presence_and_typing_stand_still(cluster: Cluster, fault: FaultReport) -> None:
    """What carries presence and typing between servers stands still

    That is the bus, which carries messages, too: what the other one committed is found in the database then, and until it is,
    who writes into the same room finds it taken and has to ask twice. There is no search and no store of presence that could hang
    by itself.
    """
    await cluster.start()
    usual, meanwhile = await _with_and_without(cluster, fault, [server.bus for server in cluster.servers])
    fault.at_most("send→ack p99 meanwhile", meanwhile, max(1.2 * usual, usual + UNSEEN_MS), "ms")
    fault.conclude()


async def test_f13_who_is_notified_stands_still(cluster: Cluster, fault: FaultReport, receiver: Receiver) -> None:
    """What is told of every message in half of the rooms (webhooks) takes what comes, and answers nothing"""
    cluster.settings["hooks_allow_networks"] = ["127.0.0.1"]
    await cluster.start()
    way = await cluster.way("told", receiver.port)
    for room in cluster.people.rooms[::2]:
        await cluster.servers[0].process.ask(
            "subscription.create", room=room, url=receiver.url.replace(str(receiver.port), str(way.port))
        )
    usual, meanwhile = await _with_and_without(cluster, fault, [way])
    fault.at_least("notified", len(receiver.events), 20)
    fault.at_most("send→ack p99 meanwhile", meanwhile, max(1.2 * usual, usual + UNSEEN_MS), "ms")
    fault.conclude()


async def _with_and_without(cluster: Cluster, fault: FaultReport, ways: Sequence[Way]) -> tuple[float, float]:
    """Return the p99 of answers in ms while these ways are as they should be, and while nothing passes there.

    By turns: so both have the same share of what else the machine does. Of each, the round in the middle counts.
    """
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    spans: dict[str, list[float]] = {"without": [], "meanwhile": []}
    for _ in range(ROUNDS):
        for form, change in (("without", Way.heal), ("meanwhile", Way.hold)):
            for way in ways:
                await change(way)
            await cluster.for_a_while(2)
            spans[form].append(time.monotonic())
            await cluster.for_a_while(SPAN_S)
    for way in ways:
        await way.heal()
    timing = await judge(cluster, fault, before)
    history = cluster.history.records()
    fault.at_most("refused", timing.refused, 0)
    p99: dict[str, float] = {}
    for form, starts in spans.items():
        rounds = [Timing.of(history, since, since + SPAN_S) for since in starts]
        p50, p99[form], delivered = (
            1_000 * median(each)
            for each in (
                [percentile(found.ack, 0.5) for found in rounds],
                [percentile(found.ack, 0.99) for found in rounds],
                [percentile(found.delivered, 0.99) for found in rounds],
            )
        )
        fault.told(f"send→ack p50 {form}", p50, "ms")
        fault.told(f"send→delivery p99 {form}", delivered, "ms")
    fault.told("send→ack p99 without", p99["without"], "ms")
    return p99["without"], p99["meanwhile"]


async def test_f14_all_that_was_remembered_is_forgotten(cluster: Cluster, fault: FaultReport) -> None:
    """Redis is emptied and every subscription is cut, five times: the servers forget what they know of rights, rooms and people"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(4)
    before = await readings(cluster)

    async def turns_per_s(seconds: float) -> float:
        first = sum([await each.database.turns() for each in cluster.servers])
        await cluster.for_a_while(seconds)
        return (sum([await each.database.turns() for each in cluster.servers]) - first) / seconds

    calm = await turns_per_s(8)
    rates = []
    for _ in range(5):
        await asyncio.to_thread(cluster.redis.ask, "FLUSHALL")
        await asyncio.to_thread(cluster.redis.ask, "CLIENT", "KILL", "TYPE", "pubsub")
        rates.append(await turns_per_s(2))
    after = await turns_per_s(5)
    timing = await judge(cluster, fault, before)
    fault.told("round trips to PostgreSQL before", calm, "/s")
    fault.at_most("round trips in these 10 s", sum(rates) / len(rates), 2 * calm, "/s")
    fault.at_most("round trips after", after, 1.3 * calm, "/s")
    fault.at_most("refused", timing.refused, 0)
    tell_latency(fault, timing)
    fault.conclude()


@pytest.mark.parametrize(
    ("seconds", "away_s"), [(10, 0.0), (10, 0.4), (40, 0.0)] if FULL else [(10, 0.4)], ids=lambda value: f"{value:g} s"
)
async def test_f16_a_server_that_stands_still(cluster: Cluster, fault: FaultReport, seconds: int, away_s: float) -> None:
    """One server is stopped (SIGSTOP) and goes on later; meanwhile a session ends and somebody is removed, who stay connected to it"""
    await cluster.start()
    one, two = cluster.servers
    victim, guest = (each for each in cluster.victims if each.url == one.url)
    for client in (victim, guest):
        client.heartbeat(None)
        client.go_to(one.url)
    await cluster.until(lambda: victim.outages != [] and guest.outages != [], what="they are back, and wait for ever")
    hall = cluster.people.hall
    await guest.act("room.join", "join", hall)
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    await one.database.set(latency_s=away_s / 2)  # So long it does not know that the session ended.
    began = time.monotonic()
    os.kill(one.process.pid, signal.SIGSTOP)
    try:
        await cluster.for_a_while(1.5)
        elsewhere = [client for client in cluster.members if client.url == two.url]
        answers = sum(client.answers for client in elsewhere)
        cluster.history.add(victim.name, "revoke", "invoke")
        # A transaction that the stopped one had begun keeps its locks until PostgreSQL ends it, after 10 s.
        await insist(two, "bot.revoke", user=victim.user)
        cluster.history.add(victim.name, "revoke", code=NO_BUS)
        await insist(two, "member.remove", room=hall, user=guest.user)
        held_up = time.monotonic() - began - 1.5
        await cluster.for_a_while(max(1.0, seconds - 1.5 - held_up))
        went_on = sum(client.answers for client in elsewhere) - answers
        # It waits in the socket, and is the first thing that the stopped one reads.
        typing = asyncio.create_task(guest.act("typing.start", "typing", cluster.people.rooms[0]))
        await asyncio.sleep(0)
    finally:
        os.kill(one.process.pid, signal.SIGCONT)
    resumed = time.monotonic()
    await cluster.until(lambda: not victim.ready.is_set(), 10)
    noticed = time.monotonic() - resumed
    await typing
    await asyncio.wait_for(victim.revoked.wait(), 20)  # It has come again, and was not let in.
    await cluster.until(lambda: hall not in guest.rooms, 10)
    await one.database.heal()
    await cluster.both_serve()
    timing = await judge(cluster, fault, before, expected=STORE_AWAY)
    history = cluster.history.records()
    stale = [
        record
        for record in history
        if record.client == victim.name and record.op in {"event", "signal"} and record.t_mono > resumed
    ]  # fmt: skip
    fault.at_most("told to the ended session after SIGCONT", len(stale), 0)
    fault.at_most("ended session closed after", noticed, 5.0, "s")
    fault.at_most("two acts of the operator meanwhile", held_up, 15.0, "s")
    fault.at_least("answers of the other one meanwhile", went_on, seconds)
    fault.told("longest without an answer", longest_wait(history, began), "s")
    fault.at_most("refused", timing.refused, 0)
    fault.conclude()
