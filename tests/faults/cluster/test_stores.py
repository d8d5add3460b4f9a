"""F3, F4: PostgreSQL and Redis end and come back."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Final

import pytest

from support.access_checker import NO_BUS
from support.cluster_load import FULL
from support.cluster_verdict import STORE_AWAY, judge, longest_wait, readings, tell_latency
from support.cluster_world import Cluster, Server
from support.fault_report import USUAL_MS, FaultReport, Timing, percentile
from support.server_process import FREE
from support.watch import Watch

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]
JUST_BEFORE_S: Final = 0.3
"""An acknowledgement of what was committed just before the end may come so much later."""

GUESSES: Final = 20
"""Passwords that may be tried from one address at all servers together."""
FIRST: Final = 3
"""Of these, at each server before it is measured."""


async def test_f3_postgresql_ends_and_comes_back(cluster: Cluster, fault: FaultReport) -> None:
    """PostgreSQL is stopped at once (SIGQUIT), or its postmaster is killed with -9, and is back after some seconds"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    cluster.refusing()
    stretches: list[tuple[float, float]] = []
    first_acks, red = [], []
    async with Watch(cluster.servers) as watch:
        for number in (signal.SIGQUIT, signal.SIGKILL, signal.SIGQUIT)[: 3 if FULL else 2]:
            down = time.monotonic()
            await asyncio.to_thread(cluster.postgres.stop, number)
            gone = time.monotonic()
            await cluster.for_a_while(max(0.0, cluster.rng.uniform(3, 8 if FULL else 4) - (gone - down)))
            stretches.append((gone, time.monotonic()))
            await asyncio.to_thread(cluster.postgres.start)
            first_acks.append(await cluster.acknowledges(1))
            await cluster.acknowledges(100)
            await cluster.both_serve()
            red += [seen.red_after(down) for seen in watch.seen]
    timing = await judge(cluster, fault, before, expected=STORE_AWAY)
    history = cluster.history.records()
    acked = [
        record
        for record in history
        if record.op == "send" and record.phase == "ok"
        and any(gone + JUST_BEFORE_S < record.t_mono < up for gone, up in stretches)
    ]  # fmt: skip
    fault.at_most("acknowledged while it was down", len(acked), 0)
    fault.at_most("readiness red after", max(red), 2.0, "s")
    fault.at_least("alive", 100 * min(seen.was_alive() for seen in watch.seen), 100, "%")
    fault.at_most("longest without an answer", longest_wait(history), 10.0, "s")
    fault.at_most("first acknowledgement after", max(first_acks), 5.0, "s")
    fault.told("refused for now", timing.refused)
    fault.conclude()


async def test_f4_redis_ends_and_comes_back(cluster: Cluster, fault: FaultReport) -> None:
    """Redis is killed with -9 and is back after some seconds, and is emptied"""
    cluster.settings["rates"] = FREE | {"login.address": {"burst": GUESSES, "per_s": 0.1}}
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    if FULL:
        await _guess(cluster, FIRST)  # The first password that is looked at takes memory for good.
    before = await readings(cluster)
    away: list[tuple[float, float]] = []
    whole: list[tuple[float, float]] = []
    guesses: int | None = None
    for round_ in range(3 if FULL else 1):
        down = time.monotonic()
        await asyncio.to_thread(cluster.redis.kill)
        await cluster.for_a_while(4)
        if round_ == 0:
            victim = cluster.victims[1]
            await cluster.revoke(victim, by=next(each for each in cluster.servers if each.url != victim.url), code=NO_BUS)
            guesses = await _guess(cluster, GUESSES) if FULL else None
        up = time.monotonic()
        await asyncio.to_thread(cluster.redis.start)
        away.append((down, up))
        await cluster.for_a_while(5)
        whole.append((time.monotonic(), time.monotonic() + 3))
        await cluster.for_a_while(3)
        await asyncio.to_thread(cluster.redis.ask, "FLUSHALL")
    timing = await judge(cluster, fault, before)
    history = cluster.history.records()
    down_times = [Timing.of(history, *each) for each in away]
    fault.at_least("acknowledged while it was down", min(len(each.ack) for each in down_times), 40)
    fault.at_most("send→ack p99 then", 1_000 * max(percentile(each.ack, 0.99) for each in down_times), USUAL_MS, "ms")
    fault.at_most("send→delivered at most then", max(each.delivered[-1] for each in down_times), 2.5, "s")
    full = [Timing.of(history, *each) for each in whole]
    fault.at_most("send→delivered p99, 5 s after", 1_000 * max(percentile(each.delivered, 0.99) for each in full), USUAL_MS, "ms")
    fault.at_most("refused", timing.refused, 0)
    if guesses is not None:
        fault.at_most(f"passwords tried then at both, of {2 * GUESSES}, with a limit of {GUESSES}", guesses, GUESSES + 4)
        fault.at_least("passwords tried then", guesses, GUESSES - 2 * FIRST - 4)
    tell_latency(fault, timing)
    fault.conclude()


async def _guess(cluster: Cluster, count: int) -> int:
    """Try so many passwords at each server, and return how many were looked at."""

    async def attempt(server: Server, number: int) -> bool:
        guess = {"username": f"nobody{number}", "password": "a long wrong pass phrase"}
        status, body = await server.process.answers("/api/v1/sessions", json.dumps(guess).encode())
        assert status in {401, 429}, body
        return status == 401

    attempts = [attempt(server, number) for server in cluster.servers for number in range(count)]
    return sum(await asyncio.gather(*attempts))
