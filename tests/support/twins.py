"""A person whose one device is connected to two servers at once, with access tokens that end."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from support.cluster_load import body, canary
from support.cluster_world import Cluster
from support.raw_client import RawClient
from support.running import PASSWORD
from support.server_process import Bot


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
