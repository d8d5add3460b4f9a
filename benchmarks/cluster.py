"""The measurements of `securechat bench --cluster`: several servers on PostgreSQL and Redis, against the embedded mode in turn.

Two cores carry all of it: the servers are on one, however many they are, and the load, PostgreSQL, Redis and HAProxy on the other.
So with more than one server, throughput says little, and what is compared is CPU time. What another server adds to a message is
measured with a core for each of two servers, too: on one core the second one waits until the first has written to its own people.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx2 as httpx
import msgspec
from benchmarks import world as w
from benchmarks.cases import Case, connections, number, rate, trouble, verdict
from benchmarks.cluster_table import ALONE, APART, BALANCED, DIRECT, DOORS, EMBEDDED, Run, gates_of, print_rows, rows_of
from benchmarks.machine import default_path, describe, filesystem
from benchmarks.verification import in_postgres, in_sqlite

from securechat.cli.output import note, say
from securechat.errors import Shutdown
from securechat.server.datadir import DataDir
from support.balancers import Balancer, Files
from support.postgres import running as postgres_running
from support.redis import one_node
from support.running import wait_until

LETTERS: Final = "adlsb"
SERVERS: Final = (1, 2, 3)
BESIDE: Final = 2
"""With so many servers (b) is measured: people are on one, and what the other one does about it is what counts."""
ROUNDS: Final = 3
"""Windows of what has to be reached, all doors in turn. Neighbours are compared: a minute later the machine is another one."""
SECONDS: Final = 2.5
LONG_S: Final = 8.0
"""Windows in which little is sent: shorter ones hold too little CPU time."""
LATENCY_S: Final = 25.0
"""Windows of which a p99 is taken: 500 messages. Of 160, as many as 8 s hold, it would be the second latest."""
SETTLE_S: Final = 0.8
WARMUP_S: Final = 0.5
STORM_S: Final = 8.0
"""Window of a storm: long enough for everybody to come back."""
LATENCY_RATE: Final = 20
"""Messages per second into rooms of 100: 2,000 deliveries."""
STEADY_RATE: Final = 50
"""5,000 deliveries."""
OTHERS_RATE: Final = 500
"""Messages per second of those who stay when a storm comes."""
BUS_RATE: Final = 1_000
"""Messages per second that mean nothing to the other server."""
SOURCES: Final = 250
"""Addresses that connections come from: the balancer spreads them by address."""


def run(only: str | None, seconds: float | None, json_path: Path | None) -> None:
    """Measure, print the table, write the JSON.

    Args:
        only: Letters of `adlsb`; None for all.
        seconds: Length of each measured window; None for the usual one.
        json_path: None for `benchmarks/results/cluster-<time>.json`.

    Raises:
        Shutdown: A letter is unknown, something failed, or what was measured was not right.
    """
    letters = "".join(dict.fromkeys((only or LETTERS).lower().replace(",", "")))
    unknown = set(letters) - set(LETTERS)
    if unknown:
        raise Shutdown(f"--only takes letters of {LETTERS} with --cluster, not {''.join(sorted(unknown))}.")
    seconds = seconds or SECONDS
    cores = w.Cores.choose()
    os.sched_setaffinity(0, {cores.load})
    began = time.time()
    machine = describe(cores)
    turns: list[dict[str, Run]] = []
    with tempfile.TemporaryDirectory(prefix="securechat-bench-") as name, contextlib.ExitStack() as stack:
        scratch = Path(name)
        machine["filesystem"] = filesystem(scratch)
        cluster = _Cluster(stack, scratch, cores, letters)
        machine["postgresql"], machine["redis"] = cluster.versions()
        for count in SERVERS:
            cluster.grow(count)
            for letter in letters if count == BESIDE else letters.replace("b", ""):
                for place in range(len(CASES[letter](cluster.world))):
                    rounds = ROUNDS * COMPARED[letter, place, count] if (letter, place, count) in COMPARED else 1
                    turns += [
                        {door: cluster.measure(letter, place, door, seconds) for door in _doors(letter, count)}
                        for _ in range(rounds)
                    ]
        stored = cluster.stored_bytes()
    rows, gates, runs = rows_of(turns), gates_of(turns), [each for turn in turns for each in turn.values()]
    print_rows(rows, gates, machine, seconds)
    say("")
    say(verdict([each.result for each in runs]))
    path = json_path or default_path(began, "cluster-")
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)), "took_s": round(time.time() - began, 1), "seconds": seconds,
        "machine": machine, "raised": w.RAISED, "rows": rows, "stored_bytes_per_message": stored, "storm": w.ROOMS * w.ROOM,
        "gates": [{**msgspec.to_builtins(each), "met": each.met} for each in gates], "runs": runs,
    }  # fmt: skip
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    say(f"figures in {path}   took {time.time() - began:.0f} s")
    if faults := sum(each.result.faults for each in runs):
        raise Shutdown(f"{faults} faults: these figures do not count.")


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Cluster:
    """The embedded server, and servers that become more.

    Args:
        stack: What is started is put on it, and ends with it.
        scratch: For files.
        cores: Where it runs.
        letters: What will be measured.

    Attributes:
        world, embedded_world: Accounts and rooms, of the servers and of the embedded one.
    """

    def __init__(self, stack: contextlib.ExitStack, scratch: Path, cores: w.Cores, letters: str) -> None:
        self._stack = stack
        self._scratch = scratch
        self._cores = cores
        self._postgres = stack.enter_context(postgres_running())
        self._redis = stack.enter_context(one_node())
        self._files = Files(scratch / "certificates")
        self._bus_key = secrets.token_hex(32)
        self._datas: list[Path] = []
        self._balancer: contextlib.ExitStack = stack.enter_context(contextlib.ExitStack())
        wanted = ("a" if set("abs") & set(letters) else "") + ("c" if set("dls") & set(letters) else "")
        self._database = self._postgres.new_database()
        url = self._postgres.url(self._database)
        note("creating accounts and rooms, in SQLite and in PostgreSQL")
        self.embedded_world = w.create_world(scratch / "embedded", wanted)
        self.world = w.create_world(scratch / "server-1", wanted, database_url=url)
        self._url = url
        with_tls = {"tls_cert": str(self._files.cert), "tls_key": str(self._files.key), "at_rest": "off"}
        (port, pid) = stack.enter_context(w.serving(self.embedded_world.data, with_tls, cores, scratch))
        stored = in_sqlite(DataDir(self.embedded_world.data).database)
        embedded = w.Target((port,), (pid,), self._files.ca, stored, sources=SOURCES)
        self._targets = {EMBEDDED: embedded, DIRECT: replace(embedded, ports=(), pids=(), stored=in_postgres(url))}

    def grow(self, count: int) -> None:
        """Have so many servers, and a balancer that knows them."""
        settings = {
            **self._files.settings("haproxy-passthrough"), "at_rest": "off", "database_url": self._url,
            "redis_url": self._redis.url, "bus_key": self._bus_key,
        }  # fmt: skip
        direct = self._targets[DIRECT]
        while len(self._datas) < count:
            data = self._scratch / f"server-{len(self._datas) + 1}"
            if self._datas:
                shutil.copytree(self._datas[0] / "keys", data / "keys")
            port, pid = self._stack.enter_context(w.serving(data, settings, self._cores, self._scratch))
            self._datas.append(data)
            direct = replace(direct, ports=(*direct.ports, port), pids=(*direct.pids, pid))
        beside = {"postgresql": self._postgres.pid, "redis": self._redis.pid}
        self._targets[DIRECT] = direct = replace(direct, beside=beside)
        self._balancer.close()
        balancer = self._balancer.enter_context(Balancer("haproxy-passthrough", self._files, direct.ports))
        self._targets[BALANCED] = replace(direct, ports=(balancer.port,), beside={**beside, "haproxy": balancer.pid})
        wait_until(
            lambda: all(self._asked(data, "bus_servers") == count for data in self._datas), "the servers hear each other", 20
        )
        note(f"{count} server{'s' * (count > 1)} on PostgreSQL and Redis")

    def measure(self, letter: str, place: int, door: str, seconds: float) -> Run:
        """Run the load client against one of the doors.

        Args:
            letter: Of the measurement.
            place: Of its case, among those of the letter.
            door: One of `DOORS`, `ALONE` or `APART`.
            seconds: Length of the window, where the case does not say another one.
        """
        case = CASES[letter](self.embedded_world if door == EMBEDDED else self.world)[place]
        before = self._bus(door)
        job = {"seconds": seconds, "settle": SETTLE_S, "warmup": WARMUP_S, **case.job}
        target = self._targets[DIRECT if door in {ALONE, APART} else door]
        if door == ALONE or (letter == "b" and door == DIRECT):
            beside = {**target.beside, w.BYSTANDER: target.pids[1]}
            target = replace(target, ports=target.ports[:1], pids=target.pids[:1], beside=beside)
        people = case.connections(False)  # noqa: FBT003 - by position
        with self._apart() if door == APART else contextlib.nullcontext():
            result = w.drive(target, self._cores, self._scratch, case.mode, people, **job)
        bus = {name: value - before[name] for name, value in self._bus(door).items()}
        taken = {name: (take(result), unit) for name, unit, take, _ in case.figures}
        found = Run(letter, case.figures[0][0], door, 1 if door == EMBEDDED else len(self._datas), len(people), result, taken, bus)
        shown = "   ".join(f"{name} {number(value)} {unit}" for name, (value, unit) in taken.items())
        cost = f"   {found.per_1000:.1f} ms of CPU for 1,000" if letter == "d" else ""
        note(f"  {found.servers} {door:<11} {letter}   {shown}{cost}{trouble(result)}")
        return found

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Have every second server on the load's core meanwhile."""
        moved = self._targets[DIRECT].pids[1::2]
        for pid in moved:
            w.pin(pid, self._cores.load)
        try:
            yield
        finally:
            for pid in moved:
                w.pin(pid, self._cores.server)

    def stored_bytes(self) -> float:
        """Return what a message takes in PostgreSQL, its indexes with it."""
        tables = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('entries') WHERE isleaf"
        return float(self._postgres.sql(f"SELECT ({tables}) / count(*) FROM entries", self._database))

    def versions(self) -> tuple[str, str]:
        """Return those of PostgreSQL and Redis."""
        found = re.search(r"redis_version:(\S+)", self._redis.ask("INFO", "server"))
        return self._postgres.sql("SHOW server_version").split()[0], found[1] if found else "unknown"

    def _bus(self, door: str) -> dict[str, float]:
        names = (
            "bus_messages_sent",
            "bus_bytes_sent",
            "bus_messages_dropped",
            "sequencer_entries_healed",
            "sequencer_entries_held",
        )
        if door == EMBEDDED:
            return {}
        texts = [_metrics(data) for data in self._datas]
        return {name: sum(_figure(text, name) for text in texts) for name in names} | {"at": time.time()}

    @staticmethod
    def _asked(data: Path, name: str) -> float:
        return _figure(_metrics(data), name)


def _metrics(data: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(DataDir(data).admin_socket)), timeout=20) as http:
        return http.get("http://admin/metrics").text


def _figure(text: str, name: str) -> float:
    found = re.search(rf"^securechat_{name} ([0-9.e+-]+)$", text, re.MULTILINE)
    if found is None:
        raise Shutdown(f"The server does not tell {name}.")
    return float(found[1])


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def _accepted(world: w.World) -> list[Case]:
    name = "accepted, 100 senders × 4 outstanding"
    return [Case("a", "closed", connections(world.pairs, 1, 4), [(name, "/s", rate(lambda result: result.acked), None)])]


def _delivered(world: w.World) -> list[Case]:
    deliveries = rate(lambda result: result.deliveries)
    name = "deliveries, 10 rooms of 100, 10 outstanding each"
    return [
        Case("d", "closed", connections(world.tens, 10, 1), [(name, "/s", deliveries, None)]),
        Case(
            "d", "open", connections(world.tens, w.ROOM, 1),
            [(f"deliveries, the same rooms, {STEADY_RATE} messages/s", "/s", deliveries, None)],
            {"rate": STEADY_RATE, "seconds": LONG_S},
        ),
    ]  # fmt: skip


def _latency(world: w.World) -> list[Case]:
    name = f"latency at {LATENCY_RATE * w.ROOM:,} deliveries/s, p99"
    return [
        Case(
            "l", "open", connections(world.tens, w.ROOM, 1),
            [
                (f"{name}: same server", "ms", lambda result: result.latency_us.p99 / 1000, None),
                ("another one", "ms", lambda result: result.elsewhere_us.p99 / 1000, None),
                ("added for a message, p99", "ms", lambda result: result.added_us.p99 / 1000, None),
            ],
            {"rate": LATENCY_RATE, "seconds": LATENCY_S},
        )
    ]  # fmt: skip


def _storm(world: w.World) -> list[Case]:
    storm = w.ROOMS * w.ROOM

    def everybody(is_bare: bool) -> list[w.Connection]:  # noqa: FBT001 - called by position only
        return connections(world.pairs, 1, 1)(is_bare) + connections(world.tens, 0, 0)(is_bare)

    return [
        Case(
            "s", "open", everybody,
            [
                (f"storm: {storm:,} clients back", "s", lambda result: result.storm_s, None),
                ("p99 of the others", "ms", _p99, None),
            ],
            {"rate": OTHERS_RATE, "storm": storm, "seconds": STORM_S},
        ),
        Case("s", "open", everybody, [("no storm: p99 of the others", "ms", _p99, None)], {"rate": OTHERS_RATE}),
    ]  # fmt: skip


def _bystander(world: w.World) -> list[Case]:
    return [
        Case(
            "b", "open", connections(world.pairs, 1, 1),
            [
                (f"{BUS_RATE:,} messages/s: p99", "ms", _p99, None),
                ("a server without these people: CPU", "%", lambda result: result.bystander_share, None),
            ],
            {"rate": BUS_RATE},
        )
    ]  # fmt: skip


def _doors(letter: str, count: int) -> tuple[str, ...]:
    if letter == "b":
        return EMBEDDED, DIRECT
    if count != BESIDE:
        return DOORS
    return {"d": (EMBEDDED, ALONE, DIRECT, BALANCED), "l": (EMBEDDED, APART, DIRECT, BALANCED)}.get(letter, DOORS)


def _p99(result: w.Result) -> float:
    return max(result.latency_us.p99, result.elsewhere_us.p99) / 1000


COMPARED: Final = {("a", 0, 1): 1, ("d", 0, BESIDE): 1, ("d", 1, BESIDE): 2, ("l", 0, BESIDE): 1}
"""(letter, place of the case, servers) of what has to be reached → how many times `ROUNDS`: three ratios of the same load scatter
by more than what they are above or below the limit."""
CASES: Final = {"a": _accepted, "d": _delivered, "l": _latency, "s": _storm, "b": _bystander}
