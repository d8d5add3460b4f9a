"""What the measurements stand on: accounts and rooms, the servers' processes, the load client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from benchmarks.verification import Stored, in_sqlite, verify

from securechat.cli.output import note
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from securechat.errors import Shutdown
from securechat.server.config import ConfigManager
from securechat.server.datadir import DataDir
from securechat.server.wiring import Parts, build
from securechat.store.log import SqliteLog

HERE: Final = Path(__file__).parent
BODY_BYTES: Final = 200
HISTORY_ENTRIES: Final = 1_000_000
AT_REST_ENTRIES: Final = 200_000
PAIRS: Final = 100
BIG: Final = 500
ROOMS: Final = 10
ROOM: Final = 100
READERS: Final = 16
BYSTANDER: Final = "bystander"
"""Word of a server that nobody is connected to: on the servers' core."""
RAISED: Final[dict[str, Any]] = {
    "rates": {
        name: {"burst": 1e9, "per_s": 1e9}
        for name in ("message", "command", "room", "address", "connect.address", "connect.account", "handshake.address")
    },
    "max_connections": 20_000,
    "max_connections_address": 20_000,
    "max_connections_account": 20_000,
    "max_pending": 20_000,
    "max_pending_address": 20_000,
}
"""Limits raised for the run: one user sends and asks more than people do, and everybody comes from one address."""


@dataclass(frozen=True)
class Connection:
    """One connection of a job.

    Attributes:
        token: A bot's token; for the bare server a room id.
        room: Where it sends, or None.
        outstanding: How many messages it may have unacknowledged.
        place: Where there are several servers, those with neighbouring numbers go to different ones.
    """

    token: str
    room: str | None = None
    outstanding: int = 0
    place: int = 0


@dataclass
class Cores:
    """Where the two sides run.

    Attributes:
        server: Core of the server.
        load: Core of the load client and of this program; the same as `server` on a machine with one core.
    """

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """Take the first and the second core that this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1] if len(allowed) > 1 else allowed[0])


@dataclass
class World:
    """Accounts and rooms of a data folder.

    Attributes:
        pairs: Rooms of two, each `(room id, [tokens])`.
        big: The room of 500.
        tens: Ten rooms of 100.
        history: The room with a long history, where there is one.
        settings: Of its servers.
    """

    data: Path
    pairs: list[tuple[str, list[str]]] = field(default_factory=list)
    big: tuple[str, list[str]] = ("", [])
    tens: list[tuple[str, list[str]]] = field(default_factory=list)
    history: tuple[str, list[str]] = ("", [])
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        """Certificate of the server's own CA."""
        return DataDir(self.data).tls / "ca.crt"


def create_world(folder: Path, letters: str, **settings: Any) -> World:
    """Create what these measurements need: bots, rooms, and for `g` and `r` a long history.

    Args:
        folder: A new data folder.
        letters: Of the measurements.
        settings: Of the servers that will be measured: whether texts are sealed (`at_rest`), which database holds them.
    """
    return asyncio.run(_create_world(folder, letters, {"at_rest": "off", **settings}))


async def _create_world(folder: Path, letters: str, given: dict[str, Any]) -> World:
    database = {name: value for name, value in given.items() if name == "database_url"}
    settings = ConfigManager(None, {"data_dir": str(folder), **database}, {}).settings
    data = DataDir(folder)
    data.open()
    parts = await build(lambda: settings, data, lambda: "https://localhost")
    names = (f"load-{number}" for number in itertools.count(1))

    async def room_of(size: int, name: str) -> tuple[str, list[str]]:
        summary = await parts.dispatcher.perform(OPERATOR, c.RoomCreate(name=name), "local")
        tokens = []
        for _ in range(size):
            bot = await parts.dispatcher.perform(OPERATOR, c.BotCreate(username=next(names), rooms=[summary.id]), "local")
            tokens.append(bot.token)
        return summary.id, tokens

    world = World(folder, settings=given)
    try:
        await parts.storage.start(on=given["at_rest"] == "on")
        if set("ars") & set(letters):
            world.pairs = [await room_of(2, f"pair {number}") for number in range(PAIRS)]
        if set("bs") & set(letters):
            world.big = await room_of(BIG, "big")
        if set("bcdefs") & set(letters):
            world.tens = [await room_of(ROOM, f"room {number}") for number in range(ROOMS)]
        if set("gr") & set(letters):
            world.history = await room_of(READERS, "history")
        if "r" in letters:
            await _say_history(parts, world.history[0])
    finally:
        await parts.storage.stop()
        if parts.locks is not None:
            await parts.locks.leave()
        await parts.database.close()
        parts.passwords.close()
        data.close()
    if "g" in letters:
        _write_history(data.database, world.history[0])
    return world


async def _say_history(parts: Parts, room: str) -> None:
    """Append a history as the server does, sealed or not."""
    log = SqliteLog(parts.database, sealing=parts.sealing)
    head = await log.head("", room)
    users = [user.id for user, _ in await log.members(room, limit=1_000)]
    body = body_of("history")
    first = head.last_seq + 1 if head is not None else 1
    for begin in range(first, AT_REST_ENTRIES + 1, 2_000):
        entries = [
            Entry(
                type=EntryType.MESSAGE_SENT, room=room, seq=seq, at=1_700_000_000_000 + seq, user=users[seq % len(users)],
                device="dev_0000000000000000", cmid=f"h-{seq}", body=body,
            )
            for seq in range(begin, min(begin + 2_000, AT_REST_ENTRIES + 1))
        ]  # fmt: skip

        async def work(tx: LogTransaction, entries: list[Entry] = entries) -> None:
            await tx.load([room], [], [])
            for entry in entries:
                tx.append(entry)

        await log.commit(work)


def _write_history(path: Path, room: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = off")
        (newest,) = db.execute("SELECT max(seq) FROM entries WHERE room_id = ?", (room,)).fetchone()
        users = [row[0] for row in db.execute("SELECT user_id FROM members WHERE room_id = ?", (room,))]
        body = body_of("history")
        db.executemany(
            "INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, body)"
            " VALUES (?, ?, 'message.sent', ?, ?, ?, ?, ?)",
            (
                (room, seq, 1_700_000_000_000 + seq, users[seq % len(users)], "dev_0000000000000000", f"h-{seq}", body)
                for seq in range(newest + 1, HISTORY_ENTRIES + 1)
            ),
        )
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def body_of(cmid: str) -> str:
    """Return the body that the load client sends with a cmid."""
    return (f"{cmid}." * BODY_BYTES)[:BODY_BYTES]


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Target:
    """A server that is measured, or several that are one.

    Attributes:
        ports: With TLS; connections are spread over them by their places.
        pids: The servers' processes.
        ca: Whom its certificate is signed by.
        stored: How to read what it stores, or None where nothing is stored.
        name: In its certificate.
        beside: Word → another process that works for it, on the load's core.
        sources: From how many addresses connections come; 0 for one.
    """

    ports: tuple[int, ...]
    pids: tuple[int, ...]
    ca: Path
    stored: Stored | None
    name: str = "localhost"
    beside: Mapping[str, int] = field(default_factory=dict)
    sources: int = 0


@contextlib.contextmanager
def secure_chat(world: World, cores: Cores, scratch: Path) -> Iterator[Target]:
    """Run the real server, as its own process, on its core."""
    with serving(world.data, world.settings, cores, scratch) as (port, pid):
        yield Target((port,), (pid,), world.ca, in_sqlite(DataDir(world.data).database))


@contextlib.contextmanager
def serving(data: Path, more: Mapping[str, Any], cores: Cores, scratch: Path) -> Iterator[tuple[int, int]]:
    """Run the real server on a data folder, with further settings; give its port and its process."""
    config = scratch / f"{data.name}.json"
    quiet = {"log_level": "WARN", "log_file": False, "port": 0, "http_port": 0}
    config.write_bytes(msgspec.json.encode({**RAISED, **quiet, "session_layer": "preferred", **more}))
    command = [sys.executable, "-m", "securechat", "serve", "--config", str(config), "--data", str(data)]
    with _process(command, cores.server, scratch / f"{data.name}.log", r"https://localhost:(\d+)") as found:
        yield found


def pin(pid: int, core: int) -> None:
    """Have a process, all of its threads, run on a core from now on."""
    for thread in (Path("/proc") / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextlib.contextmanager
def bare(world: World, cores: Cores, scratch: Path) -> Iterator[Target]:
    """Run the bare server with the same certificate on the same core."""
    command = [sys.executable, str(HERE / "bare_server.py"), str(DataDir(world.data).tls)]
    with _process(command, cores.server, scratch / "bare.log", r"bare (\d+)") as (port, pid):
        yield Target((port,), (pid,), world.ca, None)


@contextlib.contextmanager
def _process(command: list[str], core: int, log: Path, announcement: str) -> Iterator[tuple[int, int]]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SECURECHAT_")}
    pin = partial(os.sched_setaffinity, 0, {core})
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environ, preexec_fn=pin)  # noqa: PLW1509 - one thread here
    try:
        deadline = time.monotonic() + 30
        while (found := re.search(announcement, log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Shutdown(f"A server did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield int(found[1]), process.pid
        if process.poll() is not None:
            raise Shutdown(f"A server ended by itself: {log.read_text()[-500:]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    lines = [line for line in log.read_text().splitlines() if re.search(r"WARN|ERROR|FATAL|Traceback", line)]
    for line in lines[:5]:
        note(f"    server: {line[:200]}")


# ── the load client ──────────────────────────────────────────────────────────────────────────────────────────────────


class Latency(msgspec.Struct):
    """Microseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


class Result(msgspec.Struct):
    """What the load client saw. Counts and CPU seconds are of the measured window, `total_…` and faults of the whole run.

    Attributes:
        own_cpu_s: Of the load client's process.
        server_cpu_s: Of the servers' processes, all threads, with the work of the network stack that they cause.
        beside_cpu_s: Of what works beside them, on the load's core; and of a bystander.
        server_core_s: How long the server's core worked, for whomever; `load_core_s` the load client's.
        latency_us: Of deliveries, answers or connections; `elsewhere_us` of deliveries on another port than that of the sender.
        added_us: Of each message, the mean of its deliveries elsewhere less the mean of those at the sender's port.
        storm_s: How long it took until those of a storm were back.
        storm_missing: How many were not.
        storm_retries: How often one was turned away and tried again.
        violations: What the comparison with the database found.
        checked: Acknowledged messages that were compared.
    """

    elapsed_s: float
    acked: int
    deliveries: int
    pages: int
    connects: int
    bytes_in: int
    own_cpu_s: float
    server_cpu_s: float
    beside_cpu_s: dict[str, float]
    server_core_s: float
    load_core_s: float
    rss_before_kib: int
    rss_after_kib: int
    latency_us: Latency
    elsewhere_us: Latency
    added_us: Latency
    storm_s: float
    storm_missing: int
    storm_retries: int
    total_acked: int
    total_deliveries: int
    signals: int
    errors: int
    gaps: int
    closed: int
    unanswered: int
    missing: int
    violations: list[str] = []
    checked: int = 0

    @property
    def strangers(self) -> float:
        """Per cent of a core that other programs took, on the core where they took more."""
        bystander = self.beside_cpu_s.get(BYSTANDER, 0.0)
        server = self.server_core_s - self.server_cpu_s - bystander
        load = self.load_core_s - self.own_cpu_s - sum(self.beside_cpu_s.values()) + bystander
        return max(0.0, 100 * max(server, load) / self.elapsed_s)

    @property
    def bystander_share(self) -> float:
        """Per cent of a core that a server took that nobody is connected to."""
        return 100 * self.beside_cpu_s.get(BYSTANDER, 0.0) / self.elapsed_s

    @property
    def faults(self) -> int:
        """Everything that must not be."""
        found = self.errors + self.gaps + self.closed + self.unanswered + self.missing + self.storm_missing
        return found + len(self.violations)


_runs: Final = itertools.count(1)


def drive(target: Target, cores: Cores, scratch: Path, mode: str, connections: Sequence[Connection], **more: object) -> Result:
    """Run the load client on its core, and compare what was acknowledged with what is stored.

    Args:
        target: The server.
        cores: Where to run.
        scratch: For the list of acknowledged messages.
        mode: See `load.c`.
        connections: All of them.
        more: Further lines of the job.

    Raises:
        Shutdown: The client could not do its work.
    """
    tag = f"r{next(_runs)}"
    acked = scratch / f"{tag}.acked"
    job = {
        "host": "127.0.0.1", "port": target.ports[0], "name": target.name, "ca": target.ca, "mode": mode, "tag": tag,
        "body": BODY_BYTES, "acked": acked, "sources": target.sources,
        "server_core": cores.server, "load_core": cores.load, **more,
    }  # fmt: skip
    lines = [f"{key} {value}" for key, value in job.items()]
    lines += [f"pid {pid}" for pid in target.pids] + [f"beside {word} {pid}" for word, pid in target.beside.items()]
    ports = target.ports
    lines += [f"conn {each.token} {each.room or '-'} {each.outstanding} {ports[each.place % len(ports)]}" for each in connections]
    client = subprocess.run(
        [str(HERE / "load" / "load")],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=partial(os.sched_setaffinity, 0, {cores.load}),
    )
    for line in client.stderr.splitlines()[:8]:
        note(f"    {line}")
    if client.returncode:
        raise Shutdown(f"The load client failed: {(client.stderr.strip().splitlines() or ['no reason given'])[0]}")
    result = msgspec.json.decode(client.stdout, type=Result)
    if target.stored is not None and mode in {"closed", "open"}:
        result.checked, result.violations = verify(target.stored(tag), acked, body_of)
    acked.unlink(missing_ok=True)
    return result
