"""What a deployment needs, computed from a run of `securechat bench --cluster`.

    python benchmarks/capacity.py [FILE…]           the tables of docs/explanation/capacity.md, from these runs
    python benchmarks/capacity.py FILE… --record    keep them as those that the page is made from

Costs are CPU time of a core like the measured one. What is unknown is assumed, and every assumption is a line of the first table.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

RECORDED: Final = Path(__file__).parent / "recorded.json"

SIZES: Final = (10_000, 1_000_000, 100_000_000)
BUSY: Final = 0.5
"""Of a core that is planned for: the rest is for peaks within a peak, and for a server that is lost."""
DIRECT: Final = "direct"
APART: Final = "a core each"


@dataclass(frozen=True)
class Assumptions:
    """How people behave at the busiest hour.

    Attributes:
        online: Share of all accounts.
        connections: Of each who is online: phone and laptop.
        messages: That each of them sends in an hour.
        listeners: Who are online and hear a message, counted as connections.
        changes: How often each comes or goes in an hour.
        rooms: That each is in.
        seen: Who are online in a room of theirs, on average: a change of presence is shown to them.
        logins: Of each in an hour.
        stored: Messages of each account in a day, whoever is online.
        days: That they are kept.
    """

    online: float = 0.2
    connections: float = 1.3
    messages: float = 12
    listeners: float = 20
    changes: float = 4
    rooms: float = 10
    seen: float = 10
    logins: float = 1
    stored: float = 20
    days: float = 730


WORDS: Final = {
    "online": "of all accounts are online at the busiest hour",
    "connections": "connections each, of those who are online",
    "messages": "messages an hour each sends",
    "listeners": "connections hear a message",
    "changes": "times an hour each comes or goes",
    "rooms": "rooms each is in",
    "seen": "people are online in such a room, and see who comes and goes",
    "logins": "logins an hour each",
    "stored": "messages a day of each account",
    "days": "days they are kept",
}


@dataclass(frozen=True)
class Costs:
    """What was measured: µs of CPU, unless said.

    Attributes:
        accept: A server, for a message that it accepts, with its two deliveries.
        accept_embedded: The same in the embedded mode, SQLite included.
        deliver: A server, for a delivery that is a write of its own: few people hear two messages at the same moment.
        postgresql: PostgreSQL, for a message.
        redis: Redis, for a message on the bus, for each server that hears it.
        hear: Another server, for a message on the bus that concerns nobody there.
        login: A server, for a connection with its handshake, log-in and `ready`.
        login_postgresql: PostgreSQL, for the same.
        connection_kib: Memory of a server for a connection.
        stored_bytes: In PostgreSQL, for a message with its indexes.
    """

    accept: float
    accept_embedded: float
    deliver: float
    postgresql: float
    redis: float
    hear: float
    login: float
    login_postgresql: float
    connection_kib: float
    stored_bytes: float


def costs_of(document: dict[str, Any]) -> Costs:
    """Take the costs from a run.

    Raises:
        ValueError: Something was not measured in it: (a), (b), (d) and (s) are needed.
    """

    def row(letter: str, servers: int, door: str = DIRECT, words: str = "") -> dict[str, Any]:
        for each in document["rows"]:
            if (each["letter"], each["servers"], each["door"]) == (letter, servers, door) and words in each["case"]:
                return dict(each)
        raise ValueError(f"The run has no ({letter}) with {servers} servers.")

    accepted, aside = row("a", 1), row("b", 2)
    storm = row("s", 1, words="back")
    stayed = storm["accepted_per_s"] * storm["elapsed_s"]
    per_bus_message = aside["accepted_per_bus_message"]

    def login(name: str, each: float) -> float:
        """Return µs that a storm took, without the messages of those who stayed."""
        return float((1e4 * storm[name] * storm["elapsed_s"] - stayed * each) / document["storm"])

    everybody = [each for each in document["rows"] if each["letter"] == "d" and each["servers"] == 1 and each["door"] == DIRECT]
    return Costs(
        accept=accepted["server_us_per_accepted"],
        accept_embedded=row("a", 1, "embedded")["server_us_per_accepted"],
        deliver=1_000 * row("d", 1, words="messages/s")["ms_per_1000_deliveries"] / 1_000,
        postgresql=accepted["postgresql_us_per_accepted"],
        redis=aside["redis_us_per_accepted"] * per_bus_message / 2,
        hear=1e4 * aside["bystander_cpu"] / (aside["accepted_per_s"] / per_bus_message),
        login=login("servers_cpu", accepted["server_us_per_accepted"]),
        login_postgresql=login("postgresql_cpu", accepted["postgresql_us_per_accepted"]),
        connection_kib=max(each["kib_per_connection"] for each in everybody),
        stored_bytes=document["stored_bytes_per_message"],
    )


@dataclass(frozen=True)
class Need:
    """What a deployment needs at its busiest hour. Rates are per second, CPU in cores that are fully busy.

    Attributes:
        users: Accounts.
        connections: Open.
        messages: Accepted.
        deliveries: Of messages.
        changes: Of presence.
        shown: Of those, to somebody.
        logins: With their handshakes.
        bus: Messages on the bus, from all servers.
        cpu: Of all servers, without what they hear of each other.
        servers: Processes, each with a core of which `BUSY` is planned for; 0 where no number is enough.
        hearing: Share of its core with which each of them hears the bus.
        memory_gb: Of all servers, for connections.
        redis_cpu: Of Redis.
        postgresql_cpu: Of PostgreSQL.
        stored_tb: When the oldest messages begin to go.
    """

    users: int
    connections: float
    messages: float
    deliveries: float
    changes: float
    shown: float
    logins: float
    bus: float
    cpu: float
    servers: int
    hearing: float
    memory_gb: float
    redis_cpu: float
    postgresql_cpu: float
    stored_tb: float

    @property
    def parts(self) -> int:
        """Into how many clusters it has to be cut, each with its own bus, so that hearing takes a quarter of a core at most."""
        return max(1, math.ceil(self.hearing / (BUSY / 2)))


def need_of(users: int, costs: Costs, how: Assumptions) -> Need:
    """Compute it."""
    online = users * how.online
    connections = online * how.connections
    messages = online * how.messages / 3_600
    deliveries = messages * how.listeners
    changes = online * how.changes / 3_600
    shown = changes * how.rooms * how.seen * how.connections
    logins = online * how.logins / 3_600
    bus = messages + changes
    cpu = (messages * costs.accept + (deliveries + shown) * costs.deliver + logins * costs.login) / 1e6
    hearing = bus * costs.hear / 1e6
    servers = math.ceil(cpu / (BUSY - hearing)) if hearing < BUSY else 0
    return Need(
        users, connections, messages, deliveries, changes, shown, logins, bus, cpu, servers, hearing,
        connections * costs.connection_kib * 1_024 / 1e9,
        bus * costs.redis * max(1, servers) / 1e6,
        (messages * costs.postgresql + logins * costs.login_postgresql) / 1e6,
        users * how.stored * how.days * costs.stored_bytes / 1e12,
    )  # fmt: skip


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def costs_table(document: dict[str, Any]) -> str:
    """Return the table of costs."""
    costs = costs_of(document)
    rows = [
        ("a message accepted, its two deliveries with it: a server on PostgreSQL", f"{costs.accept:.0f} µs", "a"),
        ("the same in the embedded mode, with SQLite", f"{costs.accept_embedded:.0f} µs", "a"),
        ("a delivery that is a write of its own", f"{costs.deliver:.0f} µs", "d"),
        ("a message in PostgreSQL", f"{costs.postgresql:.0f} µs", "a"),
        ("a message on the bus, in Redis", f"{costs.redis:.0f} µs for each server", "b"),
        ("a message on the bus, at a server where nobody hears the room", f"{costs.hear:.0f} µs", "b"),
        ("a connection with its handshake and log-in, at a server", f"{costs.login / 1_000:.1f} ms", "s"),
        ("the same, in PostgreSQL", f"{costs.login_postgresql / 1_000:.2f} ms", "s"),
        ("memory of a connection that hears and sends", f"{costs.connection_kib:.0f} KiB", "d"),
        ("a message of 200 bytes on PostgreSQL's disk, indexes with it", f"{costs.stored_bytes:.0f} bytes", ""),
    ]
    lines = ["| what | measured | by |", "|---|---|---|", *(f"| {what} | {cost} | {by} |" for what, cost, by in rows)]
    machine = document["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, PostgreSQL {machine['postgresql']}"
    return "\n".join(
        [*lines, "", f"From the run of {document['at'][:10]} ({machine['commit']}) on {where}, Redis {machine['redis']}."]
    )


def needs_table(document: dict[str, Any]) -> str:
    """Return the table of what is needed, with what was assumed."""
    costs, how = costs_of(document), Assumptions()
    needs = [need_of(users, costs, how) for users in SIZES]

    def line(what: str, cells: list[str]) -> str:
        return f"| {what} | " + " | ".join(cells) + " |"

    rows = [
        line("users", [f"{each.users:,}" for each in needs]),
        "|---|" + "---|" * len(needs),
        line("connections", [_rounded(each.connections) for each in needs]),
        line("messages/s", [_rounded(each.messages) for each in needs]),
        line("deliveries/s", [_rounded(each.deliveries) for each in needs]),
        line("changes of presence/s, and what they are shown", [f"{_rounded(n.changes)} → {_rounded(n.shown)}" for n in needs]),
        line("logins/s", [_rounded(each.logins) for each in needs]),
        line("busy cores, all servers, without the bus", [_rounded(each.cpu) for each in needs]),
        line("hearing the bus, each server, share of a core", [f"{_rounded(100 * each.hearing)} %" for each in needs]),
        line("server processes (half a core each)", [f"{n.servers:,}" if n.servers else "**none is enough**" for n in needs]),
        line("memory for connections, all servers", [f"{_rounded(each.memory_gb)} GB" for each in needs]),
        line("busy cores of Redis", [_rounded(n.redis_cpu) if n.servers else "—" for n in needs]),
        line("busy cores of PostgreSQL, all databases", [_rounded(each.postgresql_cpu) for each in needs]),
        line(f"texts on disk after {how.days:.0f} days, one copy", [f"{_rounded(each.stored_tb)} TB" for each in needs]),
        line("clusters with a bus of their own", [f"{each.parts:,}" for each in needs]),
    ]
    assumed = ", ".join(f"{value:g} {WORDS[name]}" for name, value in asdict(how).items())
    return "\n".join([f"Assumed: {assumed}.", "", *rows])


def ceiling(document: dict[str, Any]) -> str:
    """Return what one bus carries at most, in words."""
    costs, how = costs_of(document), Assumptions()
    each = need_of(1_000_000, costs, how)
    users = BUSY / 2 / each.hearing * each.users
    return (
        f"With these figures a quarter of a core hears {_rounded(BUSY / 2 * 1e6 / costs.hear)} messages/s on the bus: that is one"
        f" cluster of {_rounded(users)} users."
    )


def _rounded(value: float) -> str:
    """Return two digits of it, or three before the point."""
    if value >= 1_000:
        return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def gates_table(document: dict[str, Any]) -> str:
    """Return what had to be reached."""
    rows = [
        f"| {each['name']} | {each['figure']:.2f} | {each['sign']} {each['value']:g} | {'yes' if each['met'] else '**no**'} |"
        for each in document["gates"]
    ]
    return "\n".join(["| to reach | measured | | reached |", "|---|---|---|---|", *rows])


def measured_table(document: dict[str, Any]) -> str:
    """Return what was measured, of one, two and three servers."""
    lines = [
        "| | measurement | servers | embedded | direct | of embedded | HAProxy | of embedded |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    turn: dict[str, dict[str, Any]] = {}
    for row in document["rows"]:  # The embedded one comes first in each turn, and is one server whatever it is compared with.
        turn = turn if row["door"] != "embedded" else {}
        turn[row["door"]] = row
        if row["door"] != "embedded":
            groups[row["letter"], row["case"], row["servers"]] = turn
    for (letter, _, servers), doors in groups.items():
        for name in doors[DIRECT]["figures"]:
            cells = [_figure(doors["embedded"]["figures"][name])]
            for door in (DIRECT, "HAProxy"):
                found = doors[door]["figures"][name] if door in doors else None
                cells += (
                    ["", ""]
                    if found is None
                    else [
                        _figure(found),
                        f"{found['ratio']:.2f}" if found["value"] and doors["embedded"]["figures"][name]["value"] else "",
                    ]
                )
            lines.append(f"| {letter} | {name} | {servers} | " + " | ".join(cells) + " |")
            if APART in doors:
                lines.append(f"| | {APART}: {name} | {servers} | | {_figure(doors[APART]['figures'][name])} | | | |")
        if letter == "d":
            costs = {door: row["ms_per_1000_deliveries"] for door, row in doors.items()}
            cells = [f"{costs['embedded']:.3g} ms"]
            for door in (DIRECT, "HAProxy"):
                cells += [f"{costs[door]:.3g} ms", f"{costs[door] / costs['embedded']:.2f}"] if door in costs else ["", ""]
            lines.append(f"| | CPU of servers and Redis for 1,000 of them | {servers} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(found: dict[str, Any]) -> str:
    value = found["value"]
    return f"{value:,.0f} {found['unit']}" if value >= 100 else f"{value:.3g} {found['unit']}" if value else "—"


def tables(document: dict[str, Any]) -> dict[str, str]:
    """Return what stands on the page, by name."""
    return {
        "gates": gates_table(document), "measured": measured_table(document), "costs": costs_table(document),
        "needs": needs_table(document), "ceiling": ceiling(document),
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print the tables, or keep a run."""
    paths = [Path(each) for each in arguments if each != "--record"]
    document, *others = [json.loads(path.read_bytes()) for path in paths or [RECORDED]]
    for other in others:  # Each of some letters.
        document["rows"] += other["rows"]
        document["gates"] += other["gates"]
    if "--record" in arguments:
        document.pop("runs", None)
        RECORDED.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print("\n\n".join(tables(document).values()))


if __name__ == "__main__":
    main(sys.argv[1:])
