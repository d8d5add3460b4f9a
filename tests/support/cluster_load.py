"""The base load of a cluster: who is there, in which rooms, and what they do, at a rate that does not wait for answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from support.load import WORDS
from support.raw_client import RawClient, Refused
from support.server_process import Bot, ServerProcess

FULL: Final = os.environ.get("FAULTS", "") == "full"
"""Whether each fault takes its whole time; else it is the short form of `make test`."""


@dataclass(frozen=True)
class Load:
    """How much there is of everything.

    Attributes:
        connections: Of people that talk and listen.
        rooms: Public ones, of 2 to 50 members; everybody is in the first one.
        per_s: Messages.
        edits: Share of messages that are edited soon after.
        visits: Joins and leaves, as a share of messages.
    """

    connections: int
    rooms: int
    per_s: float
    edits: float = 0.01
    visits: float = 0.02


OPERATIONS: Final = ("bot.rotate", "bot.revoke")
"""What the operator does to the clerk: its token is exchanged, and then its account is locked."""
BASE: Final = Load(200, 40, 60) if FULL else Load(40, 10, 40)
SOAK: Final = Load(60, 20, 20)


@dataclass(frozen=True)
class People:
    """Who is on a cluster.

    Attributes:
        rooms: The public rooms; everybody of `members` is in the first one.
        hall: Public; `members[:2]` are in it, and visitors come and go.
        outside: Where the outsiders are, and nobody else.
        members: Bot and its rooms.
        visitors: Members of no room.
        victims: Members of the first room, whose sessions are revoked.
        outsiders: Members of `outside` only.
        readers: Members of the first room, for the project's own client library.
        clerk: Member of no room, nobody's client: what the operator does all the time is done to it.
    """

    rooms: list[str]
    hall: str
    outside: str
    members: list[tuple[Bot, list[str]]]
    visitors: list[Bot]
    victims: list[Bot]
    outsiders: list[Bot]
    readers: list[Bot]
    clerk: Bot


async def populate_cluster(server: ServerProcess, load: Load, rng: random.Random) -> People:
    """Make rooms and bots by way of a running server."""

    async def room(name: str, kind: str = "public") -> str:
        return str((await server.ask("room.create", name=name, kind=kind))["id"])

    async def bot(name: str, rooms: Sequence[str]) -> Bot:
        made = await server.ask("bot.create", username=name, rooms=list(rooms))
        return Bot(name, made["user"]["id"], made["token"])

    rooms = [await room(f"room{number}") for number in range(load.rooms)]
    hall, outside = await room("hall"), await room("outside", "private")
    inside: list[list[str]] = [[rooms[0]] for _ in range(load.connections)]
    for each in rooms[1:]:
        for number in rng.sample(range(load.connections), min(2 + int(49 * rng.random() ** 3), load.connections // 2)):
            inside[number].append(each)
    for number in (0, 1):
        inside[number].append(hall)
    members = [(await bot(f"member{number}", mine), mine) for number, mine in enumerate(inside)]
    return People(
        rooms, hall, outside, members,
        visitors=[await bot(f"visitor{number}", []) for number in range(2)],
        victims=[await bot(f"victim{number}", rooms[:1]) for number in range(4)],
        outsiders=[await bot(f"outsider{number}", [outside]) for number in range(2)],
        readers=[await bot(f"reader{number}", rooms[:1]) for number in range(2)],
        clerk=await bot("clerk", []),
    )  # fmt: skip


def body(rng: random.Random, canary: str) -> str:
    """Return a text: 70 % of 20 to 300 bytes, 25 % of 1 to 4 KB, 5 % as long as may be; its room's canary is in it."""
    chance = rng.random()
    size = rng.randrange(20, 300) if chance < 0.7 else rng.randrange(1_000, 4_000) if chance < 0.95 else 15_000
    return f"{canary} {rng.getrandbits(64):x} " + " ".join(rng.choices(WORDS, k=size // 6))


def canary(room: str) -> str:
    """Return the word that is in every text of a room."""
    return f"canary-{room[-12:]}"


class Talk:
    """Has members talk, at a rate.

    Args:
        load: How much.
        people: Who there is.
        clients: The clients of `people.members`, in their order.
        visitors: Those of `people.visitors`.
        rng: Draws everything.
        operate: Has the operator do something to the clerk; gets the command, and its number.
    """

    def __init__(
        self, load: Load, people: People, clients: Sequence[RawClient], visitors: Sequence[RawClient], rng: random.Random,
        operate: Callable[[str, int], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._load = load
        self._people = people
        self._clients = clients
        self._visitors = visitors
        self._rng = rng
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._main: asyncio.Task[None] | None = None
        self._busy: set[str] = set()
        self._operate = operate
        self._operated = 0
        self.offered = 0

    def start(self) -> None:
        """Begin."""
        self._stop.clear()
        self._main = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Begin nothing new, and wait for what can be waited for."""
        self._stop.set()
        if self._main is not None:
            await self._main
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=15)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.time()
        while not self._stop.is_set():
            turn = max(turn + self._rng.expovariate(self._load.per_s), loop.time() - 1)
            if (wait_s := turn - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            self._act()

    def _act(self) -> None:
        number = self._rng.randrange(len(self._clients))
        client, rooms = self._clients[number], self._people.members[number][1]
        # The room with everybody in it would be nearly all of the deliveries.
        quiet_ones = rooms[1:] if len(rooms) > 1 and self._rng.random() < 0.95 else rooms
        room = self._rng.choice(quiet_ones)
        self.offered += 1
        sent = client.post(room, body(self._rng, canary(room)))
        chance = self._rng.random()
        if chance < self._load.edits:
            self._go(f"edit {client.name}", lambda: self._edit(client, room, sent))
        elif chance < self._load.edits + self._load.visits:
            visitor = self._rng.choice(self._visitors)
            self._go(visitor.name, lambda: self._visit(visitor))
        elif chance > 0.98:
            self._go(f"type {client.name}", lambda: client.act("typing.start", "typing", room))
        elif chance > 0.97:
            self._go(f"fetch {client.name}", lambda: client.fetch(room))
        elif chance > 0.96:
            self._operated += 1
            what = OPERATIONS[self._operated // 2 % len(OPERATIONS)], self._operated  # Each at every one of two servers.
            self._go("operate", lambda: self._operate(*what))

    def _go(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do one thing of a name at a time."""
        if name in self._busy:
            return
        self._busy.add(name)
        task = asyncio.ensure_future(self._do(name, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            with contextlib.suppress(Refused):
                await work()
        finally:
            self._busy.discard(name)

    async def _edit(self, client: RawClient, room: str, sent: asyncio.Future[int]) -> None:
        seq = await asyncio.shield(sent)
        await client.act("message.edit", "edit", room, seq=seq, body=body(self._rng, canary(room)))

    async def _visit(self, visitor: RawClient) -> None:
        hall = self._people.hall
        if hall in visitor.rooms:
            await visitor.act("room.leave", "leave", hall)
        else:
            await visitor.act("room.join", "join", hall)
