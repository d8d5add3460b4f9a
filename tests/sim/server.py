"""A simulated server process: the real `Server` with its real parts, on a loop, a disk and a network of the simulation.

What is replaced stands here and nowhere else: sockets, TLS, log files, the garbage collector's tuning. Costly things whose result is
the same each time (reading an RSA key) are remembered; password hashes are made cheap.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import apsw

from securechat.auth.passwords import Passwords
from securechat.bus import redis as redis_module
from securechat.crypto.identity import IdentityKey
from securechat.domain.accounts import OPERATOR
from securechat.domain.commands import Command
from securechat.domain.limits import LIMITS
from securechat.domain.ports import LogStore
from securechat.errors import ChatError
from securechat.gateway import conversation as conversation_module
from securechat.gateway import message_queue
from securechat.gateway.listener import Listener
from securechat.server import listening as listening_module
from securechat.server import server as server_module
from securechat.server import wiring
from securechat.server.config import DEFAULT_RATES, ConfigManager
from securechat.server.server import Server
from securechat.server.tls import TLSContext
from securechat.server.wiring import Parts
from securechat.services import history as history_module
from securechat.services import room_log as room_log_module
from securechat.store import opening as opening_module
from securechat.store import sqlite as sqlite_module
from securechat.store.database import Database
from securechat.store.disk_thread import DiskThread
from securechat.store.sqlite import SqliteDatabase
from sim.disk import NAME, Disk, Life
from sim.loop import ProcessLoop, Stall, Timeline
from sim.network import REFUSED, Weather, Wire
from sim.shared import Shared, SimLinks, SimLocks
from sim.shared import replace_edges as replace_shared_edges

SETTINGS: Final[dict[str, Any]] = {
    "rates": {name: {"burst": 1_000_000, "per_s": 1_000_000} for name in DEFAULT_RATES},
    "max_pending_address": 500,
    "log_file": False,
    "http_port": 0,
    "public_url": "https://chat.example.org",
    "session_layer": "preferred",
}
HOST: Final = "chat.example.org"
BESIDE: Final[dict[str, Any]] = {
    "database_url": "postgresql://chat@database.example.org/chat",
    "redis_url": "redis://redis.example.org:6379",
    "bus_key": "0123456789abcdef0123456789abcdef",
}
"""What a server is told that has others beside it."""
STOP_S: Final = 10.0
"""A server that is asked to stop has ended after this time."""


class Journal(logging.Handler):
    """Lines of the log that a healthy server does not write."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        error = f" {record.exc_info[1]!r}" if record.exc_info else ""
        extra = getattr(record, "error", "") or getattr(record, "reason", "")
        self.lines.append(f"{record.name}: {record.getMessage()}{error} {extra}".rstrip())


JOURNAL: Final = Journal()


class _NoLogger:
    def __init__(self, **_settings: object) -> None:
        pass

    def start(self) -> None:
        pass

    stop = start


async def _listen(self: Listener, _host: str, port: int, _tls: object, **_how: object) -> int:
    _owner().door = self
    return port or 443


async def _listen_unix(_self: Listener, path: str) -> None:
    Path(path).touch()


def _stop_accepting(self: Listener) -> None:
    owner = _owner()
    if owner.door is self:
        owner.door = None


def _owner() -> SimServer:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ServerLoop)
    return loop.owner


class _Apsw:
    """The library, whose connections are on the simulated disk."""

    Connection = staticmethod(partial(apsw.Connection, vfs=NAME))

    def __getattr__(self, name: str) -> Any:
        return getattr(apsw, name)


async def _build(*args: Any) -> Parts:
    parts = await _real_build(*args)
    _owner().parts = parts
    return parts


_real_build: Final = wiring.build


async def _open_database(_url: str, path: Path, **how: Any) -> Database:
    return await opening_module.open_database("", _owner().database or path, **how)


def _open_log(*parts: Any) -> LogStore:
    shared, found = _owner().shared, opening_module.open_log(*parts)
    return found if shared is None else shared.adopt(found)


async def _locks(_settings: object) -> SimLocks | None:
    if _owner().shared is None:
        return None
    locks = SimLocks()
    await locks.enter()
    return locks


def _submit(thread: DiskThread, work: Callable[[], None]) -> asyncio.Future[BaseException | None]:
    """Have a simulated thread do it; what it raises is its result."""

    def outcome() -> BaseException | None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - as the thread does
            return error
        return None

    outcome.__name__ = work.__name__  # By which the loop knows how long it takes.
    return asyncio.get_running_loop().run_in_executor(thread, outcome)  # type: ignore[arg-type]  # a simulated loop's


def replace_edges() -> None:
    """Put the simulation in place of what the real server meets outside. Once per process."""
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger().addHandler(JOURNAL)
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_where: JOURNAL.lines.append(f"warning: {message}")
    changes: list[tuple[Any, str, Any]] = [
        (Listener, "listen", _listen),
        (Listener, "listen_unix", _listen_unix),
        (Listener, "stop_accepting", _stop_accepting),
        (sqlite_module, "apsw", _Apsw()),
        (DiskThread, "submit", _submit),
        (opening_module, "migrate", lambda *_: None),
        (TLSContext, "load", lambda *_: None),
        (IdentityKey, "load", staticmethod(cache(IdentityKey.load))),
        (server_module, "Logger", _NoLogger),
        (listening_module, "StaticFiles", lambda *_: None),
        (listening_module, "RestApp", lambda *_parts: SimpleNamespace(asgi=None)),  # Nobody here speaks HTTP but for the upgrade.
        (listening_module, "AdminApp", lambda *_parts, **_how: SimpleNamespace(asgi=None)),
        (server_module, "passkeys", SimpleNamespace(load=lambda: None)),
        (server_module, "gc", SimpleNamespace(collect=lambda: None, freeze=lambda: None, set_threshold=lambda *_counts: None)),
        (server_module, "resource", SimpleNamespace(setrlimit=lambda *_limits: None, RLIMIT_CORE=0)),
        (server_module, "build", _build),
        (wiring, "open_database", _open_database),
        (wiring, "open_log", _open_log),
        (wiring, "_locks", _locks),
        (redis_module, "Links", SimLinks),
    ]
    for owner, name, value in changes:
        setattr(owner, name, value)
    replace_shared_edges()
    Passwords.__init__.__kwdefaults__ = {"time_cost": 1, "memory_kib": 8}


def narrow(chance: random.Random) -> None:
    """Draw limits that are reached a hundred times as often as the real ones: what is rare is looked at, too."""
    waiting = chance.random() < 0.25
    changes: list[tuple[Any, str, Any]] = [
        (message_queue, "_BYTES_MAX", 6_000 if waiting else LIMITS.queue_bytes),
        (message_queue, "_BLOCKS_MAX", 8 if waiting else LIMITS.queue_blocks),
        (history_module, "CATCH_UP_PAGE", chance.choice([15, 15, 2])),
        (room_log_module, "BATCH_MAX", chance.choice([2_000, 2_000, 2])),
    ]
    for owner, name, value in changes:
        setattr(owner, name, value)


class ServerLoop(ProcessLoop):
    """The loop of a server."""

    owner: SimServer


class SimServer:
    """One server that is started, ended and started again on the same data folder.

    Args:
        timeline: Shared by all.
        disk: Where its files are.
        root: Its data folder.
        chance: For how long threads take.
        weather: Its network.
        shared: What it has in common with others; None for one that has no others.
        database: The file of the database, when it is not in the data folder.

    Attributes:
        door: What takes connections now, if anything.
        parts: Of the running server.
        commit_s: Seconds that a commit takes, at least and at most.
        starts: How often it was started.
        problems: What nobody caught, of all lives.
    """

    def __init__(
        self, timeline: Timeline, disk: Disk, root: Path, chance: random.Random, weather: Weather,
        shared: Shared | None = None, database: Path | None = None,
    ) -> None:  # fmt: skip
        self._timeline = timeline
        self.shared = shared
        self.database = database
        self._disk = disk
        self.root = root
        self._chance = chance
        self.weather = weather
        self.loop = ServerLoop(timeline)
        self.loop.dead = True
        self.life = Life()
        self.door: Listener | None = None
        self.parts: Parts | None = None
        self.commit_s = (0.0005, 0.003)
        self.offset = 0.0
        self.starts = 0
        self.problems: list[str] = []
        self.wires: dict[Wire, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._numbers = 0
        self._is_asked_to_stop = False
        """It may go on for a while: who is still starting stops after that."""

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        self._is_asked_to_stop = False
        self.life = self._disk.life = Life() if self.shared is None else self.shared.life
        self.loop = ServerLoop(self._timeline)
        self.loop.owner = self
        self.loop.offset = self.offset
        self.loop.takes = self._takes
        self.loop.problems = self.problems
        beside = {} if self.shared is None else BESIDE
        config = ConfigManager(None, {"data_dir": str(self.root), **SETTINGS, **beside}, {})
        self._task = self.loop.create_task(Server(config, lambda _lines: None).run(), name="server")

    @property
    def ready(self) -> bool:
        """Whether it takes connections."""
        return self.door is not None and not self.loop.dead

    @property
    def at_rest(self) -> bool:
        """Whether nothing is on its way to or from it, and it is done with everything that came."""
        if self._is_asked_to_stop or not self.ready or self.parts is None or any(wire.busy for wire in self.wires):
            return False
        if any(task.get_name() == "conversation" for task in self.loop.tasks):
            return False  # What somebody asked who is gone since may wait until their connection has caught up.
        return all(lane.running is None for lane in self.parts.room_log._lanes.values()) and not self.parts.dispatcher._tasks

    @property
    def ended(self) -> bool:
        """Whether the process is gone, by itself or by force."""
        return self.loop.dead or self._task is None or self._task.done()

    def jump(self, seconds: float) -> None:
        """Set its wall clock forward or back."""
        self.offset += seconds
        self.loop.offset = self.offset

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if not self.ended:
            self._is_asked_to_stop = True
            self.loop.signal(signal.SIGTERM)

    def reap(self) -> str:
        """Put away a process that ended by itself; return what it ended with, if not in good order."""
        error = self._task.exception() if self._task is not None and self._task.done() and not self._task.cancelled() else None
        self.kill(power=False, tear=False, silent=False)
        return "" if error is None else repr(error)

    def kill(self, *, power: bool, tear: bool, silent: bool) -> None:
        """End it at once.

        Args:
            power: What was not synced is lost.
            tear: Of what was not synced, some is on the disk.
            silent: Nobody is told that its connections are gone.
        """
        self._over(tear=self._chance if tear else None, keep=not power)
        for wire in self.wires:
            if silent:
                wire.deaf = True
            else:
                wire.cut()
        self.wires.clear()

    def _over(self, *, tear: random.Random | None, keep: bool) -> None:
        if self.loop.dead:
            return
        if self.shared is None:
            self.life.end(tear, keep=keep)
        loop = self.loop
        loop.kill()
        for task in [each for each in conversation_module._tasks if each.get_loop() is loop]:
            conversation_module._tasks.discard(task)
        if self.parts is not None and isinstance(self.parts.database, SqliteDatabase):
            database = self.parts.database
            for connection in (database._reader, database._checkpointer, database._writer):
                with suppress(apsw.Error):
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                    connection.close(force=True)
        if self.shared is not None:
            self.shared.ended(loop)
        self.door = self.parts = None
        (self.root / "lock").unlink(missing_ok=True)

    def _takes(self, function: Callable[..., Any]) -> Stall:
        low, high = self.commit_s if getattr(function, "__name__", "") in {"_commit", "_truncate"} else (0.0001, 0.002)
        whole = self._chance.uniform(low, high)
        if self._chance.random() < 0.03:
            whole *= 20
        part = self._chance.random()
        return whole * part, whole * (1 - part)

    # ── its network ──────────────────────────────────────────────────────────────────────────────────────────────────

    def dial(
        self, client: ProcessLoop, address: str, receive: Callable[[bytes, float], None], lost: Callable[[str], None]
    ) -> Wire:  # fmt: skip
        """Connect a client; `lost` hears `refused` if nobody is there."""
        self._numbers += 1
        wire = Wire(self.weather, self.loop, client, address, 1_024 + self._numbers, receive, lost)
        if not self.ready:
            client.call_later(self.weather.delay(), wire.fail, REFUSED)
        else:
            self.wires[wire] = None
            delay = self.weather.delay()
            wire.accepted_after(delay)
            self.loop.call_later(delay, self._accept, wire)
        return wire

    def _accept(self, wire: Wire) -> None:
        if self.door is None:
            wire.cut()
        elif not wire.over and not wire.deaf:
            wire.transport.begin(self.door._make())

    # ── its operator ─────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, command: Command, done: Callable[[Any], None], caller: ProcessLoop) -> bool:
        """Perform a command as the operator; `done` gets the reply or a `ChatError`, unless the server ends before."""
        if not self.ready or self.parts is None:
            return False
        dispatcher = self.parts.dispatcher

        async def perform() -> None:
            try:
                result = await dispatcher.perform(OPERATOR, command, "local")
            except ChatError as error:
                result = error
            caller.call_later(0.0005, done, result)

        self.loop.create_task(perform(), name="operator")
        return True
