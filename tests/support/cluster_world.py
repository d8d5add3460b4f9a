"""A fault run on several servers: PostgreSQL ← proxies ← servers → proxies → Redis, and clients behind proxies of their own."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from support import checker, nonces
from support.checker import Violation
from support.cluster_load import BASE, Load, People, Talk, canary, populate_cluster
from support.fault_world import SEED
from support.history import History, Phase
from support.load import LibraryReader, caught_up, settle
from support.ports import free_port
from support.postgres import Postgres
from support.proxy_process import ProxyProcess, Way
from support.raw_client import RawClient
from support.redis import RedisNode
from support.server_process import Bot, ServerProcess, eventually, eventually_async

BUS_KEY: Final = "0123456789abcdef0123456789abcdef"
MEMORY: Final = ("prlimit", "--as=6000000000")
"""No server takes the machine down, whatever it does."""
HEARTBEAT_S: Final = 5.0
OPERATE_S: Final = 15.0
UNSURE: Final = frozenset({"unavailable", "internal"})
"""Refusals after which nobody knows: the commit may have gone through, and its answer not."""


class Server:
    """One of the servers, and the ways to it and from it.

    Attributes:
        front: Between clients and it.
        database: Between it and PostgreSQL.
        bus: Between it and Redis.
    """

    def __init__(self, process: ServerProcess, front: Way, database: Way, bus: Way) -> None:
        self.process = process
        self.front = front
        self.database = database
        self.bus = bus

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.front.port}"


async def insist(server: Server, op: str, **fields: str) -> None:
    """Have the operator try until it is done."""
    for _ in range(20):
        try:
            await server.process.ask(op, **fields)
        except AssertionError as refused:
            if "unavailable" not in str(refused):
                raise
            await asyncio.sleep(0.5)
        else:
            return
    raise AssertionError(f"{op} is refused all the time")


class Cluster:
    """Servers, everything around them, and the history of their clients."""

    def __init__(self, folder: Path, name: str, postgres: Postgres, redis: RedisNode, load: Load = BASE, servers: int = 2) -> None:
        self.folder = folder
        self.postgres = postgres
        self.redis = redis
        self.load = load
        self.rng = random.Random(f"{SEED} {name}")
        self.history = History(folder / "history.jsonl")
        self.servers: list[Server] = []
        self.clients: list[RawClient] = []
        self.members: list[RawClient] = []
        self.visitors: list[RawClient] = []
        self.victims: list[RawClient] = []
        self.outsiders: list[RawClient] = []
        self.readers: list[LibraryReader] = []
        self.strangers: list[RawClient] = []
        self._scratch = History(folder / "scratch.jsonl")
        self.audit_folder = folder / "audit"
        self.audit_folder.mkdir()
        self.settings: dict[str, Any] = {"bus_key": BUS_KEY, "database_connections": 6, "audit_folder": str(self.audit_folder)}
        self.people: People
        self.talk: Talk
        self.database = postgres.new_database()
        self.balanced: Way
        self.store_host = "127.0.0.1"
        self.source: Path | None = None
        """Code that the servers begin with, if not ours."""
        self._count = servers
        self._proxies = ProxyProcess()

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, *faults: str, prefix: Sequence[str] = ()) -> None:
        """Start the servers, make people and rooms, and connect everybody; who is new reads all that there is of their rooms."""
        await self.start_servers(*faults, prefix=prefix)
        self.people = await populate_cluster(self.servers[0].process, self.load, self.rng)
        self._make_clients()
        for start in range(0, len(self.clients), 20):
            await asyncio.gather(*(client.start() for client in self.clients[start : start + 20]))
        await asyncio.gather(*(reader.start() for reader in self.readers))
        await caught_up(self.clients, 60)
        self.talk = Talk(self.load, self.people, self.members, self.visitors, self.rng, self._operate)

    async def start_servers(self, *faults: str, prefix: Sequence[str] = ()) -> None:
        """Start the servers; the first one makes the keys."""
        for number in range(self._count):
            root, port = self.folder / f"server{number}", free_port()
            database = await self._proxies.open(f"database{number}", [self.postgres.port])
            bus = await self._proxies.open(f"bus{number}", [self.redis.port])
            front = await self._proxies.open(f"front{number}", [port])
            settings = self.settings | {
                "database_url": self.postgres.url(self.database, database.port).replace("127.0.0.1", self.store_host),
                "redis_url": f"redis://{self.store_host}:{bus.port}",
            }  # fmt: skip
            if number:
                shutil.copytree(self.servers[0].process.root / "keys", root / "keys")
            process = ServerProcess(root, free_port(), port, self.folder / f"server{number}.log", settings, [*prefix, *MEMORY])
            process.source = self.source
            process.nonces = self.folder / f"nonces{number}"
            self.servers.append(Server(process, front, database, bus))
            await process.start(*faults)
        self.balanced = await self._proxies.open("balanced", [each.process.http_port for each in self.servers])

    def _make_clients(self) -> None:
        people = self.people
        for number, (bot, rooms) in enumerate(people.members):
            self.members.append(self.client(bot, number, rooms))
        self.visitors += [self.client(bot, number) for number, bot in enumerate(people.visitors)]
        self.victims += [self.client(bot, number, people.rooms[:1]) for number, bot in enumerate(people.victims)]
        self.outsiders += [self.client(bot, number) for number, bot in enumerate(people.outsiders)]
        for outsider in self.outsiders:
            outsider.keep_bytes = True
        for victim in self.victims:
            victim.may_end = True
        for bot in people.readers:
            url = f"http://127.0.0.1:{self.balanced.port}"
            client = ChatClient(url, bot.token, resume={people.rooms[0]: 0}, pins=PinStore(None))
            self.readers.append(LibraryReader(f"library {bot.name}", client, self.history))

    def client(self, bot: Bot, number: int, rooms: Sequence[str] = ()) -> RawClient:
        """Make a client whose first server is that of its number; every other one speaks MessagePack."""
        urls = [each.url for each in self.servers]
        first = number % len(urls)
        client = RawClient(
            bot.name, urls[first], bot.token, self.history, binary=number // 2 % 2 == 1, from_start=rooms,
            also=[*urls[first + 1 :], *urls[:first]], heartbeat_s=HEARTBEAT_S,
        )  # fmt: skip
        self.clients.append(client)
        return client

    # ── on the way ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def for_a_while(self, seconds: float) -> None:
        """Let the load go on."""
        await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0, what: str = "the load goes on") -> None:
        """Wait until something is so."""
        await eventually(condition, within_s, what)

    async def acknowledges(self, more: int, within_s: float = 30.0) -> float:
        """Wait until this many more messages are acknowledged; return how long that took."""
        goal, began = self.history.acknowledged + more, time.monotonic()
        await self.until(lambda: self.history.acknowledged >= goal, within_s)
        return time.monotonic() - began

    def refusing(self) -> None:
        """Say in the history that from now on the store may refuse for a while."""
        self.history.add("", "refusing")

    async def revoke(self, victim: RawClient, by: Server, code: str = "", within_s: float = 30.0) -> None:
        """Have the operator end somebody's session, on this server; `code` as in `access_checker`."""
        self.history.add(victim.name, "revoke", "invoke")
        await insist(by, "bot.revoke", user=victim.user)  # Its database may have come back only a moment ago.
        self.history.add(victim.name, "revoke", code=code)
        await asyncio.wait_for(victim.revoked.wait(), within_s)

    async def _operate(self, op: str, number: int) -> None:
        """Have the operator of one of the servers do something to the clerk, once, and note what became of it."""
        attempt, clerk = str(number), self.people.clerk.user
        self.history.add("operator", "operate", "invoke", attempt=attempt, kind=op, user=clerk)
        try:
            async with asyncio.timeout(OPERATE_S):
                answer = await self.servers[number % len(self.servers)].process.answer(op, user=clerk)
        except (OSError, TimeoutError):
            self.history.add("operator", "operate", "info", attempt=attempt, kind=op, user=clerk)
            return
        code = answer.get("code", "")
        phase: Phase = "ok" if not code else "info" if code in UNSURE else "fail"
        self.history.add("operator", "operate", phase, attempt=attempt, kind=op, user=clerk, code=code)

    async def way(self, name: str, port: int) -> Way:
        """Open another way to a port, with faults of its own."""
        return await self._proxies.open(name, [port])

    def stranger(self, bot: Bot, server: Server, name: str) -> RawClient:
        """Make a client whose history nobody judges: what it does is measured by itself."""
        client = RawClient(name, server.url, bot.token, self._scratch, heartbeat_s=HEARTBEAT_S)
        self.strangers.append(client)
        return client

    def connected_to(self, server: Server) -> list[RawClient]:
        """Return who is connected to a server now."""
        return [client for client in self.clients if client.url == server.url and client.ready.is_set()]

    async def all_back(self, within_s: float = 30.0) -> None:
        """Wait until everybody is connected whose session was not ended."""

        def back() -> bool:
            for client in self.clients:
                client.check()
            return all(client.ready.is_set() or client.revoked.is_set() for client in self.clients)

        await self.until(back, within_s, "all are back")

    async def cut_off(self, *servers: Server) -> None:
        """Cut off everybody who is connected to these servers, and wait until all of them have come back."""
        there = [(client, len(client.outages)) for server in servers for client in self.connected_to(server)]
        for server in servers:
            await server.front.cut()
        # Not only until all are ready: some have not noticed yet.
        await self.until(
            lambda: all(len(client.outages) > before or client.revoked.is_set() for client, before in there), 30, "all came back"
        )
        await self.all_back()

    async def both_serve(self, within_s: float = 30.0) -> None:
        """Wait until every server is ready."""

        async def ready() -> bool:
            return all([(await each.process.answers("/readyz"))[0] == 200 for each in self.servers])

        await eventually_async(ready, within_s, "all servers are ready")

    async def all_heard(self, within_s: float = 30.0) -> None:
        """Wait until every server hears all others on the bus: they serve without it, but what one ends the others look up."""

        async def heard() -> bool:
            return all([await each.process.metric("bus_servers") == len(self.servers) for each in self.servers])

        await eventually_async(heard, within_s, "all servers hear each other")

    # ── end ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def quiet(self, within_s: float = 30.0) -> float:
        """No more talking; wait until everybody has everything, and return how long that took."""
        await self.talk.stop()
        began = time.monotonic()
        clients = [client for client in self.clients if not client.revoked.is_set()]
        await settle(clients, within_s)
        room = self.people.rooms[0]
        newest = {room: max(client.last.get(room, 0) for client in self.members)}
        for reader in self.readers:
            await reader.holds(newest, within_s)
        return time.monotonic() - began

    async def leave(self) -> None:
        """Disconnect everybody."""
        everybody: list[RawClient | LibraryReader] = [*self.clients, *self.readers, *self.strangers]
        await asyncio.gather(*(each.stop() for each in everybody))

    async def no_connections(self) -> None:
        """Wait until every server noticed that everybody left."""

        async def nobody() -> bool:
            return all([await each.process.metric("connections") == 0 for each in self.servers])

        await eventually_async(nobody, 40, "everybody left")

    async def verdict(self) -> list[Violation]:
        """Return what the history and the rows say."""
        rows = await checker.read_postgres(self.postgres.url(self.database))
        found = await asyncio.to_thread(checker.check, self.history.records(), rows)
        return found + self._heard_outside() + self._nonces()

    def _heard_outside(self) -> list[Violation]:
        """I6: nothing of any room is in what outsiders received, byte by byte."""
        words = [word.encode() for room in [*self.people.rooms, self.people.hall] for word in (room, canary(room))]
        return [
            Violation("I6", f"{outsider.name} heard {word.decode()}")
            for outsider in self.outsiders
            for whole in [b"".join(outsider.heard)]
            for word in words
            if word in whole
        ]

    def _nonces(self) -> list[Violation]:
        """I13: no nonce twice with one key, over all servers and all their lives, and sessions were sealed at all."""
        paths = [each.process.nonces for each in self.servers if each.process.nonces is not None and each.process.nonces.exists()]
        used = nonces.all_of(paths)
        found = [Violation("I13", f"{used.repeated} of {len(used)} nonces were used twice with one key")] if used.repeated else []
        return found if used or self.source is not None else [*found, Violation("I13", "nothing was sealed")]

    def clean_up(self) -> None:
        """End every process."""
        for server in self.servers:
            server.process.clean_up()
        self._proxies.close()
        if self.postgres.runs:
            self.postgres.sql(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        self.history.close()
        self._scratch.close()

    def describe(self) -> str:
        """Return what is needed to look into a failure."""
        tails = "\n".join(f"server {each.process.output}\n{each.process.tail()}" for each in self.servers)
        return f"FAULT_SEED={SEED}\nhistory {self.history.path}\n{tails}"
