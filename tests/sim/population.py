"""Who and what is in the data folder that every run begins with. It is made by a simulated server, once per process."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.errors import ChatError
from securechat.server.datadir import DataDir
from securechat.store.migrate import migrate
from sim import chance
from sim.disk import Disk
from sim.loop import Deadlock, ProcessLoop, Timeline
from sim.network import Weather
from sim.server import SimServer
from sim.shared import Shared
from sim.story import Account
from support.checker import read_rows

CALM: Final = ((0.0005, 0.002), 65_536, 65_536, 0.0)
MEMBERS: Final = ("ana", "ben", "cleo", "dan")
"""Ana has two devices; Cleo and Dan are bots."""
OUTSIDER: Final = "eve"


@dataclass(frozen=True)
class Population:
    """What is in the folder.

    Attributes:
        root: The folder.
        rooms: `square` (public, all but the outsider), `den` (private: Ana, Ben and Cleo), `hall` (public, nobody), `corner` (the
            outsider and Dan).
        accounts: One for each device.
        tips: Room id → the newest `seq` in it.
        idle: Names of the tasks of a server that nobody is connected to, and how many of each.
        idle_beside: The same of one that has others beside it.
    """

    root: Path
    rooms: dict[str, str]
    accounts: dict[str, Account]
    tips: dict[str, int]
    idle: Counter[str]
    idle_beside: Counter[str]


class Failed(Exception):
    """The simulation itself does not work."""


def calm(seed: str) -> Weather:
    """Return a network without surprises."""
    latency, window, high, split = CALM
    return Weather(random.Random(seed), latency, window, high, split)


def populate(disk: Disk, root: Path) -> Population:
    """Make the folder."""
    chance.reseed("population")
    data = DataDir(root)
    data.open()
    migrate(data.database)
    data.close()
    timeline = Timeline()
    server = SimServer(timeline, disk, root, random.Random("population"), calm("population"))
    operator = ProcessLoop(timeline)
    server.start()
    wait(timeline, lambda: server.ready, server)

    def ask(command: c.Command) -> Any:
        found: list[Any] = []
        server.ask(command, found.append, operator)
        wait(timeline, lambda: bool(found), server)
        if isinstance(found[0], ChatError):
            raise Failed(f"{command}: {found[0]}")
        return found[0]

    users = {}
    accounts = {}
    for name, devices in {"ana": ["phone", "laptop"], "ben": ["phone"]}.items():
        users[name] = ask(c.UserCreate(username=name, password=Secret("a long pass phrase of " + name))).user.id
        for device in devices:
            made = ask(c.SessionCreate(username=name, password=Secret("a long pass phrase of " + name), device_name=device))
            accounts[f"{name}-{device}"] = Account(name, users[name], made.device, made.access_token)
    for name in ("cleo", "dan", OUTSIDER):
        bot = ask(c.BotCreate(username=name))
        users[name] = bot.user.id
        accounts[name] = Account(name, bot.user.id, "", bot.token)
    described: dict[str, tuple[Literal["public", "private"], tuple[str, ...]]] = {
        "square": ("public", MEMBERS), "den": ("private", MEMBERS[:3]), "hall": ("public", ()), "corner": ("private", ("dan", OUTSIDER)),
    }  # fmt: skip
    rooms = {
        name: ask(c.RoomCreate(name=name, kind=kind, members=[users[each] for each in members])).id
        for name, (kind, members) in described.items()
    }
    idle = _idle(timeline, server)
    shared = Shared(random.Random("population"))
    beside = SimServer(timeline, disk, root, random.Random("population"), calm("population"), shared, data.database)
    beside.start()
    wait(timeline, lambda: beside.ready, beside)
    idle_beside = _idle(timeline, beside)
    shared.life.end(None, keep=True)
    for each in sorted(data.audit.glob("*.checkpoint.json"))[:-1]:
        each.unlink()  # Each run would check every signature.
    tips: dict[str, int] = {}
    for row in read_rows(data.database):
        tips[row.room] = max(tips.get(row.room, 0), row.seq)
    return Population(root, rooms, accounts, tips, idle, idle_beside)


def _idle(timeline: Timeline, server: SimServer) -> Counter[str]:
    """Return the names of the tasks of a server that nobody asks anything, and stop it."""
    timeline.run(lambda: False, 5.0)
    found = Counter(task.get_name() for task in server.loop.tasks)
    server.ask_to_stop()
    wait(timeline, lambda: server.ended, server)
    if problem := server.reap():
        raise Failed(problem)
    return found


def wait(timeline: Timeline, until: Callable[[], bool], server: SimServer) -> None:
    """Run until something is so, which must not take a minute.

    Raises:
        Failed: It is not.
    """
    try:
        found = timeline.run(until, 60.0)
    except Deadlock:
        found = False
    if not found:
        raise Failed(f"the server does not work: {server.reap() if server.ended else server.problems}")
