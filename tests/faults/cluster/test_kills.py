"""F1, F2: servers that end without a word, at any moment and at chosen points."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import pytest

from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from support.cluster_load import FULL
from support.cluster_verdict import judge, readings, tell_latency
from support.cluster_world import Cluster, Server
from support.failpoints import CLUSTER_POINTS
from support.fault_report import FaultReport, Timing, percentile
from support.load import LibraryReader
from support.mutants import EXIT
from support.raw_client import RawClient
from support.server_process import eventually

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]
KILLS = 12 if FULL else 4
ROUNDS = 5 if FULL else 1
BACK_S = 5.0
COUNTS: Final[dict[str, Callable[[random.Random], int]]] = {
    "mid_drain": lambda _rng: 1, "mid_audit": lambda _rng: 1, "mid_rekey": lambda rng: rng.randrange(1, 4),
}  # fmt: skip
"""At which time that a server comes to a point it ends there, where that is not one of many."""


async def test_f1_servers_killed_again_and_again_keep_every_promise(cluster: Cluster, fault: FaultReport) -> None:
    """kill -9 of one of two servers, again and again"""
    await cluster.start()
    cluster.talk.start()
    await cluster.for_a_while(3)
    before = await readings(cluster)
    for _ in range(KILLS):
        await cluster.for_a_while(cluster.rng.uniform(2, 5) if FULL else cluster.rng.uniform(0.8, 1.5))
        server = cluster.rng.choice(cluster.servers).process
        await server.kill()
        await server.start()
    await cluster.acknowledges(50)
    refused = Timing.of(cluster.history.records()).refused
    timing = await judge(cluster, fault, before)
    outages = sorted(each for client in cluster.clients for each in client.outages)
    fault.at_least("reconnections", len(outages), KILLS)
    fault.at_most("reconnected p99", percentile(outages, 0.99), BACK_S, "s")
    fault.at_most("refused", refused, 0)
    fault.told("unknown", timing.unknown)
    tell_latency(fault, timing)
    fault.conclude()


async def test_f2_servers_that_end_at_a_point_keep_every_promise(cluster: Cluster, fault: FaultReport) -> None:
    """A server ends by itself at each of nine points: before, within and after a commit, after the answer, in the fan-out, before the bus, in a drain, in an audit record, in a rekey of a sealed session"""
    await cluster.start()
    sealed = await _sealed_reader(cluster)
    cluster.talk.start()
    await cluster.for_a_while(2)
    before = await readings(cluster)
    one, two = cluster.servers
    ends = 0
    await two.process.kill()
    for round_ in range(ROUNDS):
        for point in CLUSTER_POINTS:
            count = COUNTS[point](cluster.rng) if point in COUNTS else cluster.rng.randrange(3, 20)
            await two.process.start("--cluster-failpoint", f"{point}:{count}")
            if two.url not in {client.url for client in cluster.members}:
                await _send_there(cluster, two)
            if point == "mid_drain":
                with pytest.raises(AssertionError):
                    assert await two.process.terminate(20) == 0
            elif point == "mid_rekey":
                await eventually(lambda: sealed.client.connected, 40, "the sealed client is back")
            elif point == "mid_audit":
                await _revoke_in_vain(cluster, two, cluster.victims[1 + round_ % 2])
            assert await two.process.ended(40) == EXIT, point
            ends += 1
            await cluster.acknowledges(5)
    await two.process.start()
    timing = await judge(cluster, fault, before)
    fault.told("ends", ends)
    fault.told("unknown", timing.unknown)
    fault.at_most("refused", timing.refused, 0)
    assert one.process.starts == 1
    fault.conclude()


async def _sealed_reader(cluster: Cluster) -> LibraryReader:
    """Have one more client of our own library, sealed, at the server that ends."""
    people, url = cluster.people, cluster.servers[1].url.replace("ws", "http", 1)
    client = ChatClient(url, people.readers[0].token, seal="required", resume={people.rooms[0]: 0}, pins=PinStore(None))
    reader = LibraryReader("sealed", client, cluster.history)
    await reader.start()
    cluster.readers.append(reader)
    return reader


async def _send_there(cluster: Cluster, server: Server) -> None:
    """After an end everybody is at the other one: have some come."""
    for client in cluster.members[::2]:
        client.go_to(server.url)
    await cluster.until(lambda: len([each for each in cluster.connected_to(server) if each in cluster.members]) >= 2)


async def _revoke_in_vain(cluster: Cluster, server: Server, victim: RawClient) -> None:
    """It ends before the commit: nothing is revoked."""
    if victim.revoked.is_set():
        return
    revoking = asyncio.create_task(server.process.ask("bot.revoke", user=victim.user))
    await server.process.ended(20)
    await asyncio.gather(revoking, return_exceptions=True)
    assert not victim.revoked.is_set()
