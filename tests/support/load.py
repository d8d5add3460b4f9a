"""Load: clients that talk, repeat themselves, contradict themselves and read, until they are told to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from securechat.domain.entries import Entry
from securechat.sdk.backoff import MOST_S
from securechat.sdk.client import ChatClient
from securechat.sdk.following import Gap
from securechat.sdk.transport import OPEN_S
from support.history import History, digest
from support.raw_client import RawClient, Refused
from support.server_process import eventually

WORDS: Final = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")


def text(rng: random.Random) -> str:
    """Return a message body: mostly short, sometimes 2 KiB."""
    size = 2_000 if rng.random() < 0.03 else rng.randrange(5, 200)
    return (" ".join(rng.choices(WORDS, k=size // 5 + 1)))[:size] + f" {rng.getrandbits(64):x}"


def _remember(known: list[tuple[str, str, str]], what: tuple[str, str, str], done: asyncio.Future[int]) -> None:
    if not done.cancelled() and done.exception() is None:
        known.append(what)


async def talk(
    client: RawClient, rooms: Sequence[str], rng: random.Random, stop: asyncio.Event, *, window: int = 8, pause_s: float = 0.02
) -> None:
    """Send until told to stop: several at a time; now and then again, with another text, or a look at the newest page."""
    waiting: set[asyncio.Future[int]] = set()
    others: set[asyncio.Task[None]] = set()
    known: list[tuple[str, str, str]] = []
    while not stop.is_set():
        for _ in range(rng.randrange(1, 4)):
            room, body, cmid = rng.choice(rooms), text(rng), client.next_cmid()
            future = client.post(room, body, cmid)
            waiting.add(future)
            future.add_done_callback(waiting.discard)
            future.add_done_callback(partial(_remember, known, (room, cmid, body)))
        chance = rng.random()
        if known and chance < 0.15:
            room, cmid, body = rng.choice(known[-200:])
            work = client.repeat(room, cmid, body) if chance < 0.1 else client.conflict(room, cmid)
            others.add(asyncio.create_task(work))
        elif chance < 0.2:
            others.add(asyncio.create_task(client.fetch(rng.choice(rooms))))
        others = {task for task in others if not task.done()}
        while len(waiting) >= window and not stop.is_set():
            stopped = asyncio.ensure_future(stop.wait())
            either: list[asyncio.Future[Any]] = [stopped, *waiting]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        await asyncio.sleep(rng.uniform(0, 2 * pause_s))
    if others:
        await asyncio.wait(others, timeout=10)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def settle(clients: Sequence[RawClient], within_s: float = 30.0) -> None:
    """Wait until every send has its answer and every client holds the newest entry of its rooms, then say so in the history."""
    await caught_up(clients, within_s)
    for client in clients:
        client.quiet()


async def caught_up(clients: Sequence[RawClient], within_s: float = 30.0) -> None:
    """Wait until every send has its answer and every client holds the newest entry of its rooms."""
    async with asyncio.timeout(within_s):
        for client in clients:
            while client.unanswered:
                await asyncio.sleep(0.01)
        newest: dict[str, int] = {}
        for client in clients:
            await client.ready.wait()
            for room in client.rooms:
                if room not in newest:
                    try:
                        newest[room] = (await client.command("fetch", room=room, limit=1))["last_seq"]
                    except Refused:
                        continue
        for client in clients:
            while any(client.last.get(room, 0) < newest.get(room, 0) for room in client.rooms):
                await asyncio.sleep(0.01)


class LibraryReader:
    """The project's own client library, reading events: what it gives out goes into the history.

    Args:
        name: In the history.
        client: Not started yet.
        history: Where it writes.
    """

    def __init__(self, name: str, client: ChatClient, history: History) -> None:
        self.name = name
        self.client = client
        self.last: dict[str, int] = {}
        self.gaps = 0
        self._history = history
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and begin to read."""
        await self.client.start()
        self._task = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.client.close()

    async def holds(self, newest: dict[str, int], within_s: float = 30.0) -> None:
        """Wait until everything up to these was shown, then say so in the history.

        A client that found no server many times in a row pauses for up to a minute; what is missed counts from when it is back.
        """
        await eventually(lambda: self.client.connected or self._ended, MOST_S + OPEN_S, f"{self.name} is back")
        async with asyncio.timeout(within_s):
            while any(self.last.get(room, 0) < seq for room, seq in newest.items()):
                assert not self._ended, f"{self.name} reads no more: {self._task}"
                await asyncio.sleep(0.01)
        self._history.add(self.name, "quiet")

    @property
    def _ended(self) -> bool:
        return self._task is not None and self._task.done()

    async def _read(self) -> None:
        async for event in self.client.events():
            if isinstance(event, Entry):
                self.last[event.room] = event.seq
                self._history.add(
                    self.name, "shown", room=event.room, seq=event.seq, kind=event.type.value, user=event.user,
                    cmid=event.cmid or "", body_sha=digest(event.body), member=event.member or "",
                )  # fmt: skip
            elif isinstance(event, Gap):
                self.gaps += 1
                self._history.add(self.name, "gap", room=event.room, seq=event.after)
