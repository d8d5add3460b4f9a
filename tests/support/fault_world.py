"""A fault run: a server, its clients and their history."""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from securechat.sdk.client import ChatClient
from support import checker
from support.checker import Violation
from support.history import History
from support.load import LibraryReader, settle, talk
from support.ports import free_port
from support.raw_client import RawClient
from support.raw_socket import RawSocket, frame
from support.server_process import Bot, Population, ServerProcess, eventually

_CORES: Final = os.sched_getaffinity(0)
SEED: Final = int(os.environ.get("FAULT_SEED", "20"))


class World:
    """A server, its clients and their history."""

    def __init__(self, folder: Path, people: Population, name: str) -> None:
        self.folder = folder
        self.people = people
        self.rooms = people.rooms
        self.seed = SEED
        self.rng = random.Random(f"{SEED} {name}")
        self.history = History(folder / "history.jsonl")
        self.server = ServerProcess(folder / "data", free_port(), free_port(), folder / "server.log")
        self.clients: list[RawClient] = []
        self.readers: list[LibraryReader] = []
        self._talkers: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    def bot(self, number: int) -> Bot:
        """Return an account."""
        return self.people.bots[number]

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the server."""
        return ssl.create_default_context(cafile=str(self.server.root / "tls" / "ca.crt"))

    def client(self, number: int, *, name: str = "", url: str = "", listens: bool = True, resume: bool = True) -> RawClient:
        """Make a client of a bot; every other one speaks MessagePack."""
        bot, url = self.bot(number), url or self.server.url
        client = RawClient(
            name or bot.name, url, bot.token, self.history, binary=number % 2 == 1, listens=listens,
            tls=self.tls() if url.startswith("wss") else None, from_start=self.rooms if resume else (),
        )  # fmt: skip
        self.clients.append(client)
        return client

    def reader(self, number: int) -> LibraryReader:
        """Make a reader on the project's own client library, from the first entry on."""
        return self.reader_of(self.bot(number), dict.fromkeys(self.rooms, 0))

    def reader_of(self, bot: Bot, resume: dict[str, int]) -> LibraryReader:
        """Make a reader that resumes these rooms."""
        client = ChatClient(self.server.url.replace("ws", "http", 1), bot.token, resume=resume)
        reader = LibraryReader(f"library {bot.name}", client, self.history)
        self.readers.append(reader)
        return reader

    async def start(self, *, talkers: int, listeners: int = 1, readers: int = 0, faults: Sequence[str] = (), url: str = "") -> None:
        """Start the server, connect everybody, and begin to talk."""
        await self.server.start(*faults)
        for number in range(talkers + listeners):
            self.client(number, url=url)
        for number in range(readers):
            self.reader(len(self.people.bots) - 1 - number)
        await asyncio.gather(*(each.start() for each in self._everybody()))
        for client in self.clients[:talkers]:
            self.talk(client, self.rooms)

    def _everybody(self) -> list[RawClient | LibraryReader]:
        return [*self.clients, *self.readers]

    def talk(self, client: RawClient, rooms: Sequence[str], *, pause_s: float = 0.02, window: int = 8) -> None:
        """Have a client talk until `hush`."""
        rng = random.Random(self.rng.random())
        self._talkers.append(asyncio.create_task(talk(client, rooms, rng, self._stop, pause_s=pause_s, window=window)))

    def apart(self) -> None:
        """Give the server a core of its own, so that latencies show what it does and not who else computes. Clients share another."""
        cores = sorted(_CORES)
        assert len(cores) >= 2, "latency needs two cores"
        for thread in Path(f"/proc/{self.server.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:1])
        os.sched_setaffinity(0, cores[1:])

    async def hush(self) -> None:
        """End the talking; what is on its way goes on."""
        self._stop.set()
        await asyncio.gather(*self._talkers)
        self._talkers.clear()
        self._stop.clear()

    async def quiet(self, within_s: float = 30.0) -> None:
        """No more talking; wait until everybody has everything."""
        await self.hush()
        await settle(self.clients, within_s)
        newest = {room: max(client.last.get(room, 0) for client in self.clients) for room in self.rooms}
        for reader in self.readers:
            await reader.holds(newest, within_s)

    async def give_up_waiting(self, within_s: float) -> None:
        """As `quiet`, of a server that may never deliver everything: after this time everything should have come all the same."""
        try:
            await self.quiet(within_s)
        except TimeoutError:
            for client in self.clients:
                client.quiet()

    async def crowd(self, *, talkers: int, guests: int, visits: int) -> None:
        """Have some talk in the hall while others come, go by themselves, and are removed."""
        hall = self.people.hall
        for client in self.clients[:talkers]:
            await client.command("room.join", room=hall)
            self.talk(client, [hall], pause_s=0.005)
        await asyncio.gather(*(self._visit(client, visits) for client in self.clients[talkers : talkers + guests]))

    async def _visit(self, client: RawClient, visits: int) -> None:
        hall = self.people.hall
        for visit in range(visits):
            await client.command("room.join", room=hall)
            await self.until(partial(self._hears, client, client.last.get(hall, 0) + 3))
            if visit % 2:
                await self.server.ask("member.remove", room=hall, user=client.user)
            else:
                await client.command("room.leave", room=hall)
            await self.until(lambda: hall not in client.rooms)

    def _hears(self, client: RawClient, seq: int) -> bool:
        return client.last.get(self.people.hall, 0) > seq

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait until something is so."""
        await eventually(condition, within_s, "the load goes on")

    async def acknowledges(self, more: int) -> None:
        """Wait until this many more messages are acknowledged."""
        goal = self.history.acknowledged + more
        await self.until(lambda: self.history.acknowledged >= goal)

    def forget_latencies(self) -> None:
        """Measure anew."""
        for client in self.clients:
            client.latencies.clear()

    def entries_seen(self) -> int:
        """Return how many entries clients received."""
        return sum(record.op in {"event", "shown"} for record in self.history.records())

    async def leave(self) -> None:
        """Disconnect everybody."""
        os.sched_setaffinity(0, _CORES)
        for talker in self._talkers:
            talker.cancel()
        await asyncio.gather(*self._talkers, return_exceptions=True)
        await asyncio.gather(*(each.stop() for each in self._everybody()))

    async def verdict(self) -> list[Violation]:
        """Disconnect everybody, stop the server, and have the history checked against the store."""
        await self.leave()
        if self.server.exit_status is None:
            await self.server.terminate(15)
        return checker.check(self.history.records(), checker.read_rows(self.server.database))

    def describe(self) -> str:
        """Return what is needed to look into a failure."""
        return f"FAULT_SEED={self.seed}\nhistory {self.history.path}\nserver {self.server.output}\n{self.server.tail()}"


def assert_none(violations: list[Violation]) -> None:
    """Nothing was broken."""
    assert not violations, checker.summary(violations)


@dataclass(frozen=True)
class Latency:
    """From a send to its acknowledgement, in seconds."""

    median: float
    p99: float

    @classmethod
    def of(cls, latencies: Sequence[float]) -> Latency:
        """Summarise."""
        assert len(latencies) >= 50, f"only {len(latencies)} measured"
        ordered = sorted(latencies)
        return cls(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)])

    def unchanged_from(self, control: Latency) -> bool:
        """At most 1.2 times the control's; what one turn of the kernel's scheduler can add is no difference."""
        return self.median <= 1.2 * control.median + 0.0003 and self.p99 <= 1.2 * control.p99 + 0.001

    def __str__(self) -> str:
        return f"p50 {self.median * 1000:.2f} ms, p99 {self.p99 * 1000:.2f} ms"


async def greedy(world: World, sockets: int, times: int) -> list[RawSocket]:
    """Return connections that have just asked for everything, this many times each: the dearest frames that there are."""
    frames = [{"op": "resume", "id": str(number), "rooms": dict.fromkeys(world.rooms, 0)} for number in range(times)]
    found = [await RawSocket.open(world.server.http_port, limit=2**20) for _ in range(sockets)]
    for number, each in enumerate(found):
        await each.authenticate(world.bot(10 + number).token)
        await each.flush(frame(json.dumps(frames).encode()))
    return found


async def measure(world: World, count: int) -> Latency:
    """Return the latency of this many answers from now on; 0 means those since it was last asked."""
    if count:
        world.forget_latencies()
    await world.until(lambda: sum(len(client.latencies) for client in world.clients) >= count, 60)
    return Latency.of([each for client in world.clients for each in client.latencies])
