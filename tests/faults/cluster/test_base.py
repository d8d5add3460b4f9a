"""F0, F15: no fault at all, and messages that are sent again and again."""

from __future__ import annotations

import pytest

from support.cluster_load import FULL
from support.cluster_verdict import judge, readings, tell_latency
from support.cluster_world import Cluster
from support.fault_report import FaultReport

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]


async def test_f0_without_a_fault_everything_is_fast_and_comes_once(cluster: Cluster, fault: FaultReport) -> None:
    """Nothing: the base load on two servers"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    await cluster.for_a_while(60 if FULL else 7)
    timing = await judge(cluster, fault, before, again_max=0)
    tell_latency(fault, timing, ack_s=0.25, delivered_s=0.25)
    fault.at_most("refused", timing.refused, 0)
    fault.at_most("unknown", timing.unknown, 0)
    fault.conclude()
