"""F0, F15: no fault at all, and messages that are sent again and again."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from support.cluster_load import FULL
from support.cluster_verdict import judge, readings, tell_latency
from support.cluster_world import Cluster
from support.fault_report import FaultReport, Timing, percentile
from support.twins import Twins

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]


async def test_f0_without_a_fault_everything_is_fast_and_comes_once(cluster: Cluster, fault: FaultReport) -> None:
    """Nothing: the base load on two servers"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    moments = [time.monotonic()]
    for _ in range(3):
        await cluster.for_a_while(20 if FULL else 3)
        moments.append(time.monotonic())
    timing = await judge(cluster, fault, before, again_max=0)
    # Who else uses the machine can only add: one of three stretches has to be as fast.
    stretches = [Timing.of(cluster.history.records(), *each) for each in pairwise(moments)]
    tell_latency(fault, min(stretches, key=lambda each: percentile(each.delivered, 0.99)), ack_s=0.25, delivered_s=0.25)
    fault.at_most("refused", timing.refused, 0)
    fault.at_most("unknown", timing.unknown, 0)
    fault.conclude()


async def test_f15_messages_sent_again_and_again_are_one(cluster: Cluster, fault: FaultReport) -> None:
    """Each message is sent 2 to 5 times at once, over two connections to two servers, with new access tokens in between"""
    await cluster.start()
    people = [await Twins.sign_in(cluster, number) for number in range(4)]
    await asyncio.gather(*(each.start() for each in people))
    before = await readings(cluster)
    sent = 0
    for turn in range(40 if FULL else 12):
        for each in people:
            sent += await each.send_often(cluster.rng)
        if turn % 4 == 3:
            await asyncio.gather(*(each.refresh() for each in people))
    cluster.talk.start()
    timing = await judge(cluster, fault, before)
    records = cluster.history.records()
    fault.at_least("attempts", sent, 100)
    repeats = [record for record in records if record.op == "repeat" and record.phase == "ok"]
    fault.at_least("repetitions that were answered", len(repeats), sent / 3)
    fault.at_least("refused with another text", sum(record.code == "cmid_conflict" for record in records), 10)
    fault.told("new tokens", sum(each.refreshed for each in people))
    fault.at_most("refused", timing.refused, 0)
    fault.conclude()
