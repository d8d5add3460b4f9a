"""F0, F15: no fault at all, and messages that are sent again and again."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from support.cluster_load import FULL, body, canary
from support.cluster_verdict import judge, readings, tell_latency
from support.cluster_world import Cluster
from support.fault_report import FaultReport
from support.raw_client import RawClient
from support.running import PASSWORD
from support.server_process import Bot

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


class Twins:
    """One device of a person, on two connections: one to each server.

    Attributes:
        refreshed: How often it got new tokens.
    """

    def __init__(self, cluster: Cluster, clients: list[RawClient], session: Any) -> None:
        self._cluster = cluster
        self._clients = clients
        self._session = session
        self.refreshed = 0

    @classmethod
    async def sign_in(cls, cluster: Cluster, number: int) -> Twins:
        """Make an account in the first room, and sign it in."""
        name = f"twin{number}"
        user = (await cluster.servers[0].process.ask("user.create", username=name, password=PASSWORD))["user"]["id"]
        await cluster.servers[0].process.ask("member.add", room=cluster.people.rooms[0], user=user)
        session = await cluster.servers[number % 2].process.post("/sessions", {"username": name, "password": PASSWORD})
        clients = []
        for place, server in enumerate(cluster.servers):
            bot = Bot(f"{name}-{place}", user, session["access_token"])
            client = cluster.client(bot, place, cluster.people.rooms[:1])
            assert client.url == server.url
            clients.append(client)
        return cls(cluster, clients, session)

    async def start(self) -> None:
        """Connect both."""
        await asyncio.gather(*(client.start() for client in self._clients))

    async def send_often(self, rng: random.Random) -> int:
        """Send one message several times at once, and another text under its cmid; return how often."""
        room, text = self._cluster.people.rooms[0], body(rng, canary(self._cluster.people.rooms[0]))
        first = self._clients[rng.randrange(2)]
        cmid = first.next_cmid()
        times = rng.randrange(1, 5)
        sending = first.post(room, text, cmid)
        await asyncio.gather(*(rng.choice(self._clients).repeat(room, cmid, text) for _ in range(times)), sending)
        await rng.choice(self._clients).conflict(room, cmid)
        return 1 + times

    async def refresh(self) -> None:
        """Get new tokens, and come back with them while a message is on its way."""
        token = self._session["refresh_token"]
        process = self._cluster.servers[self.refreshed % 2].process
        self._session = await process.post("/sessions/refresh", {"refresh_token": token})
        self.refreshed += 1
        sending = self._clients[0].post(self._cluster.people.rooms[0], f"in between {self.refreshed}")
        for client in self._clients:
            client.token = self._session["access_token"]
            client.go_to(client.url)
        await sending
