"""What the runs of several servers say: rows of a table, and what has to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import msgspec
from benchmarks import world as w
from benchmarks.cases import number, print_aligned, shares

from securechat import __version__
from securechat.cli.output import say

LEAST_ACCEPTED: Final = 0.6
MOST_CPU: Final = 1.25
MOST_ADDED_MS: Final = 5.0

EMBEDDED: Final = "embedded"
DIRECT: Final = "direct"
BALANCED: Final = "HAProxy"
ALONE: Final = "one of them"
"""Everybody is on one of the servers. The others do nothing, and are not counted."""
APART: Final = "a core each"
"""As `DIRECT`, but every second server is on the core of the load, PostgreSQL and Redis."""
DOORS: Final = (EMBEDDED, DIRECT, BALANCED)


class Run(msgspec.Struct):
    """One run of the load client.

    Attributes:
        letter: Of the measurement.
        case: Its name.
        door: `embedded`, `direct`, `HAProxy`, `one of them` or `a core each`.
        servers: How many there were.
        connections: How many there were.
        result: What was seen.
        figures: By name: what was taken from it, and its unit.
        bus: What the servers say they sent to each other, from before the first connection to after the last one.
    """

    letter: str
    case: str
    door: str
    servers: int
    connections: int
    result: w.Result
    figures: dict[str, tuple[float, str]]
    bus: dict[str, float] = {}

    def rate(self, count: int) -> float:
        """Return something that was counted, per second."""
        return count / self.result.elapsed_s

    @property
    def cluster_cpu_s(self) -> float:
        """CPU of all servers and Redis in the window."""
        return self.result.server_cpu_s + self.result.beside_cpu_s.get("redis", 0.0)

    @property
    def per_1000(self) -> float:
        """Milliseconds of CPU of all servers and Redis for 1,000 deliveries."""
        return 1e6 * self.cluster_cpu_s / max(1, self.result.deliveries)


@dataclass(frozen=True)
class Gate:
    """Something that has to be reached.

    Attributes:
        name: What.
        figure: What was measured.
        sign: `>=` or `<=`.
        value: What it has to be at least, or at most.
    """

    name: str
    figure: float
    sign: str
    value: float

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.figure >= self.value if self.sign == ">=" else self.figure <= self.value


def rows_of(turns: Sequence[Mapping[str, Run]]) -> list[dict[str, Any]]:
    """Return the rows of the table: of each measurement, number of servers and door, the medians of its rounds.

    Args:
        turns: Each of them the doors one after the other, the embedded one among them.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Run]]] = {}
    for turn in turns:
        groups.setdefault((turn[DIRECT].case, turn[DIRECT].servers), []).append(turn)
    return [_row(door, group) for group in groups.values() for door in group[0]]


def _row(door: str, turns: Sequence[Mapping[str, Run]]) -> dict[str, Any]:
    found = [turn[door] for turn in turns]
    first = found[0]

    def middle(take: Callable[[Run], float]) -> float:
        return median(map(take, found))

    def beside(word: str) -> float:
        return middle(lambda each: 100 * each.result.beside_cpu_s.get(word, 0.0) / each.result.elapsed_s)

    def ratio(name: str) -> float:
        return median(turn[door].figures[name][0] / (turn[EMBEDDED].figures[name][0] or 1) for turn in turns)

    return {
        "letter": first.letter, "case": first.case, "door": door, "servers": first.servers,
        "connections": first.connections, "accepted_per_s": middle(lambda each: each.rate(each.result.acked)),
        "figures": {
            name: {"value": median(each.figures[name][0] for each in found), "unit": unit, "ratio": ratio(name)}
            for name, (_, unit) in first.figures.items()
        },
        "servers_cpu": middle(lambda each: shares(each.result)[0]), "load_cpu": middle(lambda each: shares(each.result)[1]),
        "redis_cpu": beside("redis"), "postgresql_cpu": beside("postgresql"), "haproxy_cpu": beside("haproxy"),
        "bystander_cpu": beside(w.BYSTANDER),
        "server_us_per_accepted": middle(lambda each: 1e6 * each.result.server_cpu_s / max(1, each.result.acked)),
        "postgresql_us_per_accepted": middle(
            lambda each: 1e6 * each.result.beside_cpu_s.get("postgresql", 0.0) / max(1, each.result.acked)
        ),
        "redis_us_per_accepted": middle(lambda each: 1e6 * each.result.beside_cpu_s.get("redis", 0.0) / max(1, each.result.acked)),
        "kib_per_connection": middle(_kib_per_connection),
        "elapsed_s": middle(lambda each: each.result.elapsed_s),
        "ms_per_1000_deliveries": middle(lambda each: each.per_1000),
        "accepted_per_bus_message": middle(_per_bus_message),
        "bus_bytes_per_accepted": middle(lambda each: each.bus.get("bus_bytes_sent", 0.0) / max(1, each.result.total_acked)),
        "strangers": middle(lambda each: each.result.strangers),
    }  # fmt: skip


def _kib_per_connection(each: Run) -> float:
    """Return what the servers' memory grew by for each connection, in this run; later runs find it grown already."""
    return (each.result.rss_after_kib - each.result.rss_before_kib) / max(1, each.connections)


def _per_bus_message(each: Run) -> float:
    """Return how many accepted messages one message to the other servers carries; their signs of life are not counted."""
    if not each.bus:
        return 0.0
    beats = each.bus["at"] * each.servers
    return each.result.total_acked / max(1.0, each.bus["bus_messages_sent"] - beats)


def gates_of(turns: Sequence[Mapping[str, Run]]) -> list[Gate]:
    """Return what has to be reached, of what was measured."""
    gates = []
    ratios = [
        turn[DIRECT].rate(turn[DIRECT].result.acked) / turn[EMBEDDED].rate(turn[EMBEDDED].result.acked)
        for turn in turns
        if (turn[DIRECT].letter, turn[DIRECT].servers) == ("a", 1)
    ]
    if ratios:
        gates.append(Gate("accepted on PostgreSQL, of SQLite's", median(ratios), ">=", LEAST_ACCEPTED))
    for words, case in (("the same load", "messages/s"), ("saturated", "outstanding")):
        costs = [turn[DIRECT].per_1000 / turn[ALONE].per_1000 for turn in turns if ALONE in turn and case in turn[DIRECT].case]
        if costs:
            gates.append(
                Gate(f"CPU of servers and Redis for 1,000 deliveries, 2 servers to 1, {words}", median(costs), "<=", MOST_CPU)
            )
    # Of two servers on one core, the second can only write to its people when the first has written to its own: in a cluster they
    # are on two machines.
    added = [turn[APART].result.added_us.p99 / 1000 for turn in turns if APART in turn]
    if added:
        gates.append(Gate("what another server adds to a message, p99, ms", median(added), "<=", MOST_ADDED_MS))
    return gates


def print_rows(rows: Sequence[Mapping[str, Any]], gates: Sequence[Gate], machine: Mapping[str, Any], seconds: float) -> None:
    """Print the table, and what has to be reached."""
    head = [
        "", "measurement", "servers", "by", "figure", "unit", "of embedded", "servers CPU %", "Redis", "PostgreSQL", "HAProxy",
        "load", "ms CPU/1,000", "messages/bus message",
    ]  # fmt: skip
    lines = [head]
    for row in rows:
        for index, (name, figure) in enumerate(row["figures"].items()):
            rest = [
                f"{row['servers_cpu']:.0f}", f"{row['redis_cpu']:.0f}", f"{row['postgresql_cpu']:.0f}", f"{row['haproxy_cpu']:.0f}",
                f"{row['load_cpu']:.0f}{'?' if row['strangers'] > 10 else ''}", number(row["ms_per_1000_deliveries"]),
                number(row["accepted_per_bus_message"]) if row["accepted_per_bus_message"] else "",
            ]  # fmt: skip
            embedded = row["door"] == EMBEDDED
            lines.append([
                row["letter"], name, str(row["servers"]), row["door"], number(figure["value"]), figure["unit"],
                "" if embedded or not figure["ratio"] else f"{figure['ratio']:.2f}", *(rest if not index else [""] * len(rest)),
            ])  # fmt: skip
    where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"
    say(f"SecureChat {__version__} ({machine['commit']})   {where}")
    beside = f"load, PostgreSQL {machine['postgresql']}, Redis {machine['redis']} and HAProxy on core {machine['load_core']}"
    say(
        f"servers on core {machine['server_core']}, {beside}   TLS 1.3   windows of {seconds:g} s"
        f"   databases on {machine['filesystem']}, every commit synchronous"
    )
    say("")
    print_aligned(lines, left={0, 1, 3, 5})
    if any(row["strangers"] > 10 for row in rows):
        say("? other programs took more than 10 % of one of the two cores: measure again on a quiet machine")
    if gates:
        say("")
        print_aligned(
            [["to reach", "measured", "", "met"]]
            + [[each.name, f"{each.figure:.2f}", f"{each.sign} {each.value:g}", "yes" if each.met else "NO"] for each in gates],
            left={0},
        )
